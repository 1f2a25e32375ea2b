"""The commands. Each imports its work when it runs, so that help and usage errors answer at once, without torch."""

import inspect
from dataclasses import MISSING, fields
from importlib import import_module
from typing import Annotated, Any, get_type_hints

import typer

from undiffuse import __version__
from undiffuse.cli import options, plot_options
from undiffuse.errors import UsageError

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, context_settings=HELP)
plot_app = typer.Typer(no_args_is_help=True, context_settings=HELP)
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


COMMANDS: dict[str, type[options.Options]] = {  # NAME is done by the function NAME of cli/NAME.py
    "demo": options.DemoOptions,
    "train": options.TrainOptions,
    "check": options.CheckOptions,
    "fit": options.FitOptions,
    "sample": options.SampleOptions,
    "edit": options.EditOptions,
    "evaluate": options.EvaluateOptions,
    "convert": options.ConvertOptions,
}
PLOTS: dict[str, type[options.Options]] = {  # NAME is done by the function plot_NAME of cli/plot.py
    "schedules": plot_options.PlotSchedulesOptions,
    "forward": plot_options.PlotForwardOptions,
    "reverse": plot_options.PlotReverseOptions,
    "noise": plot_options.PlotNoiseOptions,
    "elbo": plot_options.PlotElboOptions,
    "score": plot_options.PlotScoreOptions,
}


def _register(parent: typer.Typer, name: str, kind: type[options.Options], work: tuple[str, str]) -> None:
    """Make a command of its options, whose docstring is the help. work: the module of `cli` and the function in it."""
    hints = get_type_hints(kind, include_extras=True)

    def command(**values: Any) -> None:
        given = kind(**values)
        given.check()
        module, function = work
        getattr(import_module(f"undiffuse.cli.{module}"), function)(given)

    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = dict(hints)
    command.__doc__ = kind.__doc__
    parent.command(name)(command)


for _name, _kind in COMMANDS.items():
    _register(app, _name, _kind, (_name, _name))
for _name, _kind in PLOTS.items():
    _register(plot_app, _name, _kind, ("plot", f"plot_{_name}"))


def _later(parent: typer.Typer, name: str, does: str) -> None:
    """A command of the contract that this version does not have: it says so and exits with 2."""

    def refuse(anything: Annotated[list[str] | None, typer.Argument(hidden=True)] = None) -> Any:
        raise UsageError(f"'{name}' ({does}) is not in this version of undiffuse yet")

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    parent.command(name.split()[-1], hidden=True, context_settings=anything)(refuse)


_later(app, "studio", "the browser face")
