"""Reading and writing a diffusers folder: model_index.json, unet/, scheduler/. JSON and safetensors only."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from undiffuse.errors import UndiffuseError
from undiffuse.files.checkpoint import Tensors
from undiffuse.files.reading import check_regular, checked_record, read_json
from undiffuse.files.writing import put_text
from undiffuse.pipeline.diffusers.fields import Json
from undiffuse.pipeline.diffusers.schema import IndexFields, SchedulerFields, UnetFields

WEIGHT_FILES = "diffusion_pytorch_model.safetensors"
PICKLE = "diffusion_pytorch_model.bin"


def is_diffusers(path: Path) -> bool:
    """A pipeline's folder (unet/config.json) or a model's own (config.json)."""
    return (path / "unet" / "config.json").is_file() or (path / "config.json").is_file()


def read_unet(path: Path) -> tuple[Json, Tensors]:
    """The network's fields and tensors."""
    home = path / "unet" if (path / "unet").is_dir() else path
    fields = read_fields(home / "config.json", UnetFields)
    tensors: Tensors = {}
    for file in _weight_files(home):
        try:
            check_regular(file)
            tensors |= load_file(file)
        except (OSError, ValueError, SafetensorError) as error:
            raise UndiffuseError(f"{file}: truncated or not a safetensors file ({error})") from error
    return fields, {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _weight_files(home: Path) -> list[Path]:
    """The file of the weights, or the several that an index names; a variant's, such as fp16, where it stands alone."""
    if (home / WEIGHT_FILES).is_file():
        return [home / WEIGHT_FILES]
    indices = sorted(home.glob(f"{WEIGHT_FILES}.index*.json"))
    if indices:
        names = sorted({*read_fields(indices[0], IndexFields)["weight_map"].values()})
        if any(Path(name).name != name for name in names):
            raise UndiffuseError(f"{indices[0]}: names no files of weights")
        return [home / name for name in names]
    variants = sorted(home.glob("diffusion_pytorch_model.*.safetensors"))
    if len(variants) == 1:
        return variants
    if variants:
        names = [file.name for file in variants]
        raise UndiffuseError(f"{home}: has weights of several variants, {', '.join(names)}; keep one of them there")
    pickled = " (a pickle can run any code when read; convert it to safetensors)" if (home / PICKLE).is_file() else ""
    raise UndiffuseError(f"{home}: has no {WEIGHT_FILES}{pickled}")


def read_scheduler(path: Path) -> Json:
    """The scheduler's fields, beside the network or in a folder of its own."""
    for place in (path / "scheduler", path):
        if (place / "scheduler_config.json").is_file():
            return read_fields(place / "scheduler_config.json", SchedulerFields)
    raise UndiffuseError(f"{path}: has no scheduler_config.json, so its noise schedule is unknown")


def read_fields(path: Path, schema: type) -> Json:
    """A file's fields, of this schema's types and ranges."""
    try:
        fields = read_json(path)
    except (OSError, ValueError) as error:
        raise UndiffuseError(f"{path}: cannot be read as JSON ({error})") from error
    try:
        known: Json = checked_record(schema, fields)
    except ValueError as error:
        raise UndiffuseError(f"{path}: the field {error}") from error
    return known


def write(path: Path, unet: Json, scheduler: Json, tensors: Tensors) -> None:
    """A folder that diffusers' DDPMPipeline and DDIMPipeline load; with classes, call its UNet with class_labels."""
    for part in ("unet", "scheduler"):
        (path / part).mkdir(parents=True)
    save_file(tensors, path / "unet" / WEIGHT_FILES, metadata={"format": "pt"})
    _write_json(path / "unet" / "config.json", unet)
    _write_json(path / "scheduler" / "scheduler_config.json", scheduler)
    parts = {"scheduler": ["diffusers", "DDPMScheduler"], "unet": ["diffusers", "UNet2DModel"]}
    _write_json(path / "model_index.json", {"_class_name": "DDPMPipeline", **parts})


def _write_json(path: Path, fields: Json) -> None:
    put_text(path, json.dumps(fields, indent=1) + "\n")
