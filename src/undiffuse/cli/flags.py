"""What several commands take: an argument or an option each, with its help. Read by typer; no torch here."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

ModelArgument = Annotated[
    str, Argument(metavar="MODEL", help="A run folder, a diffusers folder, or digits, fashion-mnist, emoji.")
]
OutOption = Annotated[Path | None, Option("--out", help="A new folder (default: runs/NAME, then runs/NAME-2 ...).")]
PngOption = Annotated[Path, Option("--out", metavar="X.png", help="Where to write.")]
LabelOption = Annotated[str | None, Option("--label", help="A class name or index, or several, over and over: a,b,c.")]
SeedOption = Annotated[int, Option("--seed", help="Image i of a seed is always the same.")]
DeviceOption = Annotated[str | None, Option("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one).")]
WeightsOption = Annotated[
    str, Option("--weights", metavar="ema|raw", help="Averaged or raw; a further average: ema-0.9999.")
]
CheckpointOption = Annotated[str, Option("--checkpoint", metavar="STEP|last|best", help="Which checkpoint.")]
GuidanceOption = Annotated[float | None, Option("--guidance", metavar="W", help="Classifier-free; 1 is off.")]
SamplerOption = Annotated[
    str | None,
    Option(
        "--sampler",
        help="ancestral, ddim, euler, heun, dpmpp_1m, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, unipc, deis, pndm or edm.",
    ),
]
SampleStepsOption = Annotated[
    int | None,
    Option(
        "--steps",
        metavar="K",
        help="Steps from noise to picture, of two network calls with heun and edm (default: the model's).",
    ),
]
SpacingOption = Annotated[
    str | None, Option("--spacing", help="auto, uniform, quadratic, trailing, log-snr, karras or fitted.")
]
EtaOption = Annotated[float | None, Option("--eta", help="DDIM's noise: 0 none, 1 as ancestral.")]
StepsOption = Annotated[int, Option("-T", help="Number of steps T of the forward process.")]
