"""A trained model in use: load, sample, score, edit, save."""

from undiffuse.pipeline.pipeline import Pipeline

__all__ = ["Pipeline"]
