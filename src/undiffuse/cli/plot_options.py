"""What each kind of plot takes: one dataclass a plot, a field an option. Read by typer; no torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from undiffuse.cli.flags import (
    CheckpointOption,
    DeviceOption,
    LabelOption,
    ModelArgument,
    PngOption,
    SeedOption,
    StepsOption,
    WeightsOption,
)
from undiffuse.cli.options import Options


@dataclass(frozen=True)
class PlotSchedulesOptions(Options):
    """beta_t, alpha_bar_t and the signal-to-noise ratio of every schedule."""

    out: PngOption = Path("schedules.png")
    T: StepsOption = 1000


@dataclass(frozen=True)
class PlotForwardOptions(Options):
    """A picture turning into noise, one row for each schedule."""

    out: PngOption = Path("forward.png")
    data: Annotated[str, Option("--data", metavar="SOURCE", help="A data set.")] = "digits"
    row: Annotated[int, Option("--row", help="Which of its train images.")] = 0
    T: StepsOption = 1000


@dataclass(frozen=True)
class PlotNoiseOptions(Options):
    """Noise families: densities and draws of x_t, and a picture in each family's noise."""

    out: PngOption = Path("noise.png")
    data: Annotated[str, Option("--data", metavar="SOURCE", help="A data set.")] = "digits"
    row: Annotated[int, Option("--row", help="Which of its train images.")] = 0
    schedule: Annotated[str, Option("--schedule", metavar="NAME", help="linear, cosine, sigmoid or quadratic.")] = (
        "cosine"
    )
    T: StepsOption = 1000


@dataclass(frozen=True)
class PlotReverseOptions(Options):
    """Noise turning into pictures: the state x_t and the guess of x_0 at times along the way."""

    model: ModelArgument
    out: PngOption = Path("reverse.png")
    n: Annotated[int, Option("-n", help="How many images, 1 to 6.")] = 3
    seed: SeedOption = 0
    label: LabelOption = None


@dataclass(frozen=True)
class PlotElboOptions(Options):
    """The variational bound of a model: terms by t, rate against distortion, progressive decoding."""

    model: ModelArgument
    out: PngOption = Path("elbo.png")
    n: Annotated[int | None, Option("-n", help="How many held-out images (default: all).")] = None
    data: Annotated[str | None, Option("--data", metavar="SOURCE", help="Images to score.")] = None
    seed: SeedOption = 0
    device: DeviceOption = None
    weights: WeightsOption = "ema"
    checkpoint: CheckpointOption = "last"


@dataclass(frozen=True)
class PlotScoreOptions(Options):
    """A model's score beside the exact scores of its training and held-out images: what it knows by heart."""

    model: ModelArgument
    out: PngOption = Path("score.png")
    n: Annotated[int | None, Option("-n", help="How many images of each set (default: all held-out).")] = None
    data: Annotated[str | None, Option("--data", metavar="SOURCE", help="Images it was trained on.")] = None
    seed: SeedOption = 0
    device: DeviceOption = None
    weights: WeightsOption = "ema"
    checkpoint: CheckpointOption = "last"
