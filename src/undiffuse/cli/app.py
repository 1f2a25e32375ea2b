"""The commands. Each imports its work when it runs, so that help and usage errors answer at once, without torch."""

from typing import Annotated, Any

import typer

from undiffuse import __version__
from undiffuse.cli import options
from undiffuse.errors import UsageError

NAMES = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, context_settings=NAMES)
plot_app = typer.Typer(no_args_is_help=True, context_settings=NAMES)
app.add_typer(plot_app, name="plot", help="Draw schedules, the forward and reverse process, the bound.")


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"undiffuse {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """Denoising diffusion models that you can train, measure and trust."""


def demo(given: options.Demo) -> None:
    """Train the digits recipe, draw samples, measure them, write the report: minutes on two cores."""
    from undiffuse.cli import work

    work.demo(given)


def train(given: options.Train) -> None:
    """Train a model, or continue a run that was stopped."""
    if given.resume and (given.recipe or given.sets or given.model or given.out is None):
        raise UsageError(
            "--resume takes --out DIR and nothing else: DIR is the run's folder, its own configuration is used; to "
            "train its model otherwise, or longer: undiffuse train --from DIR --set ..."
        )
    if not given.resume and given.recipe is None and given.model is None:
        raise UsageError("name a recipe or a .yaml file, for example: undiffuse train digits")
    if given.recipe is not None:
        from undiffuse import config

        config.load(given.recipe, given.sets or ())  # a wrong key should not wait for torch
    from undiffuse.cli import work

    work.train(given)


def check(given: options.Check) -> None:
    """Read a data set as training would: counts, sizes, classes, bad files, copies. Exit status 1 on trouble."""
    from undiffuse.cli import data

    data.check(given)


def fit(given: options.Fit) -> None:
    """Choose the times of sampling in few steps for this model, and keep them with it."""
    from undiffuse.cli import fitting

    fitting.fit(given)


def sample(given: options.Sample) -> None:
    """Draw images from a model: a picture, an animation, an array or a folder of PNG files."""
    from undiffuse.cli import drawing

    drawing.sample(given)


def edit(given: options.Edit) -> None:
    """Change pictures: paint what is missing, vary, go from one to another, take to noise and back."""
    from undiffuse.cli import editing

    editing.edit(given)


def evaluate(given: options.Evaluate) -> None:
    """Measure a model, or pictures that someone drew, against real held-out images."""
    from undiffuse.cli import work

    work.evaluate(given)


def convert(given: options.Convert) -> None:
    """Write a model for another library."""
    if given.to != "diffusers":
        raise UsageError(f"--to {given.to}: this version writes for diffusers only")
    from undiffuse.cli import work

    work.convert(given)


def plot_schedules(given: options.PlotSchedules) -> None:
    """beta_t, alpha_bar_t and the signal-to-noise ratio of every schedule."""
    from undiffuse.cli import drawing

    drawing.plot_schedules(given)


def plot_forward(given: options.PlotForward) -> None:
    """A picture turning into noise, one row for each schedule."""
    from undiffuse.cli import drawing

    drawing.plot_forward(given)


def plot_reverse(given: options.PlotReverse) -> None:
    """Noise turning into pictures: the state x_t and the guess of x_0 at times along the way."""
    from undiffuse.cli import drawing

    drawing.plot_reverse(given)


def plot_elbo(given: options.PlotElbo) -> None:
    """The variational bound of a model: terms by t, rate against distortion, progressive decoding."""
    from undiffuse.cli import drawing

    drawing.plot_elbo(given)


def plot_score(given: options.PlotScore) -> None:
    """A model's score beside the exact scores of its training and held-out images: what it knows by heart."""
    from undiffuse.cli import drawing

    drawing.plot_score(given)


def plot_noise(given: options.PlotNoise) -> None:
    """Noise families: densities and draws of x_t, and a picture in each family's noise."""
    from undiffuse.cli import drawing

    drawing.plot_noise(given)


options.register(app, "demo", options.Demo, demo)
options.register(app, "train", options.Train, train)
options.register(app, "check", options.Check, check)
options.register(app, "fit", options.Fit, fit)
options.register(app, "sample", options.Sample, sample)
options.register(app, "edit", options.Edit, edit)
options.register(app, "evaluate", options.Evaluate, evaluate)
options.register(app, "convert", options.Convert, convert)
options.register(plot_app, "schedules", options.PlotSchedules, plot_schedules)
options.register(plot_app, "forward", options.PlotForward, plot_forward)
options.register(plot_app, "reverse", options.PlotReverse, plot_reverse)
options.register(plot_app, "noise", options.PlotNoise, plot_noise)
options.register(plot_app, "elbo", options.PlotElbo, plot_elbo)
options.register(plot_app, "score", options.PlotScore, plot_score)


def _later(parent: typer.Typer, name: str, does: str) -> None:
    """A command of the contract that this version does not have: it says so and exits with 2."""

    def refuse(anything: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> Any:
        raise UsageError(f"'{name}' ({does}) is not in this version of undiffuse yet")

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    parent.command(name.split()[-1], hidden=True, context_settings=anything)(refuse)


_later(app, "studio", "the browser face")
