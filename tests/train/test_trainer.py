"""Training is Ho et al. 2020, Algorithm 1, and survives numbers that are not finite."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import tiny
from undiffuse.config import Train
from undiffuse.data.loader import Batches
from undiffuse.data.prepare import digits
from undiffuse.errors import UndiffuseError
from undiffuse.files import checkpoint
from undiffuse.nn.layers import may_draw
from undiffuse.pipeline import build
from undiffuse.pipeline.build import average_name as name_of
from undiffuse.rng import per_row
from undiffuse.train import starting
from undiffuse.train.learning_rate import learning_rate
from undiffuse.train.memory import out_of_memory
from undiffuse.train.trainer import Trainer

DATA = digits()
CONFIG = build.resolved(tiny.config(), DATA)


def trainer(changes=None, **settings) -> Trainer:
    config = CONFIG.replaced({**(changes or {}), **{f"train.{name}": value for name, value in settings.items()}})
    return bare(config, build.denoiser(config))


def bare(config, denoiser) -> Trainer:
    parts = starting.loss(config), starting.batches(config, DATA), config.train
    return Trainer(denoiser, *parts, build.num_classes(config))


class Spoilt(Batches):
    """Batches that hold a NaN at some steps."""

    bad: frozenset[int] = frozenset()

    def batch(self, step, positions=slice(None)):
        x, y = super().batch(step, positions)
        return (x * float("nan") if step in self.bad else x), y


def spoilt(bad, changes=None, **settings) -> Trainer:
    made = trainer(changes, **settings)
    made.batches = Spoilt(DATA.train, 8, 0)
    object.__setattr__(made.batches, "bad", frozenset(bad))
    return made


def steps(made: Trainer, count: int) -> None:
    for _, _ in zip(range(count), made.run(), strict=False):
        pass


def weights(module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(a, b) -> bool:
    return all(torch.equal(one, other) for one, other in zip(a, b, strict=True))


# -- Algorithm 1 ----------------------------------------------------------------------------------------------------


def by_hand(network, prediction: str, step: int, label_dropout: float) -> torch.Tensor:
    """Algorithm 1's loss, from the definitions: x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps."""
    rows = Batches(DATA.train, 8, 0).rows(step)
    x0 = torch.from_numpy(DATA.train.pictures[DATA.train.rows[rows]].numpy() / 8 - 1).float()
    draws = per_row(0, "train", step, rows=range(8))
    y = torch.where(draws.uniform((8,)) < label_dropout, 10, DATA.train.labels[rows])
    t = draws.integers(1, 50, (8,))
    eps = draws.normal(x0.shape)
    f = np.cos((np.arange(51) / 50 + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha_bar = np.cumprod(np.append(1.0, 1 - np.minimum(1 - f[1:] / f[:-1], 0.999)))
    abar = torch.from_numpy(alpha_bar[t.numpy()]).float().reshape(-1, 1, 1, 1)
    signal, sigma = abar.sqrt(), (1 - abar).sqrt()
    target = {"eps": eps, "x0": x0, "v": signal * eps - sigma * x0}[prediction]
    return ((network(signal * x0 + sigma * eps, t.float(), y) - target) ** 2).mean()


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_two_steps_are_algorithm_1_written_by_hand(prediction):
    made = trainer({"diffusion.prediction": prediction}, label_dropout=0.3)
    network, shadow = copy.deepcopy(made.network).train(), copy.deepcopy(made.network)
    adam = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for step in range(2):
        loss = by_hand(network, prediction, step, 0.3)
        losses.append(loss.item())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        adam.step()
        d = min(0.9, (1 + step) / (10 + step))
        for kept, now in zip(shadow.parameters(), network.parameters(), strict=True):
            kept.data = d * kept.data + (1 - d) * now.data
    steps(made, 2)
    assert made.report().loss == pytest.approx(np.mean(losses), rel=1e-4)
    for found, wanted in ((made.network, network), (made.ema.backbone, shadow)):
        for a, b in zip(found.parameters(), wanted.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.bare
def test_the_loss_falls():
    made = trainer(steps=200)
    steps(made, 20)
    first = made.report().loss
    steps(made, 130)
    made.report()
    steps(made, 20)
    assert made.report().loss < 0.8 * first


def test_training_twice_gives_the_same_bits():
    one, two = trainer(), trainer()
    steps(one, 4)
    torch.manual_seed(123)
    steps(two, 4)
    assert same(weights(one.network), weights(two.network))


def test_another_seed_gives_another_network():
    one, two = trainer(), trainer({"seed": 1})
    assert not same(weights(one.network), weights(two.network))


@pytest.mark.parametrize("at", [1, 3, 5])
@pytest.mark.parametrize("changes", [{}, {"model.dropout": 0.5}, {"train.lr_decay": "cosine", "train.warmup": 4}])
def test_a_restored_trainer_goes_on_bit_by_bit(tmp_path, at, changes):
    from undiffuse.files import checkpoint

    whole, first, second = (trainer(changes) for _ in range(3))
    steps(whole, 6)
    steps(first, at)
    second.restore(checkpoint.save(tmp_path, first.snapshot()))
    steps(second, 6 - at)
    assert second.step == 6
    found, wanted = second.snapshot(), whole.snapshot()
    assert found.state == wanted.state
    for group, tensors in wanted.tensors.items():
        assert found.tensors[group].keys() == tensors.keys()
        assert all(torch.equal(found.tensors[group][name], value) for name, value in tensors.items())


# -- what is not finite ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
def test_a_batch_with_nan_is_skipped_and_counted_and_changes_nothing(loss):
    made = spoilt({1}, {"diffusion.loss": loss})
    steps(made, 1)
    before = weights(made.network), weights(made.ema.backbone), made.snapshot().tensors["optimizer"]
    before = copy.deepcopy(before)
    steps(made, 1)
    after = made.snapshot()
    assert same(weights(made.network), before[0])
    assert same(weights(made.ema.backbone), before[1])
    assert all(torch.equal(after.tensors["optimizer"][name], value) for name, value in before[2].items())
    assert after.state == {"step": 2, "skipped": 1, "streak": 1, "noise": "gaussian"}
    report = made.report()
    assert (report.skipped, report.step) == (1, 2)
    assert np.isfinite([report.loss, report.grad_norm]).all()
    steps(made, 1)
    assert (made.streak, made.skipped) == (0, 1)
    assert not same(weights(made.network), before[0])


def test_a_window_of_skips_alone_has_no_loss():
    made = spoilt({0, 1})
    steps(made, 2)
    report = made.report()
    assert (report.loss, report.loss_q, report.grad_norm) == (None, (None,) * 4, None)
    assert report.as_record()["loss_q3"] is None


def test_too_many_skips_in_a_row_stop_with_a_clear_message():
    made = spoilt(range(2, 99), max_skips=3)
    with pytest.raises(UndiffuseError, match=r"not finite 3 times in a row, up to step 5; .*train\.lr") as error:
        steps(made, 6)
    assert "\n" not in str(error.value)
    assert (made.step, made.skipped) == (4, 3)


def test_skips_that_are_not_in_a_row_do_not_stop():
    made = spoilt({0, 1, 3, 4}, max_skips=3)
    steps(made, 6)
    assert (made.step, made.skipped) == (6, 4)


def test_the_warm_up_of_the_average_counts_updates_not_steps():
    made = spoilt({0, 1})
    start = weights(made.network)
    steps(made, 3)
    now = weights(made.network)
    for kept, a, b in zip(made.ema.backbone.parameters(), start, now, strict=True):
        torch.testing.assert_close(kept, 0.1 * a + 0.9 * b)


# -- learning rate, labels, clipping, quarters ----------------------------------------------------------------------


def test_the_learning_rate_warms_up_in_equal_steps():
    settings = Train(steps=100, lr=1.0, warmup=3)
    assert [learning_rate(settings, step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert learning_rate(Train(steps=100, lr=0.5, warmup=0), 0) == 0.5


@pytest.mark.parametrize(("decay", "half"), [("none", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_the_learning_rate_falls_as_named(decay, half):
    settings = Train(steps=1000, lr=2.0, lr_decay=decay, warmup=0)
    rates = [learning_rate(settings, step) for step in range(1001)]
    assert rates[0] == pytest.approx(2)
    assert rates[500] == pytest.approx(2 * half)
    assert rates == sorted(rates, reverse=True)
    assert rates[1000] == pytest.approx(0 if decay != "none" else 2, abs=1e-12)
    if decay == "cosine":
        assert rates[250] == pytest.approx(1 + np.cos(np.pi / 4))


def test_the_learning_rate_of_the_settings_is_the_one_that_is_used():
    made = trainer(lr=0.5, warmup=1)
    for rate in (0.25, 0.5):
        steps(made, 1)
        assert [group["lr"] for group in made.optimizer.param_groups] == [rate]
        assert made.report().lr == rate


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_labels_are_dropped_at_the_given_rate(rate):
    made = trainer(label_dropout=rate)
    y = torch.arange(5000) % 10
    kept = made._drop_labels(y, per_row(0, "train", 3, rows=range(5000)))
    dropped = kept == 10
    assert torch.equal(kept[~dropped], y[~dropped])
    assert abs(dropped.double().mean() - rate) <= 4 * (rate * (1 - rate) / 5000) ** 0.5


def test_an_unconditional_network_sees_no_labels():
    made = trainer({"model.conditional": False})
    assert made._drop_labels(torch.zeros(3, dtype=torch.int64), per_row(0, rows=range(3))) is None
    steps(made, 1)
    assert made.skipped == 0


def gradient_norm(made: Trainer) -> float:
    return float(torch.cat([p.grad.flatten() for p in made.network.parameters()]).norm())


def test_gradients_are_clipped_to_the_given_norm():
    seen = []
    made = trainer(grad_clip=1e-3)
    made.optimizer.register_step_pre_hook(lambda *_: seen.append(gradient_norm(made)))
    steps(made, 2)
    assert seen == pytest.approx([1e-3, 1e-3], rel=1e-3)
    assert made.report().grad_norm > 0.01


def test_no_clipping_at_zero():
    made, seen = trainer(grad_clip=0.0), []
    made.optimizer.register_step_pre_hook(lambda *_: seen.append(gradient_norm(made)))
    steps(made, 1)
    assert seen[0] == pytest.approx(made.report().grad_norm, rel=1e-5)


def test_quarters_of_t_add_up_to_the_whole():
    made = trainer({"train.batch_size": 64})
    window = made._window
    t = np.array([1, 12, 13, 25, 26, 37, 38, 50])
    window.add(np.arange(8.0), np.ones(8), t / 50, 1.0)
    np.testing.assert_array_equal(window.sums[0], [28, 1, 5, 9, 13])
    np.testing.assert_array_equal(window.sums[1], [8, 2, 2, 2, 2])
    steps(made, 3)
    sums = made._window.sums
    assert sums[0, 0] == pytest.approx(sums[0, 1:].sum())
    assert sums[1, 0] == sums[1, 1:].sum() == 8 + 3 * 64


def test_quarters_without_a_t_have_no_loss():
    made = trainer()
    made._window.add(np.array([2.0]), np.array([1.0]), np.array([0.9]), 1.0)
    assert made.report().loss_q == (None, None, None, 2.0)


def test_a_rare_weight_does_not_sway_the_loss():
    """t = 13..50 of 50 evenly, 1..12, whose loss is 0, never: weights 1 / (50 p) = 38 / 50, all below 1."""
    made = trainer()
    t = np.arange(13, 51)
    made._window.add(np.full(38, 2.0), np.full(38, 38 / 50), t / 50, 1.0)
    report = made.report()
    assert report.loss == pytest.approx(2.0 * 38 / 50)
    assert report.loss_q[0] is None and report.loss_q[1:] == pytest.approx((2.0, 2.0, 2.0))


def test_a_record_has_the_contracts_keys():
    made = trainer()
    steps(made, 2)
    record = made.report().as_record()
    assert next(iter(record)) == "step"
    assert set(record) >= {"step", "loss", *(f"loss_q{i}" for i in range(1, 5)), "grad_norm", "lr", "images_per_s"}
    assert record["images_per_s"] > 0


@pytest.mark.parametrize(("dropout", "touched"), [(0.0, False), (0.1, True)])
def test_the_users_own_draws_go_on_unless_the_network_draws(dropout, touched):
    made = trainer({"model.dropout": dropout})
    torch.manual_seed(1)
    before = torch.get_rng_state()
    steps(made, 2)
    assert torch.equal(torch.get_rng_state(), before) is not touched


@pytest.mark.parametrize("drawing", [torch.nn.RReLU(), torch.nn.Dropout(0.1), type("Mine", (torch.nn.Module,), {})()])
def test_a_module_that_may_draw_is_seeded(drawing):
    assert may_draw(torch.nn.Sequential(torch.nn.Linear(1, 1), drawing))
    assert not may_draw(torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.0)))


def test_only_a_module_can_be_trained():
    denoiser = replace(build.denoiser(CONFIG), backbone=lambda x, t, y=None: x)
    with pytest.raises(UndiffuseError, match=r"only a torch\.nn\.Module can be trained"):
        bare(CONFIG, denoiser)


# -- parts, memory, half precision -----------------------------------------------------------------------------------


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_in_parts_the_gradient_is_that_of_the_whole(micro):
    whole, parts = trainer(), trainer(micro_batch=micro)
    for made in (whole, parts):
        made._gradients()
    for a, b in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    for made in (whole, parts):
        made.optimizer.zero_grad()
        steps(made, 3)
    assert parts.report().loss == pytest.approx(whole.report().loss, rel=1e-4)


def test_out_of_memory_is_answered_with_smaller_parts():
    made, wanted, asked = trainer(), trainer(micro_batch=2), []
    real = made._losses

    def narrow(rows):
        asked.append(len(rows))
        if len(rows) > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(rows)

    made._losses = narrow
    steps(made, 2)
    steps(wanted, 2)
    assert asked == [8, 4, *[2] * 8]
    assert same(weights(made.network), weights(wanted.network))
    assert made.report().as_record()["micro_batch"] == 2
    assert made.snapshot().state["micro_batch"] == 2


@pytest.mark.parametrize(("said", "size"), [([3], 3), ([3, 2], 2)])
def test_parts_go_on_as_small_as_this_process_had_them(tmp_path, said, size):
    """Others may have run out of memory where this one did not; a run on another number takes the smallest."""
    made, again = trainer(micro_batch=3), trainer()
    state = made.snapshot().state | {"micro_batch": min(said), "micro_batches": said}
    again.restore(checkpoint.save(tmp_path, checkpoint.Snapshot(made.snapshot().tensors, state)))
    assert again.micro == size


@pytest.mark.bare
def test_out_of_memory_with_one_picture_ends_in_one_line():
    made = trainer()

    def narrow(rows):
        raise MemoryError

    made._losses = narrow
    with pytest.raises(UndiffuseError, match="out of memory with one picture at a time; take a smaller network"):
        steps(made, 1)


@pytest.mark.parametrize("said", ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"])
def test_a_full_gpu_has_other_words_for_it(said):
    assert out_of_memory(RuntimeError(said))


def test_another_runtime_error_is_no_lack_of_memory():
    made = trainer()

    def wrong(rows):
        raise RuntimeError("size mismatch")

    made._losses = wrong
    with pytest.raises(RuntimeError, match="size mismatch"):
        steps(made, 1)


def overflowing(made: Trainer, at: set[int]) -> Trainer:
    """Gradients that overflow at some steps, whatever the loss."""
    real = made.team.average_gradients

    def spoil(parameters):
        real(parameters)
        if made.step in at:
            parameters[0].grad.fill_(float("inf"))

    made.team.average_gradients = spoil
    return made


def test_an_overflow_of_fp16_halves_the_scale_and_changes_nothing_else():
    made = overflowing(trainer({"train.precision": "fp16"}), {1})
    steps(made, 1)
    before = weights(made.network), weights(made.ema.backbone)
    steps(made, 1)
    assert same(weights(made.network), before[0]) and same(weights(made.ema.backbone), before[1])
    assert (made.scale.value, made.scale.overflows, made.skipped) == (2.0**15, 1, 0)
    steps(made, 1)
    assert not same(weights(made.network), before[0])
    assert made.report().as_record()["overflows"] == 1


@pytest.mark.bare
def test_a_scale_that_falls_without_end_stops_with_a_clear_message():
    made = overflowing(trainer({"train.precision": "fp16"}, steps=99), set(range(99)))
    with pytest.raises(UndiffuseError, match=r"overflow whatever the loss scale, at step 17; .*bf16 or float32"):
        steps(made, 30)


def test_the_scale_doubles_after_two_thousand_good_updates_and_is_saved(tmp_path):
    from undiffuse.files import checkpoint

    made = trainer({"train.precision": "fp16"})
    made.scale.good = 1998
    steps(made, 1)
    again = trainer({"train.precision": "fp16"})
    again.restore(checkpoint.save(tmp_path, made.snapshot()))
    assert again.scale == made.scale
    steps(again, 1)
    assert (again.scale.value, again.scale.good) == (2.0**17, 0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_what_float32_does(precision):
    half, full = trainer({"train.precision": precision}), trainer()
    steps(half, 5)
    steps(full, 5)
    assert half.report().loss == pytest.approx(full.report().loss, rel=0.02)
    assert all(p.dtype == torch.float32 for p in half.parameters)


def test_a_nan_in_a_gradient_alone_is_skipped():
    made = trainer()
    real = made.team.average_gradients

    def spoil(parameters):
        real(parameters)
        parameters[0].grad.view(-1)[0] = float("nan")

    made.team.average_gradients = spoil
    before = weights(made.network), weights(made.ema.backbone)
    steps(made, 1)
    assert made.skipped == 1
    assert same(weights(made.network), before[0]) and same(weights(made.ema.backbone), before[1])


@pytest.mark.parametrize(
    ("decay", "wanted"), [("cooldown", [1, 1, 1, 0.5, 0]), ("inverse_sqrt", [1, 0.632, 0.447, 0.333, 0.316])]
)
def test_further_ways_for_the_learning_rate_to_fall(decay, wanted):
    settings = Train(steps=1000, lr=1.0, lr_decay=decay, warmup=100 if decay == "inverse_sqrt" else 0)
    assert [learning_rate(settings, step) for step in (100, 250, 500, 900, 1000)] == pytest.approx(wanted, abs=1e-3)


def test_averages_of_nearly_equal_decays_have_a_file_each():
    decays = (0.9, 0.12345678, 0.1234567, 0.99999991)
    assert [name_of(decays, i) for i in range(4)] == ["ema", "ema-0.12345678", "ema-0.1234567", "ema-0.99999991"]
