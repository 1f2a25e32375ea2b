"""The configuration: one schema, checked once. Recipes and run folders hold it as YAML; reading it needs no torch."""

from undiffuse.config.reading import changed, load, of_run, read, recipes
from undiffuse.config.schema import FORMAT_VERSION, MIXES, Config, Data, Diffusion, Evaluate, Mix, Model, Sample, Train

__all__ = [
    "FORMAT_VERSION",
    "MIXES",
    "Config",
    "Data",
    "Diffusion",
    "Evaluate",
    "Mix",
    "Model",
    "Sample",
    "Train",
    "changed",
    "load",
    "of_run",
    "read",
    "recipes",
]
