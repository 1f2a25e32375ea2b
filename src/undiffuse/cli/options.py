"""What each command takes: one dataclass a command, a field an option. Read by typer; no torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Option

Model = Annotated[
    str, Argument(metavar="MODEL", help="A run folder, a diffusers folder, or digits, fashion-mnist, emoji.")
]
Out = Annotated[Path | None, Option("--out", help="A new folder (default: runs/NAME, then runs/NAME-2 ...).")]
Png = Annotated[Path, Option("--out", metavar="X.png", help="Where to write.")]
Label = Annotated[str | None, Option("--label", help="A class name or index, or several, over and over: a,b,c.")]
Seed = Annotated[int, Option("--seed", help="Image i of a seed is always the same.")]
Device = Annotated[str | None, Option("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one).")]
Weights = Annotated[str, Option("--weights", metavar="ema|raw", help="Averaged or raw; a further average: ema-0.9999.")]
Checkpoint = Annotated[str, Option("--checkpoint", metavar="STEP|last|best", help="Which checkpoint.")]
Guidance = Annotated[float | None, Option("--guidance", metavar="W", help="Classifier-free; 1 is off.")]
Sampler = Annotated[
    str | None,
    Option(
        "--sampler",
        help="ancestral, ddim, euler, heun, dpmpp_1m, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, unipc, deis, pndm or edm.",
    ),
]
SampleSteps = Annotated[
    int | None,
    Option(
        "--steps",
        metavar="K",
        help="Steps from noise to picture, of two network calls with heun and edm (default: the model's).",
    ),
]
Spacing = Annotated[
    str | None, Option("--spacing", help="auto, uniform, quadratic, trailing, log-snr, karras or fitted.")
]
Eta = Annotated[float | None, Option("--eta", help="DDIM's noise: 0 none, 1 as ancestral.")]
Steps = Annotated[int, Option("-T", help="Number of steps T of the forward process.")]


def _picture(text: str) -> Path:
    if not text:
        raise BadParameter("it is empty; give a file's name")  # Path would take it for this folder
    return Path(text)


@dataclass(frozen=True)
class Demo:
    out: Out = None


@dataclass(frozen=True)
class Train:
    recipe: Annotated[
        str | None,
        Argument(metavar="RECIPE|FILE.yaml", help="digits, fashion-mnist, mnist, cifar10, emoji, folder, or a file."),
    ] = None
    out: Out = None
    sets: Annotated[list[str] | None, Option("--set", metavar="a.b=c", help="Change a key of the recipe.")] = None
    model: Annotated[
        str | None,
        Option(
            "--from", metavar="MODEL", help="Start from its weights; without a recipe, also from its configuration."
        ),
    ] = None
    resume: Annotated[bool, Option("--resume", help="Continue the run in --out.")] = False


@dataclass(frozen=True)
class Check:
    source: Annotated[str, Argument(metavar="DATA", help="A data set's name, a folder, a file, or hub:NAME.")]
    sets: Annotated[
        list[str] | None, Option("--set", metavar="data.x=y", help="How to read it, as train --set has it.")
    ] = None


@dataclass(frozen=True)
class Fit:
    model: Annotated[str, Argument(metavar="RUN", help="A run folder; what comes with undiffuse is fitted already.")]
    n: Annotated[int, Option("-n", help="Images to fit them on, each about a hundred network calls.")] = 64
    seed: Seed = 0
    guidance: Guidance = None
    device: Device = None


@dataclass(frozen=True)
class Sample:
    model: Model
    out: Annotated[
        Path,
        Option(
            "--out",
            metavar="X.png|X.gif|X.npz|DIR/",
            help="A folder, new or to go on with (--format), or a file, which is replaced if it is there.",
        ),
    ]
    n: Annotated[int, Option("-n", help="How many images.")] = 64
    seed: Seed = 0
    start: Annotated[int, Option("--start", help="Index of the first image.")] = 0
    label: Label = None
    guidance: Guidance = None
    sampler: Sampler = None
    steps: SampleSteps = None
    eta: Eta = None
    spacing: Spacing = None
    noise: Annotated[str | None, Option("--noise", hidden=True)] = None  # asked for, so it is answered
    batch_size: Annotated[int | None, Option("--batch-size", help="Images at a time (default: 128).")] = None
    format: Annotated[
        str | None, Option("--format", metavar="png|npz|tar", help="Of a folder's files (default: png).")
    ] = None
    device: Device = None
    weights: Weights = "ema"
    checkpoint: Checkpoint = "last"


@dataclass(frozen=True)
class Edit:
    model: Model
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
    label: Label = None
    seed: Seed = 0
    guidance: Guidance = None
    sampler: Sampler = None
    steps: SampleSteps = None
    eta: Eta = None
    spacing: Spacing = None
    device: Device = None
    weights: Weights = "ema"
    checkpoint: Checkpoint = "last"


@dataclass(frozen=True)
class Evaluate:
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
    guidance: Guidance = None
    sampler: Sampler = None
    steps: SampleSteps = None
    seed: Annotated[int | None, Option("--seed", help="The first sampling seed (default: 0).")] = None
    repeats: Annotated[
        int | None, Option("--repeats", help="Sampling seeds to average over (default: the model's, mostly 3).")
    ] = None
    features: Annotated[
        str | None,
        Option("--features", help="pixels, pca, classifier, efficientnet or inception (default: the model's)."),
    ] = None
    device: Device = None
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


@dataclass(frozen=True)
class Convert:
    model: Model
    out: Annotated[Path, Argument(metavar="DEST", help="A new folder.")]
    to: Annotated[str, Option("--to", metavar="diffusers", help="For which library.")]
    weights: Weights = "ema"
    checkpoint: Checkpoint = "last"


@dataclass(frozen=True)
class PlotSchedules:
    out: Png = Path("schedules.png")
    T: Steps = 1000


@dataclass(frozen=True)
class PlotForward:
    out: Png = Path("forward.png")
    data: Annotated[str, Option("--data", metavar="SOURCE", help="A data set.")] = "digits"
    row: Annotated[int, Option("--row", help="Which of its train images.")] = 0
    T: Steps = 1000


@dataclass(frozen=True)
class PlotNoise:
    out: Png = Path("noise.png")
    data: Annotated[str, Option("--data", metavar="SOURCE", help="A data set.")] = "digits"
    row: Annotated[int, Option("--row", help="Which of its train images.")] = 0
    schedule: Annotated[str, Option("--schedule", metavar="NAME", help="linear, cosine, sigmoid or quadratic.")] = (
        "cosine"
    )
    T: Steps = 1000


@dataclass(frozen=True)
class PlotReverse:
    model: Model
    out: Png = Path("reverse.png")
    n: Annotated[int, Option("-n", help="How many images, 1 to 6.")] = 3
    seed: Seed = 0
    label: Label = None


@dataclass(frozen=True)
class PlotElbo:
    model: Model
    out: Png = Path("elbo.png")
    n: Annotated[int | None, Option("-n", help="How many held-out images (default: all).")] = None
    data: Annotated[str | None, Option("--data", metavar="SOURCE", help="Images to score.")] = None
    seed: Seed = 0
    device: Device = None
    weights: Weights = "ema"
    checkpoint: Checkpoint = "last"


@dataclass(frozen=True)
class PlotScore:
    model: Model
    out: Png = Path("score.png")
    n: Annotated[int | None, Option("-n", help="How many images of each set (default: all held-out).")] = None
    data: Annotated[str | None, Option("--data", metavar="SOURCE", help="Images it was trained on.")] = None
    seed: Seed = 0
    device: Device = None
    weights: Weights = "ema"
    checkpoint: Checkpoint = "last"


def listed(text: str | None) -> list[str] | None:
    """The parts of a,b,c."""
    if text is None:
        return None
    return [part.strip() for part in text.split(",")] if text.strip() else []
