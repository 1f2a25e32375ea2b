"""Recipes, files and `a.b=c` changes as a Config."""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

from undiffuse.config import yaml
from undiffuse.config.schema import Config, checked_config
from undiffuse.errors import UsageError, nearest
from undiffuse.files.reading import read_text


def recipes() -> list[str]:
    """Names of the recipes that come with undiffuse."""
    return sorted(
        path.name.removesuffix(".yaml") for path in files("undiffuse.recipes").iterdir() if path.name.endswith(".yaml")
    )


def load(recipe: str, sets: Iterable[str] = ()) -> Config:
    """A recipe's name or a YAML file, with `a.b=c` changes on top."""
    if Path(recipe).suffix in (".yaml", ".yml"):
        config = read(Path(recipe))
    elif recipe in recipes():
        config = _read_yaml(files("undiffuse.recipes").joinpath(f"{recipe}.yaml").read_text("utf-8"), recipe)
    else:
        raise UsageError(f"unknown recipe '{recipe}'; {nearest(recipe, recipes())}, or give a .yaml file")
    return changed(config, sets)


def changed(config: Config, sets: Iterable[str]) -> Config:
    """A configuration with changes on top, each as `a.b=c`."""
    return config.replaced(dict(_assignment(text) for text in sets))


def read(path: Path) -> Config:
    """A configuration file."""
    try:
        text = read_text(path, yaml.MOST_YAML)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path}: cannot be read as a configuration ({getattr(error, 'strerror', None) or error})"
        ) from error
    return _read_yaml(text, str(path))


def of_run(path: Path) -> Config:
    """A run's own configuration, which says everything: a file that was cut short is refused."""
    config = read(path)
    if lacking := [name for name in type(config).model_fields if name not in config.model_fields_set]:
        raise UsageError(f"{path}: lacks {', '.join(lacking)}: it was cut short; put it back as the run wrote it")
    return config


def _read_yaml(text: str, origin: str) -> Config:
    try:
        raw = yaml.parsed(text)
    except ValueError as error:
        raise UsageError(f"{origin}: not YAML: {error}") from error
    raw = {} if raw is None else raw  # an empty file: the defaults
    if not isinstance(raw, dict):
        raise UsageError(f"{origin}: a configuration is a mapping of sections, this is {type(raw).__name__}")
    return checked_config(raw, origin)


def _is_there(value: str) -> bool:
    """Whether this, letter by letter, is a path of something; in YAML a #, a colon or a number means something else."""
    try:
        return Path(value).exists()
    except (OSError, ValueError):
        return False


def _assignment(text: str) -> tuple[str, Any]:
    """`a.b=c` -> (a.b, c), c read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"--set takes key=value, got '{text}'")
    if value.startswith("*") or (key.strip() == "data.source" and _is_there(value)):
        return key.strip(), value  # a pattern of files, for YAML's aliases have no use here; or a path as it is
    try:
        return key.strip(), yaml.parsed(value)
    except ValueError as error:
        raise UsageError(f"--set {key}: cannot read the value '{value[:80]}'") from error
