"""fit: times for sampling in few steps."""

from undiffuse.cli.options import FitOptions
from undiffuse.cli.progress import show
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files.run import RunFolder
from undiffuse.files.writing import check_writable, write_text
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.bundled import is_bundled, locate_model
from undiffuse.pipeline.diffusers.folder import is_diffusers


def fit(given: FitOptions) -> None:
    path = locate_model(given.model)
    if is_bundled(path):
        own = f"undiffuse.Pipeline.load({given.model!r}).save('runs/{given.model}')"
        raise UsageError(f"{given.model} comes with undiffuse, and its times with it; in Python {own} is a copy to fit")
    if is_diffusers(path):
        raise UsageError(f"{given.model}: fitted times are kept in a run folder, and this is one of diffusers")
    pipe = Pipeline.load(given.model, device=given.device, times=False).configured(guidance=given.guidance)
    run = RunFolder.open(path)
    if run.times.is_dir():
        raise UndiffuseError(f"{run.times}: is a folder, where the times' file belongs; remove it")
    check_writable(run.path, "mend that")
    made = pipe.fit(given.n, given.seed, show).fitted
    assert made is not None
    write_text(run.times, made.write())
    for steps in (3, 5, 10):
        if steps <= made.most:
            print(f"{steps} steps: {' '.join(f'{t:g}' for t in made.times(steps, 2))}")
    print(run.times)
