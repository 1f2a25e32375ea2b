"""What each command takes: one dataclass a command, a field an option. Read by typer; no torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

from undiffuse.cli.flags import (
    CheckpointOption,
    DeviceOption,
    EtaOption,
    GuidanceOption,
    LabelOption,
    ModelArgument,
    OutOption,
    SamplerOption,
    SampleStepsOption,
    SeedOption,
    SpacingOption,
    WeightsOption,
)
from undiffuse.errors import UsageError


def _picture(text: str) -> Path:
    if not text:
        raise BadParameter("it is empty; give a file's name")  # Path would take it for this folder
    return Path(text)


@dataclass(frozen=True)
class Options:
    """What a command was given."""

    def check(self) -> None:
        """Raise UsageError for what makes no sense, before anything is loaded."""
        if getattr(self, "device", None) == "":
            raise UsageError("--device is empty: name one, as in cpu or cuda, or leave it out")


@dataclass(frozen=True)
class DemoOptions(Options):
    """Train the digits recipe, draw samples, measure them, write the report: minutes on two cores."""

    out: OutOption = None


@dataclass(frozen=True)
class TrainOptions(Options):
    """Train a model, or continue a run that was stopped."""

    recipe: Annotated[
        str | None,
        Argument(metavar="RECIPE|FILE.yaml", help="digits, fashion-mnist, mnist, cifar10, emoji, folder, or a file."),
    ] = None
    out: OutOption = None
    sets: Annotated[list[str] | None, Option("--set", metavar="a.b=c", help="Change a key of the recipe.")] = None
    model: Annotated[
        str | None,
        Option(
            "--from", metavar="MODEL", help="Start from its weights; without a recipe, also from its configuration."
        ),
    ] = None
    resume: Annotated[bool, Option("--resume", help="Continue the run in --out.")] = False

    def check(self) -> None:
        if self.resume and (self.recipe or self.sets or self.model or self.out is None):
            raise UsageError(
                "--resume takes --out DIR and nothing else: DIR is the run's folder, its own configuration is used; to "
                "train its model otherwise, or longer: undiffuse train --from DIR --set ..."
            )
        if not self.resume and self.recipe is None and self.model is None:
            raise UsageError("name a recipe or a .yaml file, for example: undiffuse train digits")
        if self.recipe is not None:
            from undiffuse import config

            config.load(self.recipe, self.sets or ())  # a wrong key should not wait for torch


@dataclass(frozen=True)
class CheckOptions(Options):
    """Read a data set as training would: counts, sizes, classes, bad files, copies. Exit status 1 on trouble."""

    source: Annotated[str, Argument(metavar="DATA", help="A data set's name, a folder, a file, or hub:NAME.")]
    sets: Annotated[
        list[str] | None, Option("--set", metavar="data.x=y", help="How to read it, as train --set has it.")
    ] = None
    out: Annotated[
        Path | None, Option("--out", metavar="SHEET.png", help="Pictures as training will see them, by class.")
    ] = None

    def check(self) -> None:
        super().check()
        if self.out is not None and self.out.suffix.lower() != ".png":
            raise UsageError(f"{self.out}: the sheet is written as .png")


@dataclass(frozen=True)
class FitOptions(Options):
    """Choose the times of sampling in few steps for this model, and keep them with it."""

    model: Annotated[str, Argument(metavar="RUN", help="A run folder; what comes with undiffuse is fitted already.")]
    n: Annotated[int, Option("-n", help="Images to fit them on, each about a hundred network calls.")] = 64
    seed: SeedOption = 0
    guidance: GuidanceOption = None
    device: DeviceOption = None


@dataclass(frozen=True)
class SampleOptions(Options):
    """Draw images from a model: a picture, an animation, an array or a folder of PNG files."""

    model: ModelArgument
    out: Annotated[
        Path,
        Option(
            "--out",
            metavar="X.png|X.gif|X.npz|DIR/",
            help="A folder, new or to go on with (--format), or a file, which is replaced if it is there.",
        ),
    ]
    n: Annotated[int, Option("-n", help="How many images.")] = 64
    seed: SeedOption = 0
    start: Annotated[int, Option("--start", help="Index of the first image.")] = 0
    label: LabelOption = None
    guidance: GuidanceOption = None
    sampler: SamplerOption = None
    steps: SampleStepsOption = None
    eta: EtaOption = None
    spacing: SpacingOption = None
    noise: Annotated[str | None, Option("--noise", hidden=True)] = None  # asked for, so it is answered
    batch_size: Annotated[int | None, Option("--batch-size", help="Images at a time (default: 128).")] = None
    format: Annotated[
        str | None, Option("--format", metavar="png|npz|tar", help="Of a folder's files (default: png).")
    ] = None
    device: DeviceOption = None
    weights: WeightsOption = "ema"
    checkpoint: CheckpointOption = "last"


@dataclass(frozen=True)
class EditOptions(Options):
    """Change pictures: paint what is missing, vary, go from one to another, take to noise and back."""

    model: ModelArgument
    kind: Annotated[str, Argument(metavar="KIND", help="inpaint, variation, interpolate or reconstruct.")]
    out: Annotated[Path, Option("--out", metavar="X.png|X.npz|DIR/", help="Where to (interpolate: also X.gif).")]
    image: Annotated[
        list[Path] | None,
        Option("--image", metavar="FILE", parser=_picture, help="A picture, several times; or an .npz or a folder."),
    ] = None
    rows: Annotated[
        str | None, Option("--rows", metavar="I,J", help="Or these held-out pictures of its data (default: 0,1,2,3).")
    ] = None
    n: Annotated[int | None, Option("-n", help="Results for each picture, or pictures on the way (default: 4, 8).")] = (
        None
    )
    mask: Annotated[
        str | None,
        Option("--mask", metavar="M.png|SIDE", help="inpaint: white is painted; or left, right, top, bottom, center."),
    ] = None
    repeats: Annotated[int | None, Option("--repeats", help="inpaint: RePaint's resampling (default: 5).")] = None
    strength: Annotated[
        float | None, Option("--strength", help="variation: how much noise, above 0 to 1 (default: 0.5).")
    ] = None
    between: Annotated[
        str | None, Option("--between", metavar="I,J", help="interpolate: two images of the seed (default: 0,1).")
    ] = None
    refine: Annotated[
        int | None, Option("--refine", help="reconstruct, interpolate: fixed-point iterations a step (default: 0).")
    ] = None
    label: LabelOption = None
    seed: SeedOption = 0
    guidance: GuidanceOption = None
    sampler: SamplerOption = None
    steps: SampleStepsOption = None
    eta: EtaOption = None
    spacing: SpacingOption = None
    device: DeviceOption = None
    weights: WeightsOption = "ema"
    checkpoint: CheckpointOption = "last"


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """Measure a model, or pictures that someone drew, against real held-out images."""

    what: Annotated[
        str,
        Argument(
            metavar="MODEL|IMAGES",
            help="A run folder or another MODEL, an .npz or a folder of PNG files.",
        ),
    ]
    n: Annotated[
        int | None,
        Option("-n", help="Images per seed (default: the model's, or as many as to train on, at most 5,000)."),
    ] = None
    metrics: Annotated[
        str | None, Option("--metrics", help="frechet, kid, precision ... bpd, several or all (docs/evaluation.md).")
    ] = None
    data: Annotated[str | None, Option("--data", metavar="SOURCE", help="Real images to compare with.")] = None
    times: Annotated[
        int | None, Option("--times", metavar="K", help="For bpd: K of the T terms for each image (default: all).")
    ] = None
    dequantise: Annotated[
        str | None,
        Option("--dequantise", metavar="noise|uniform", help="For bpd_ode: how the grid is left (default: noise)."),
    ] = None
    label: Annotated[str | None, Option("--label", help="Only these classes: a or a,b,c.")] = None
    mix: Annotated[
        str | None,
        Option("--mix", metavar="auto|even|train", help="How often each class: docs/evaluation.md (default: auto)."),
    ] = None
    guidance: GuidanceOption = None
    sampler: SamplerOption = None
    steps: SampleStepsOption = None
    seed: Annotated[int | None, Option("--seed", help="The first sampling seed (default: 0).")] = None
    repeats: Annotated[
        int | None, Option("--repeats", help="Sampling seeds to average over (default: the model's, mostly 3).")
    ] = None
    features: Annotated[
        str | None,
        Option("--features", help="pixels, pca, classifier, efficientnet or inception (default: the model's)."),
    ] = None
    device: DeviceOption = None
    weights: Annotated[
        str | None, Option("--weights", metavar="ema|raw", help="Averaged, raw, or as ema-0.9999 (default: ema).")
    ] = None
    checkpoint: Annotated[
        str | None, Option("--checkpoint", metavar="STEP|last|best", help="Which checkpoint (default: last).")
    ] = None
    out: Annotated[
        Path | None,
        Option("--out", metavar="FILE.json", help="Write the numbers here, not into the run and its report."),
    ] = None

    def check(self) -> None:
        super().check()
        for flag, value, least in (("-n", self.n, 2), ("--repeats", self.repeats, 1)):
            if value is not None and value < least:
                raise UsageError(f"{flag} must be at least {least}, got {value}")


@dataclass(frozen=True)
class ConvertOptions(Options):
    """Write a model for another library."""

    model: ModelArgument
    out: Annotated[Path, Argument(metavar="DEST", help="A new folder.")]
    to: Annotated[str, Option("--to", metavar="diffusers", help="For which library.")]
    weights: WeightsOption = "ema"
    checkpoint: CheckpointOption = "last"

    def check(self) -> None:
        if self.to != "diffusers":
            raise UsageError(f"--to {self.to}: this version writes for diffusers only")
