"""The configuration: one schema, checked once. Recipes and run folders hold it as YAML; reading it needs no torch."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from undiffuse.config import yaml
from undiffuse.config.messages import first_complaint
from undiffuse.data.spec import DataSpec
from undiffuse.errors import UsageError, nearest
from undiffuse.nn.presets import PRESETS
from undiffuse.nn.spec import NotNegative, Positive, UNetSettings

FORMAT_VERSION = 1

Mix = Literal["auto", "even", "train"]
MIXES: tuple[Mix, ...] = get_args(Mix)
MOST_IN_MEMORY = (
    1_000_000  # of anything that is held in memory at once: far above any use, far below what stops a machine
)

MOST_AVERAGES = 16  # each is a copy of the weights
Held = Annotated[int, Field(ge=1, le=MOST_IN_MEMORY)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _as_name(value: Any) -> Any:
    """Digits' class names look like numbers in YAML."""
    return str(value) if isinstance(value, int) else value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _as_square(value: Any) -> Any:
    return (value, value) if type(value) is int else _as_tuple(value)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(_Section, DataSpec):
    """source: a data set's name, a path or hub:NAME. classes: only these (names). flip: mirror half of the pictures.

    levels, shape, content and bits are filled in from the data. The rest says how pictures become arrays of one shape:
    see undiffuse.data.spec.DataSpec; size is h = w, or [h, w].
    """

    classes: list[Annotated[str, BeforeValidator(_as_name)]] | None = None
    levels: Annotated[int, Field(ge=2, le=256)] | None = None
    shape: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None
    content: str | None = None
    flip: bool = False

    _square = field_validator("size", mode="before")(_as_square)

    @model_validator(mode="after")
    def _check(self) -> "Data":
        self.check_choices()
        return self


class Model(_Section, UNetSettings):
    """The U-Net: see undiffuse.nn.spec.UNetSpec. conditional: learn the class labels too.

    Written with the key `preset`, a published network's name, the section starts from that network's settings.
    """

    conditional: bool = True

    _tuples = field_validator("multipliers", "attention", mode="before")(_as_tuple)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, raw: Any) -> Any:
        """A preset's settings in place of its name, so that a run's configuration says all by itself."""
        if not isinstance(raw, dict) or "preset" not in raw:
            return raw
        name, own = str(raw["preset"]), {key: value for key, value in raw.items() if key != "preset"}
        if name not in PRESETS:
            hint = nearest(name, [*PRESETS])
            raise PydanticCustomError(
                "preset", "model.preset: unknown name '{name}'; {hint}", {"name": name, "hint": hint}
            )
        return PRESETS[name].settings | own


class Diffusion(_Section):
    """schedule: a name, or "betas" for the numbers in `betas`, beta_1..beta_T.

    zero_terminal_snr: rescale it to end in pure noise; the network must then predict v or x0. theta: of gamma noise.
    """

    schedule: str = "cosine"
    T: Held = 1000
    betas: Annotated[list[float], Field(max_length=10_000)] | None = None
    zero_terminal_snr: bool = False
    prediction: str = "eps"
    noise: str = "gaussian"
    theta: Annotated[float, Field(gt=0, le=1)] | None = None
    variance: str = "small"
    loss: str = "l2"
    weighting: str = "none"


class Train(_Section):
    """steps updates of batch_size images. *_every count steps; 0 means only at the end.

    minutes: instead of steps; their number is measured at the start. micro_batch: images that a process handles at once
    (0: all of its share): memory and time, and which draws dropout makes. ema: one decay, or several averages side by
    side. time_sampling: how t is drawn, see train.time_sampling. keep: checkpoints, besides the best (0: all).
    quality_every: draw quality_n samples in quality_steps steps and compare them with real ones; patience: stop after
    so many without a better one. gradient_checkpointing: less memory, more time, the same weights. compile:
    torch.compile the network (GPUs). shard: weights and optimiser cut over the processes. docs/training.md tells all.
    """

    steps: Annotated[int, Field(ge=1, le=10**12)] = 10_000
    minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None
    batch_size: Held = 128
    micro_batch: NotNegative = 0
    lr: Annotated[float, Field(gt=0, le=1e30)] = 2e-4
    optimizer: Literal["adam", "muon"] = "adam"
    warmup: NotNegative = 500
    lr_decay: Literal["none", "linear", "cosine", "cooldown", "inverse_sqrt"] = "none"
    ema: Decay | Annotated[list[Decay], Field(min_length=1, max_length=MOST_AVERAGES)] = 0.9999
    grad_clip: Annotated[float, Field(ge=0)] = 1.0
    label_dropout: Fraction = 0.1
    time_sampling: str = "uniform"
    max_skips: Positive = 10
    log_every: Positive = 50
    checkpoint_every: NotNegative = 1000
    sample_every: NotNegative = 1000
    keep: NotNegative = 0
    quality_every: NotNegative = 0
    quality_n: Annotated[int, Field(ge=20, le=MOST_IN_MEMORY)] = 500
    quality_steps: Positive = 10
    patience: NotNegative = 0
    trackers: Annotated[list[str], Field(max_length=16)] = []
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    gradient_checkpointing: bool = False
    compile: bool = False
    shard: bool = False

    @property
    def decays(self) -> tuple[float, ...]:
        """The decays of the averages kept side by side; samples come from the first."""
        return (self.ema,) if isinstance(self.ema, float) else tuple(self.ema)

    @model_validator(mode="after")
    def _check_together(self) -> "Train":
        if len(set(self.decays)) < len(self.decays):
            raise UsageError(f"train.ema: a decay stands twice in {list(self.decays)}; once is enough")
        if self.shard and self.precision == "fp16":
            raise UsageError("train.shard and train.precision fp16 do not go together; take bf16")
        if self.shard and self.optimizer == "muon":
            raise UsageError("train.shard cuts the matrices that train.optimizer muon needs whole; take adam")
        return self


class Sample(_Section):
    """guidance acts where guidance_from <= t / T <= guidance_to; diffusion.guidance says what the rest does."""

    sampler: str = "ddim"
    steps: Positive = 50
    spacing: str = "auto"
    guidance: float = 1.0
    guidance_from: Fraction = 0.0
    guidance_to: Annotated[float, Field(ge=0, le=1)] = 1.0
    guidance_rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    eta: Fraction = 0.0
    clip: bool = True
    threshold: Annotated[float, Field(gt=0.5, le=1)] = 1.0


class Evaluate(_Section):
    """What `undiffuse evaluate` does by default: features of the Frechet distance, n images a seed (None: as many as
    there are train images, at most 5,000), sampling seeds to average over; mix: how often to draw each class, see
    undiffuse.data.dataset.Dataset.shares."""

    features: str = "pixels"
    mix: Mix = "auto"
    n: Annotated[int, Field(ge=2, le=MOST_IN_MEMORY)] | None = None
    repeats: Annotated[int, Field(ge=1, le=1000)] = 3


class Config(_Section):
    """A run, whole. Unknown keys are refused with the nearest name; so are files of a newer format."""

    format_version: Positive = FORMAT_VERSION
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data = Data()
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    sample: Sample = Sample()
    evaluate: Evaluate = Evaluate()

    def replaced(self, changes: dict[str, Any]) -> "Config":
        """This configuration with other values for some dotted keys, checked as a file would be. model.preset starts
        that section anew."""
        raw = self.model_dump()
        if "model.preset" in changes:
            raw["model"] = {"conditional": self.model.conditional}
        for key, value in changes.items():
            _put(raw, key, value)
        return checked_config(raw, "configuration")

    def as_yaml(self) -> str:
        return yaml.written(self.model_dump())


def _put(raw: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise UsageError(f"unknown key '{key}': '{section}' is a value, not a section")
    raw[last] = value


def checked_config(raw: dict[Any, Any], origin: str) -> Config:
    version = raw.get("format_version", FORMAT_VERSION)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UsageError(f"{origin}: format_version {version} is newer than {FORMAT_VERSION}; please upgrade undiffuse")
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        raise UsageError(f"{origin}: {first_complaint(error, Config, ['model.preset'])}") from error
