"""Image i of a seed is a function of (seed, i): not of n, the batch or the labels of others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from undiffuse import Pipeline, images
from undiffuse.data.dataset import Part
from undiffuse.data.loader import Batches
from undiffuse.data.prepare import digits
from undiffuse.diffusion.samplers import SAMPLERS
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.pipeline import build, labels
from undiffuse.train import starting
from undiffuse.train.job import Training
from undiffuse.train.trainer import Trainer


@pytest.fixture(scope="module")
def pipe(tiny_pipe):
    return tiny_pipe


def levels(x: torch.Tensor) -> np.ndarray:
    return images.to_hwc(x).astype(int)


def agree(a: torch.Tensor, b: torch.Tensor) -> None:
    """The contract: at most 0.1 % of uint8 pixels differ, by one level."""
    gap = np.abs(levels(a) - levels(b))
    assert gap.max() <= 1
    assert (gap > 0).mean() <= 1e-3


def refused(words: str, kind=UsageError):
    return pytest.raises(kind, match=words)


# -- randomness and equality ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(pipe) -> torch.Tensor:
    return pipe.sample(n=64, seed=5, steps=50, sampler="ddim", batch_size=64)


def test_samples_are_float32_in_range_and_not_all_alike(whole):
    assert (whole.dtype, tuple(whole.shape)) == (torch.float32, (64, 1, 8, 8))
    assert whole.min() >= -1
    assert whole.max() <= 1
    assert whole.std(0).min() > 0


@pytest.mark.bare
@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_size_changes_next_to_nothing(pipe, whole, size):
    agree(pipe.sample(n=21, seed=5, steps=50, sampler="ddim", batch_size=size), whole[:21])


@pytest.mark.bare
def test_the_same_call_gives_the_same_bits(pipe, whole):
    torch.manual_seed(99)
    assert torch.equal(pipe.sample(n=64, seed=5, steps=50, sampler="ddim", batch_size=64), whole)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_a_part_is_the_tail_of_the_whole_bit_by_bit_where_blocks_align(pipe, sampler):
    whole = pipe.sample(n=20, seed=1, sampler=sampler, batch_size=5)
    assert torch.equal(pipe.sample(n=10, seed=1, start=10, sampler=sampler, batch_size=5), whole[10:])


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
@pytest.mark.parametrize("size", [7, 128])
def test_a_part_is_the_tail_of_the_whole(pipe, sampler, size):
    whole = pipe.sample(n=20, seed=1, sampler=sampler, batch_size=size)
    agree(pipe.sample(n=10, seed=1, start=10, sampler=sampler, batch_size=size), whole[10:])


def test_seeds_and_images_differ(pipe):
    one, two = pipe.sample(n=2, seed=1), pipe.sample(n=2, seed=2)
    assert not torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_the_label_never_touches_the_noise(pipe):
    """Nor do the labels of the neighbours: at the first step nothing but the guess differs."""
    first = [next(iter(pipe.frames(n=3, seed=4, label=label, clip=False))) for label in (None, "3", "8")]
    starts = [pipe.process.prior((3, 1, 8, 8), per_image(4, 3))] * 3
    for frame, start in zip(first, starts, strict=True):
        signal, sigma = (float(scale) for scale in pipe.process.scales(frame.t))
        signal_T, sigma_T = (float(scale) for scale in pipe.process.scales(50))
        eps = (frame.x - signal * frame.x0) / sigma
        torch.testing.assert_close(signal_T * frame.x0 + sigma_T * eps, start, rtol=1e-3, atol=1e-3)
    assert not torch.equal(first[1].x0, first[2].x0)


def per_image(seed: int, n: int):
    from undiffuse.rng import per_row

    return per_row(seed, "sample", rows=range(n))


def test_an_image_does_not_depend_on_the_labels_of_others(pipe):
    agree(pipe.sample(n=4, label=["1", "2", "3", "4"])[1:2], pipe.sample(n=1, start=1, label="2"))


def test_ancestral_noise_differs_from_image_to_image_and_step_to_step(pipe):
    deterministic = pipe.sample(n=4, seed=3, sampler="ddim")
    random = pipe.sample(n=4, seed=3, sampler="ancestral")
    assert (deterministic - random).abs().mean() > 0.01


def test_eta_0_is_the_default_and_eta_1_is_ancestral(pipe):
    def some(**changes):
        return pipe.configured(clip=True, **changes).sample(n=3, seed=3)

    assert torch.equal(some(eta=0.0), some())
    agree(some(eta=1.0), some(sampler="ancestral"))
    assert not torch.equal(some(eta=0.5), some())


def test_guidance_1_is_off_and_another_weight_is_not(pipe):
    plain = pipe.sample(n=3)
    assert torch.equal(pipe.sample(n=3, guidance=1.0), plain)
    assert not torch.equal(pipe.sample(n=3, guidance=3.0), plain)


# -- blocks and frames ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "start", "size"), [(1, 0, 1), (20, 0, 7), (5, 3, 4), (4, 4, 4), (3, 8, 100), (9, 1, 2)])
def test_blocks_are_cut_at_multiples_of_the_batch_size(pipe, n, start, size):
    blocks = [rows for rows, frame in pipe.stream(n, start=start, batch_size=size) if frame.t == 0]
    assert [row for rows in blocks for row in rows] == list(range(start, start + n))
    assert all(rows.start % size == 0 for rows in blocks[1:])
    assert all(len(rows) <= size for rows in blocks)
    frames = sum(1 for _ in pipe.stream(n, start=start, batch_size=size))
    assert frames == pipe.frame_count(n, start, size) == len(blocks) * 5


def test_counting_frames_of_very_many_images_takes_no_memory(pipe):
    assert pipe.frame_count(10**15, batch_size=10) == 5 * 10**14
    rows, _ = next(pipe.stream(10**15, start=10**12, batch_size=2))
    assert rows == range(10**12, 10**12 + 2)


def test_frames_fall_to_0_and_end_in_the_sample(pipe):
    frames = list(pipe.frames(n=2, seed=3, steps=4))
    assert [frame.t for frame in frames] == sorted({frame.t for frame in frames}, reverse=True)
    assert (len(frames), frames[-1].t) == (4, 0)
    agree(frames[-1].x, pipe.sample(n=2, seed=3, steps=4))


# -- labels ---------------------------------------------------------------------------------------------------------


def test_without_a_label_image_i_gets_class_i_mod_k(pipe):
    assert pipe.labels(range(8, 23)).tolist() == [i % 10 for i in range(8, 23)]


@pytest.fixture(scope="module")
def animals(pipe):
    """The same model with other names, one of which looks like an index."""
    names = ["Cat", "dog", "BIRD", "0", "Ünicorn", "e", "f", "g", "h", "i"]
    return Pipeline.of(pipe.config.replaced({"data.classes": names}), pipe.denoiser)


@pytest.mark.parametrize(
    ("label", "indices"),
    [
        ("cat", [0, 0, 0]),
        ("DOG", [1, 1, 1]),
        ("bird", [2, 2, 2]),
        ("ÜNICORN", [4, 4, 4]),
        (1, [1, 1, 1]),
        ("2", [2, 2, 2]),
        ("0", [3, 3, 3]),
        (["dog", 2, "cat"], [1, 2, 0]),
        (("h", "i"), [8, 9, 8]),
    ],
)
def test_labels_by_name_in_any_case_by_index_and_as_a_list(animals, label, indices):
    assert animals.labels(range(3), label).tolist() == indices


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("cow", "no class 'cow'"),
        ("dgo", "no class 'dgo'; did you mean 'dog'"),
        (10, "label 10 is out of range; this model has 10 classes, 0 to 9"),
        (-1, "label -1 is out of range"),
        ("99", "label 99 is out of range"),
        ("1.5", "no class '1.5'"),
        ("", "no class ''"),
        ([], "an empty list of labels"),
        (["cat", "cow"], "no class 'cow'"),
    ],
)
def test_wrong_labels(animals, label, words):
    with refused(words):
        animals.labels(range(3), label)


def test_a_model_without_classes_takes_no_label(pipe):
    bare = unconditional()
    assert bare.labels(range(3)) is None
    assert bare.sample(n=2).shape == (2, 1, 8, 8)
    with refused("this model has no classes; leave the label out"):
        bare.sample(n=2, label="3")
    with refused("guidance needs labels"):
        bare.sample(n=2, guidance=2.0)


def unconditional(**changes) -> Pipeline:
    config = tiny.config(data__shape=[1, 8, 8], data__classes=["a"], model__conditional=False, **changes)
    return Pipeline.of(config, build.denoiser(config))


def test_guidance_needs_a_model_trained_with_label_dropout(pipe):
    undropped = Pipeline.of(pipe.config.replaced({"train.label_dropout": 0.0}), pipe.denoiser)
    assert undropped.sample(n=1).isfinite().all()
    with refused("guidance needs a model trained with train.label_dropout above 0"):
        undropped.sample(n=1, guidance=2.0)
    with refused("label_dropout"):
        undropped.configured(guidance=2.0).check()


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"n": 0}, "n must be at least 1, got 0"),
        ({"n": -3}, "n must be at least 1"),
        ({"start": -1}, "start must be at least 0"),
        ({"batch_size": 0}, "batch size at least 1"),
        ({"batch_size": -4}, "batch size at least 1"),
        ({"steps": 0}, "greater than or equal to 1"),
        ({"steps": 51}, "T = 50"),
        ({"sampler": "dim"}, "unknown name 'dim'; did you mean 'ddim'"),
        ({"guidance": float("nan")}, "finite"),
        ({"guidance": float("inf")}, "finite"),
        ({"label": "ten"}, "no class 'ten'"),
    ],
)
def test_wrong_requests(pipe, call, words):
    with refused(words):
        pipe.sample(**{"n": 2, **call})


@pytest.mark.parametrize("changes", [{"eta": 1.5}, {"eta": -0.1}, {"spacing": "even"}, {"sampler": ""}, {"steps": 51}])
def test_check_finds_what_sampling_would(pipe, changes):
    pipe.check()
    with refused("."):
        pipe.configured(**changes).check()


def test_nan_is_an_error_and_not_a_picture(pipe):
    with refused("sampling gave NaN or infinity", UndiffuseError):
        pipe.sample(n=2, guidance=1e300)
    broken = unconditional()
    broken.denoiser.backbone.head.bias.data.fill_(float("nan"))
    with refused("sampling gave NaN or infinity", UndiffuseError):
        broken.sample(n=2)


@pytest.mark.parametrize("device", ["nonsense", "meta", "cuda:99", "cpu:x", ":"])
def test_a_device_that_cannot_be_used(tiny_run, device):
    if device.startswith("cuda") and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with refused("device"):
        Pipeline.load(tiny_run, device=device)


# -- in and out -----------------------------------------------------------------------------------------------------


def test_a_saved_model_is_the_same_model_bit_by_bit(pipe, tmp_path):
    changed = pipe.configured(steps=7, guidance=2.0)
    again = Pipeline.load(changed.save(tmp_path / "a model é"))
    assert again.config == changed.config
    for name, value in pipe.denoiser.backbone.state_dict().items():
        assert torch.equal(again.denoiser.backbone.state_dict()[name], value)
    assert torch.equal(again.sample(n=4, seed=2), changed.sample(n=4, seed=2))
    assert not list((tmp_path / "a model é").rglob("*.pt")) + list((tmp_path / "a model é").rglob("*.pkl"))


def test_saving_over_something_is_refused(pipe, tmp_path):
    (tmp_path / "x").write_text("mine")
    with refused("exists already"):
        pipe.save(tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_averaged_and_raw_weights_and_earlier_checkpoints(tiny_run):
    pictures = [
        Pipeline.load(tiny_run, **how).sample(n=2)
        for how in ({}, {"weights": "raw"}, {"checkpoint": "2"}, {"checkpoint": "last"}, {"weights": "ema"})
    ]
    assert torch.equal(pictures[0], pictures[3])
    assert torch.equal(pictures[0], pictures[4])
    assert not torch.equal(pictures[0], pictures[1])
    assert not torch.equal(pictures[0], pictures[2])


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"weights": "average"}, "weights are 'ema' or 'raw', not 'average'"),
        ({"checkpoint": "3"}, "no checkpoint '3'; there are 2, 4, 6"),
        ({"checkpoint": "best"}, "nobody knows its best checkpoint"),
    ],
)
def test_what_a_run_does_not_hold(tiny_run, how, words):
    with refused(words, UndiffuseError):
        Pipeline.load(tiny_run, **how)


def test_what_is_no_model(tmp_path):
    with refused("no model 'digit': give a run folder"):
        Pipeline.load("digit")
    with refused("not a run folder", UndiffuseError):
        Pipeline.load(tmp_path)


def test_a_pipeline_samples_in_evaluation_mode():
    noisy = unconditional(model__dropout=0.9)
    noisy.denoiser.backbone.head.weight.data.fill_(0.1)
    assert torch.equal(noisy.sample(n=2), noisy.sample(n=2))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 30, 46), (1, 8, 8), (3, 33, 17)])
@pytest.mark.parametrize("changes", [{}, {"model.resample": "residual"}, {"model.block": "convnext"}])
def test_any_size_trains_and_samples(shape, changes):
    """Real steps on real shapes: the loss falls, and images of that shape come out."""
    data = digits()
    height, width = shape[1:]
    pictures = F.interpolate(data.train.pictures[:64].float(), size=(height, width)).to(data.train.pictures.dtype)
    part = Part(pictures.expand(-1, shape[0], -1, -1), data.train.labels[:64], 17)
    small = {"model.multipliers": [1, 2], "data.shape": list(shape), "data.levels": 17, "train.steps": 12}
    config = build.resolved(tiny.config(), data).replaced(small | changes)
    trainer = Trainer(
        build.denoiser(config), starting.loss(config), Batches(part, 8, 0), config.train, build.num_classes(config)
    )
    losses = []
    for _ in trainer.run():
        losses.append(trainer.report().loss)
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    pipe = Pipeline.of(config, replace(trainer.denoiser, backbone=trainer.ema.backbone), "cpu")
    x = pipe.sample(n=3, steps=3)
    assert x.shape == (3, *shape)
    assert x.isfinite().all()


@pytest.mark.bare
@pytest.mark.parametrize("changes", [{}, {"diffusion.variance": "learned", "diffusion.loss": "hybrid"}])
@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_a_model_of_zero_terminal_snr_trains_samples_and_has_a_likelihood(tmp_path, changes, sampler):
    changes |= {"diffusion.prediction": "v", "diffusion.zero_terminal_snr": True, "sample.sampler": sampler}
    training = Training.start(tiny.config().replaced(changes), tmp_path / "run", "run")
    assert all(np.isfinite(report.loss) for report in training)
    pipe = Pipeline.load(tmp_path / "run")
    assert pipe.sample(n=2, steps=5).isfinite().all()
    bits = pipe.bound(digits().held_out.images()[:2])
    assert bits.total.isfinite().all() and (bits.prior == 0).all()


# -- promises ---------------------------------------------------------------------------------------------------------


@pytest.mark.bare
@pytest.mark.parametrize("name", SAMPLERS)
def test_samples_lie_within_the_range_whatever_the_sampler(name):
    pipe = Pipeline.load("digits")
    for steps, spacing in ((7, "uniform"), (7, "trailing"), (20, "log-snr")):
        x = pipe.configured(sampler=name, steps=steps, spacing=spacing).sample(8)
        assert x.abs().max() <= 1, (name, steps, spacing)


def test_a_network_of_ones_own_is_not_saved_as_one_that_loads(tiny_pipe, tmp_path):
    class Mine(torch.nn.Module):
        def forward(self, x, t, y=None):
            return 0 * x

    pipe = replace(tiny_pipe, denoiser=replace(tiny_pipe.denoiser, backbone=Mine()))
    with pytest.raises(UndiffuseError, match="a Mine is no network that a configuration describes"):
        pipe.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a, b", ["a, b"]),
        ("a, b,cat", ["a, b", "cat"]),
        ("cat,a, b", ["cat", "a, b"]),
        ("end ", ["end "]),
        (" cat , end ", ["cat", "end "]),
        ("0,1", ["0", "1"]),
        ("CAT", ["CAT"]),
        ("", []),
        (None, None),
        ("cat,", ["cat", ""]),
    ],
)
def test_class_names_may_hold_commas_and_spaces(text, wanted):
    assert labels.named_labels(text, ("a, b", "cat", "end ", "b")) == wanted
