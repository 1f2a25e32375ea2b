"""The commands. Each imports its work when it runs, so that help and usage errors answer at once, without torch."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from undiffuse import __version__
from undiffuse.cli import options
from undiffuse.errors import UsageError

Options = TypeVar("Options")
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
    from undiffuse.cli import train as work

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
    from undiffuse.cli import train as work

    work.train(given)


def check(given: options.Check) -> None:
    """Read a data set as training would: counts, sizes, classes, bad files, copies. Exit status 1 on trouble."""
    from undiffuse.cli import check as data

    data.check(given)


def fit(given: options.Fit) -> None:
    """Choose the times of sampling in few steps for this model, and keep them with it."""
    from undiffuse.cli import fit as fitting

    fitting.fit(given)


def sample(given: options.Sample) -> None:
    """Draw images from a model: a picture, an animation, an array or a folder of PNG files."""
    from undiffuse.cli import sample as drawing

    drawing.sample(given)


def edit(given: options.Edit) -> None:
    """Change pictures: paint what is missing, vary, go from one to another, take to noise and back."""
    from undiffuse.cli import edit as editing

    editing.edit(given)


def evaluate(given: options.Evaluate) -> None:
    """Measure a model, or pictures that someone drew, against real held-out images."""
    from undiffuse.cli import train as work

    work.evaluate(given)


def convert(given: options.Convert) -> None:
    """Write a model for another library."""
    if given.to != "diffusers":
        raise UsageError(f"--to {given.to}: this version writes for diffusers only")
    from undiffuse.cli import train as work

    work.convert(given)


def plot_schedules(given: options.PlotSchedules) -> None:
    """beta_t, alpha_bar_t and the signal-to-noise ratio of every schedule."""
    from undiffuse.cli import sample as drawing

    drawing.plot_schedules(given)


def plot_forward(given: options.PlotForward) -> None:
    """A picture turning into noise, one row for each schedule."""
    from undiffuse.cli import sample as drawing

    drawing.plot_forward(given)


def plot_reverse(given: options.PlotReverse) -> None:
    """Noise turning into pictures: the state x_t and the guess of x_0 at times along the way."""
    from undiffuse.cli import sample as drawing

    drawing.plot_reverse(given)


def plot_elbo(given: options.PlotElbo) -> None:
    """The variational bound of a model: terms by t, rate against distortion, progressive decoding."""
    from undiffuse.cli import sample as drawing

    drawing.plot_elbo(given)


def plot_score(given: options.PlotScore) -> None:
    """A model's score beside the exact scores of its training and held-out images: what it knows by heart."""
    from undiffuse.cli import sample as drawing

    drawing.plot_score(given)


def plot_noise(given: options.PlotNoise) -> None:
    """Noise families: densities and draws of x_t, and a picture in each family's noise."""
    from undiffuse.cli import sample as drawing

    drawing.plot_noise(given)


def _register(parent: typer.Typer, name: str, kind: type[Options], run: Callable[[Options], None]) -> None:
    """Make `run`, which takes an instance of `kind`, a command; its docstring is the help."""
    hints = get_type_hints(kind, include_extras=True)

    def command(**values: Any) -> None:
        if values.get("device") == "":
            raise UsageError("--device is empty: name one, as in cpu or cuda, or leave it out")
        run(kind(**values))

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)  # type: ignore[arg-type]
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = dict(hints)
    command.__doc__ = run.__doc__
    parent.command(name)(command)


_register(app, "demo", options.Demo, demo)
_register(app, "train", options.Train, train)
_register(app, "check", options.Check, check)
_register(app, "fit", options.Fit, fit)
_register(app, "sample", options.Sample, sample)
_register(app, "edit", options.Edit, edit)
_register(app, "evaluate", options.Evaluate, evaluate)
_register(app, "convert", options.Convert, convert)
_register(plot_app, "schedules", options.PlotSchedules, plot_schedules)
_register(plot_app, "forward", options.PlotForward, plot_forward)
_register(plot_app, "reverse", options.PlotReverse, plot_reverse)
_register(plot_app, "noise", options.PlotNoise, plot_noise)
_register(plot_app, "elbo", options.PlotElbo, plot_elbo)
_register(plot_app, "score", options.PlotScore, plot_score)


def _later(parent: typer.Typer, name: str, does: str) -> None:
    """A command of the contract that this version does not have: it says so and exits with 2."""

    def refuse(anything: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> Any:
        raise UsageError(f"'{name}' ({does}) is not in this version of undiffuse yet")

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    parent.command(name.split()[-1], hidden=True, context_settings=anything)(refuse)


_later(app, "studio", "the browser face")
