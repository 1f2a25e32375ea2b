"""Models from and for other libraries: a diffusers folder <-> configuration and denoiser."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import nn

from undiffuse.config import Config, read
from undiffuse.diffusion.denoiser import Denoiser
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.files.writing import put_text, whole
from undiffuse.pipeline import build
from undiffuse.pipeline.diffusers import fields, folder
from undiffuse.pipeline.diffusers import names as diffusers


def load_diffusers(path: Path) -> tuple[Config, Denoiser]:
    """A UNet2DModel with its scheduler. What they cannot say (class names) is in config.yaml if we wrote it."""
    unet, tensors = folder.read_unet(path)
    if (path / "config.yaml").is_file():
        config = read(path / "config.yaml")
    else:
        config = _import_model(unet, folder.read_scheduler(path))
    denoiser = build.denoiser(config)
    assert isinstance(denoiser.backbone, nn.Module)
    if "class_embedding.weight" in tensors:
        tensors = _with_null(tensors, build.num_classes(config))
    ours = diffusers.to_ours(tensors, list(denoiser.backbone.state_dict()))
    checkpoint.fill(denoiser.backbone, ours, path)
    return config, denoiser


def _import_model(unet: fields.Json, scheduler: fields.Json) -> Config:
    changes = fields.from_unet(unet) | fields.from_scheduler(scheduler)
    fields.agree(unet, scheduler)
    if changes["diffusion.variance"] == "learned":
        changes["diffusion.loss"] = "hybrid"  # what such models are trained by, Nichol & Dhariwal 2021
    names = [str(i) for i in range(unet.get("num_class_embeds") or 0)]
    facts = {"data.source": "imported", "data.levels": 256, "data.classes": names, "train.label_dropout": 0.0}
    return Config().replaced(changes | facts)


def _with_null(tensors: checkpoint.Tensors, classes: int) -> checkpoint.Tensors:
    """Foreign networks have no vector for "no label": zero, and guidance is off (label_dropout 0)."""
    table = tensors["class_embedding.weight"]
    if len(table) == classes:
        table = torch.cat([table, torch.zeros_like(table[:1])])
    return tensors | {"class_embedding.weight": table}


def save_diffusers(config: Config, denoiser: Denoiser, out: Path) -> None:
    """Write a folder for diffusers, with our config.yaml beside it. `out` must not exist."""
    if out.exists():
        raise UsageError(f"{out}: exists already; choose another folder")
    backbone = denoiser.backbone
    if not isinstance(backbone, nn.Module) or config.data.shape is None:
        raise UndiffuseError("only a trained network with a known image shape can be converted")
    raw = config.model_dump()
    learned = denoiser.process.variance == "learned"
    unet = fields.to_unet(raw["model"], raw["data"]["shape"], build.num_classes(config), learned)
    scheduler = fields.to_scheduler(raw["diffusion"], raw["sample"], denoiser.process.schedule.beta)
    tensors = diffusers.to_theirs(backbone.state_dict())
    tensors[diffusers.TIME_LAYER] = diffusers.shifted(tensors[diffusers.TIME_LAYER], raw["model"])
    try:
        with whole(out) as aside:
            folder.write(aside, unet, scheduler, tensors)
            put_text(aside / "config.yaml", config.replaced({"model.time_offset": 1}).as_yaml())
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UndiffuseError(f"{out}: cannot be written ({reason}); nothing is left of it") from error
