"""Parity with diffusers, an independent implementation: network, gradients, folders, pipelines."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from undiffuse.cli import main
from undiffuse.config import Config
from undiffuse.errors import UndiffuseError
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.diffusers import convert
from undiffuse.pipeline.diffusers.convert import save_diffusers
from undiffuse.rng import fold

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    diffusers = pytest.importorskip("diffusers")

PAPER = {  # google/ddpm-cifar10-32's fields, but for the widths
    "sample_size": 16,
    "block_out_channels": (32, 64, 64, 64),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
HABIT = {  # what UNet2DModel does when nothing is said
    "sample_size": (16, 8),
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 16,
}
SHIFTED = HABIT | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 16, "num_class_embeds": 4}
ADM = SHIFTED | {  # Dhariwal & Nichol 2021: sizes change in residual blocks
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "attention_head_dim": 16,
}
KINDS = {"paper": PAPER, "habit": HABIT, "scale-shift, classes": SHIFTED, "ADM": ADM}
DOUBLED = HABIT | {"out_channels": 2}  # a variance beside the channel


def theirs(fields: dict) -> torch.nn.Module:
    torch.manual_seed(0)  # the same weights, whatever ran before
    model = diffusers.UNet2DModel(**fields)
    for place, parameter in enumerate(model.parameters()):
        parameter.data += 0.05 * fold(0, "weights", place).normal(tuple(parameter.shape))
    return model.eval()


def saved(path, model, **scheduler):
    """A folder as diffusers itself writes it."""
    diffusers.DDPMPipeline(model, diffusers.DDPMScheduler(**scheduler)).save_pretrained(path)
    return path


def inputs(model, dtype):
    size = model.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    x = fold(1, "x").normal((3, model.config.in_channels, height, width)).to(dtype)
    y = torch.tensor([0, 3, 1]) if model.config.num_class_embeds else None
    return x, torch.tensor([1.0, 40.0, 1000.0]), y


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_network_and_its_gradients_are_theirs_at_t_minus_1(tmp_path, kind, dtype):
    model = theirs(KINDS[kind])
    ours = Pipeline.load(saved(tmp_path / "m", model)).denoiser.backbone.to(dtype)
    model = model.to(dtype)
    x, t, y = inputs(model, dtype)
    wanted, found = model(x, t - 1, class_labels=y).sample, ours(x, t, y)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    assert (found - wanted).norm() <= tolerance * wanted.norm()
    gradients = []
    for network, out in ((model, wanted), (ours, found)):
        out.square().mean().backward()
        gradients.append(sum(float(p.grad.double().square().sum()) for p in network.parameters() if p.grad is not None))
    assert gradients[1] == pytest.approx(gradients[0], rel=1e-4)


@pytest.mark.slow
def test_the_published_cifar10_network_is_theirs_at_full_size(tmp_path):
    """35.7 M parameters as in google/ddpm-cifar10-32: float64 to 1e-10, float32 to 1e-5, gradients to 1e-4."""
    model = theirs(PAPER | {"sample_size": 32, "block_out_channels": (128, 256, 256, 256)})
    ours = Pipeline.load(saved(tmp_path / "m", model)).denoiser.backbone
    assert sum(p.numel() for p in ours.parameters()) == 35_746_307
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        model, ours = model.to(dtype), ours.to(dtype)
        x, t, _ = inputs(model, dtype)
        wanted, found = model(x, t - 1).sample, ours(x, t)
        assert (found - wanted).norm() <= tolerance * wanted.norm()
    wanted.square().mean().backward()
    found.square().mean().backward()
    assert ours.stem.weight.grad.allclose(model.conv_in.weight.grad, rtol=1e-4, atol=1e-12)
    key = model.mid_block.attentions[0].to_k.weight.grad
    assert ours.middle.attention[0].qkv.weight.grad.chunk(3)[1].allclose(key, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_load_convert_load_is_exact(tmp_path, kind):
    first = Pipeline.load(saved(tmp_path / "a", theirs(KINDS[kind])))
    convert.save_diffusers(first.config, first.denoiser, tmp_path / "b")
    second = Pipeline.load(tmp_path / "b")
    assert second.config == first.config
    for a, b in zip(first.denoiser.backbone.parameters(), second.denoiser.backbone.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_model_trained_here_answers_alike_after_conversion(tiny_run, tmp_path):
    native = Pipeline.load(tiny_run)
    convert.save_diffusers(native.config, native.denoiser, tmp_path / "out")
    model = diffusers.UNet2DModel.from_pretrained(tmp_path / "out" / "unet").eval()
    back = Pipeline.load(tmp_path / "out")
    x = fold(1, "x").normal((4, *native.shape))
    t, y = torch.tensor([1.0, 2.0, 17.0, float(native.process.T)]), torch.tensor([0, 1, 0, 1])
    wanted = native.denoiser.backbone(x, t, y)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(model(x, t - 1, class_labels=y).sample, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(back.denoiser.backbone(x, t, y), wanted, rtol=1e-4, atol=1e-5)
    assert back.class_names == native.class_names


def test_a_learned_variance_is_read_and_written(tmp_path, monkeypatch):
    """Means and variances of a step are those of their DDPMScheduler with variance_type learned_range."""
    model = theirs(DOUBLED)
    pipe = Pipeline.load(saved(tmp_path / "a", model, variance_type="learned_range", clip_sample=False))
    assert pipe.process.variance == "learned"
    x = fold(1, "x").normal((2, 1, 16, 8))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda shape, **_: torch.zeros(shape))
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    for t in (2, 400, 1000):
        split = pipe.denoiser(x, float(t))
        ours = pipe.process.reverse(split, t, t - 1)
        output = model(x, t - 1).sample
        mean = scheduler.step(output, t - 1, x).prev_sample
        log_var = scheduler._get_variance(t - 1, predicted_variance=output[:, 1:])
        torch.testing.assert_close(ours.mean, mean, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.log_var, log_var, rtol=1e-4, atol=1e-4)
    convert.save_diffusers(pipe.config, pipe.denoiser, tmp_path / "b")
    assert json.loads((tmp_path / "b/scheduler/scheduler_config.json").read_text())["variance_type"] == "learned_range"
    back = Pipeline.load(tmp_path / "b").denoiser.backbone
    for a, b in zip(pipe.denoiser.backbone.parameters(), back.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("shape", ["linear", "scaled_linear", "sigmoid", "squaredcos_cap_v2"])
def test_their_schedules_are_read_as_they_are(tmp_path, shape):
    scheduler = diffusers.DDPMScheduler(beta_schedule=shape)
    pipe = Pipeline.load(saved(tmp_path / "m", theirs(HABIT), beta_schedule=shape))
    np.testing.assert_allclose(pipe.process.schedule.beta[1:], scheduler.betas.numpy(), rtol=3e-5)


def test_their_zero_terminal_snr_is_ours(tmp_path):
    settings = {"beta_schedule": "scaled_linear", "beta_end": 0.012, "prediction_type": "v_prediction"}
    scheduler = diffusers.DDPMScheduler(**settings, rescale_betas_zero_snr=True)
    pipe = Pipeline.load(saved(tmp_path / "m", theirs(HABIT), **settings, rescale_betas_zero_snr=True))
    np.testing.assert_allclose(pipe.process.schedule.beta[1:-1], scheduler.betas[:-1].numpy(), rtol=2e-3)
    assert pipe.process.schedule.beta[-1] == 1 == scheduler.betas[-1]
    convert.save_diffusers(pipe.config, pipe.denoiser, tmp_path / "b")
    (tmp_path / "b/config.yaml").unlink()
    back = Pipeline.load(tmp_path / "b").process.schedule
    np.testing.assert_allclose(back.alpha_bar, pipe.process.schedule.alpha_bar, rtol=1e-12)
    with pytest.raises(UndiffuseError, match="'eps' cannot work with beta_T = 1"):
        Pipeline.load(saved(tmp_path / "c", theirs(HABIT), rescale_betas_zero_snr=True))


def feed(monkeypatch, module: str, noises: list[torch.Tensor]) -> None:
    """Their pipeline draws what ours drew."""
    remaining = iter(noises)
    monkeypatch.setattr(f"diffusers.{module}.randn_tensor", lambda shape, **_: next(remaining).reshape(shape))


def drawn(pipe: Pipeline, n: int, count: int) -> list[torch.Tensor]:
    """x_T and the following noises of images 0..n-1."""
    from undiffuse.rng import per_row

    rng = per_row(0, "sample", rows=range(n))
    return [rng.normal((n, *pipe.shape)) for _ in range(count)]


def pictures(output) -> torch.Tensor:
    return torch.from_numpy(np.asarray(output.images)).permute(0, 3, 1, 2) * 2 - 1


@pytest.mark.bare
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_their_ancestral_pipeline_draws_our_images(tmp_path, monkeypatch, prediction):
    saved(tmp_path / "m", theirs(HABIT), num_train_timesteps=1000, prediction_type=prediction)
    pipe = Pipeline.load(tmp_path / "m")
    ours = pipe.configured(spacing="trailing").sample(2, sampler="ancestral", steps=100)
    noises = drawn(pipe, 2, 101)
    feed(monkeypatch, "pipelines.ddpm.pipeline_ddpm", noises[:1])
    feed(monkeypatch, "schedulers.scheduling_ddpm", noises[1:])
    convert.save_diffusers(pipe.config, pipe.denoiser, tmp_path / "out")
    their = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    their.set_progress_bar_config(disable=True)
    found = pictures(their(batch_size=2, num_inference_steps=100, output_type="np"))
    assert (found - ours).abs().max() < 1e-4


@pytest.mark.bare
def test_their_ddim_pipeline_draws_our_images(tmp_path, monkeypatch):
    pipe = Pipeline.load(saved(tmp_path / "m", theirs(HABIT)))
    ours = pipe.configured(spacing="trailing").sample(2, sampler="ddim", steps=50)
    convert.save_diffusers(pipe.config, pipe.denoiser, tmp_path / "out")
    feed(monkeypatch, "pipelines.ddim.pipeline_ddim", drawn(pipe, 2, 1))
    their = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    their.set_progress_bar_config(disable=True)
    out = their(batch_size=2, num_inference_steps=50, use_clipped_model_output=True, output_type="np")
    assert (pictures(out) - ours).abs().max() < 1e-4


UNMAPPABLE = {
    "unet": [
        ("act_fn", "gelu"),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
        ("block_out_channels", [32, 48]),
        ("downsample_type", "fir"),
        ("upsample_type", "resnet"),  # but down by convolution
        ("time_embedding_type", "fourier"),
        ("class_embed_type", "timestep"),
        ("resnet_time_scale_shift", "spatial"),
    ],
    "scheduler": [
        ("variance_type", "learned_range"),
        ("prediction_type", "flow"),
        ("thresholding", True),
        ("beta_schedule", "exotic"),
        ("clip_sample_range", 3.0),
    ],
}


@pytest.mark.parametrize(("part", "field", "value"), [(p, *row) for p, rows in UNMAPPABLE.items() for row in rows])
def test_what_cannot_be_mapped_is_refused_by_name(tmp_path, part, field, value):
    saved(tmp_path / "m", theirs(HABIT))
    path = tmp_path / "m" / part / ("config.json" if part == "unet" else "scheduler_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UndiffuseError, match=f"'{field}'"):
        Pipeline.load(tmp_path / "m")


def spoil_tensor(change):
    from safetensors.torch import load_file, save_file

    def spoil(folder):
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return spoil


def only_pickle(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


SPOILED = {
    "a missing tensor": (spoil_tensor(lambda t: t.pop("conv_in.weight")), "'conv_in.weight'"),
    "a foreign tensor": (spoil_tensor(lambda t: t.update(extra=torch.zeros(1))), "'extra'"),
    "a wrong shape": (spoil_tensor(lambda t: t.update({"conv_in.bias": torch.zeros(3)})), "'stem.bias'"),
    "a pickle only": (only_pickle, "pickle"),
    "truncated weights": (lambda f: (f / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"1234"), "truncated"),
    "no scheduler": (lambda f: (f / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json"),
    "junk for fields": (lambda f: (f / "unet/config.json").write_text("[1"), "config.json"),
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_folder_is_refused_in_one_line(tmp_path, capsys, kind):
    spoil, said = SPOILED[kind]
    spoil(saved(tmp_path / "m", theirs(HABIT)))
    capsys.readouterr()
    assert main(["sample", str(tmp_path / "m"), "--out", str(tmp_path / "x.png")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_convert_on_the_command_line(tiny_run, tmp_path, capsys):
    assert main(["convert", str(tiny_run), str(tmp_path / "out"), "--to", "diffusers"]) == 0
    assert main(["sample", str(tmp_path / "out"), "--out", str(tmp_path / "x.png"), "-n", "2", "--steps", "3"]) == 0
    capsys.readouterr()
    assert main(["convert", str(tiny_run), str(tmp_path / "out"), "--to", "diffusers"]) == 2
    assert main(["convert", str(tiny_run), str(tmp_path / "other"), "--to", "onnx"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("model.heads", 2), ("model.block", "convnext"), ("diffusion.noise", "laplace")]
)
def test_what_diffusers_cannot_express_is_refused(tiny_pipe, tmp_path, key, value):
    config = Config.replaced(tiny_pipe.config, {"model.multipliers": [1, 2], "model.attention": [1, 2], key: value})
    with pytest.raises(UndiffuseError, match=key):
        convert.save_diffusers(config, tiny_pipe.denoiser, tmp_path / "out")


# -- folders that people have -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "scheduler",
    [
        "DDIMScheduler",
        "PNDMScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_another_scheduler_saved_with_the_model_is_no_hindrance(tmp_path, scheduler):
    model = theirs(HABIT)
    plain = Pipeline.load(saved(tmp_path / "plain", model))
    diffusers.DDPMPipeline(model, getattr(diffusers, scheduler)()).save_pretrained(tmp_path / "other")
    other = Pipeline.load(tmp_path / "other")
    assert torch.equal(other.sample(2, steps=3), plain.sample(2, steps=3))


def test_a_scheduler_that_adds_noise_otherwise_is_refused(tmp_path):
    model = theirs(HABIT)
    path = saved(tmp_path / "m", model)
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    with pytest.raises(UndiffuseError, match="'_class_name' = 'FlowMatchEulerDiscreteScheduler' has no counterpart"):
        Pipeline.load(path)


@pytest.mark.parametrize(
    "options", [{"variant": "fp16"}, {"max_shard_size": "100KB"}, {"max_shard_size": "100KB", "variant": "fp16"}]
)
def test_weights_of_a_variant_or_in_several_files_are_the_weights(tmp_path, options):
    model = theirs(HABIT)
    plain = Pipeline.load(saved(tmp_path / "plain", model))
    diffusers.DDPMPipeline(model, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "other", **options)
    assert not (tmp_path / "other" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert torch.equal(Pipeline.load(tmp_path / "other").sample(2, steps=2), plain.sample(2, steps=2))


def test_two_variants_are_not_chosen_between(tmp_path):
    path = saved(tmp_path / "m", theirs(HABIT)) / "unet"
    file = path / "diffusion_pytorch_model.safetensors"
    for variant in ("fp16", "bf16"):
        shutil.copy(file, path / f"diffusion_pytorch_model.{variant}.safetensors")
    file.unlink()
    with pytest.raises(UndiffuseError, match=r"weights of several variants, .*bf16.*fp16.*keep one"):
        Pipeline.load(tmp_path / "m")


def test_a_model_trained_in_few_steps_loads_with_a_warning(tmp_path):
    """ddpm_num_steps=100 leaves 0.6 of the data at T: nobody should train so, and people did."""
    path = saved(tmp_path / "m", theirs(HABIT), num_train_timesteps=100)
    with pytest.warns(UserWarning, match="that much of the data is left at T"):
        pipe = Pipeline.load(path)
    assert pipe.process.T == 100


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_pipe, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    from undiffuse.pipeline.diffusers import folder

    def full(*asked, **given):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(folder, "save_file", full)
    with pytest.raises(UndiffuseError, match=r"out: cannot be written \(.*No space left.*\); nothing is left of it"):
        save_diffusers(tiny_pipe.config, tiny_pipe.denoiser, tmp_path / "out")
    assert not list(tmp_path.iterdir())
