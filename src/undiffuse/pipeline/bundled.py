"""Models that come with undiffuse: run folders of averaged weights in half precision, each with a card, README.md."""

from pathlib import Path

from undiffuse.errors import UsageError, nearest

MODELS = Path(__file__).parents[1] / "models"
MARKS = ("config.yaml", "model_index.json", "config.json")  # a run folder, a diffusers pipeline, one of its models


def bundled_names() -> list[str]:
    """The names of all bundled models."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.yaml"))


def locate_model(model: str | Path) -> Path:
    """MODEL as a folder: one that exists, else the bundled model of that name, which only a model's folder hides."""
    path, bundled = Path(model), str(model) in bundled_names()
    if path.is_dir() and (not bundled or any((path / name).exists() for name in MARKS)):
        return path
    if bundled:
        return MODELS / str(model)
    raise UsageError(
        f"no model '{model}': give a run folder, as written by `undiffuse train`, a diffusers folder, or one of those "
        f"that come with undiffuse; {nearest(str(model), bundled_names())}"
    )


def is_bundled(path: Path) -> bool:
    """Nothing may be written there."""
    return path.parent == MODELS
