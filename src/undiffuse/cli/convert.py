"""convert: a model for another library."""

from undiffuse.cli.options import ConvertOptions
from undiffuse.files.writing import check_writable
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.diffusers.convert import save_diffusers


def convert(given: ConvertOptions) -> None:
    check_writable(given.out.parent)
    pipe = Pipeline.load(given.model, given.weights, given.checkpoint, "cpu")
    save_diffusers(pipe.config, pipe.denoiser, given.out)
    print(given.out)
