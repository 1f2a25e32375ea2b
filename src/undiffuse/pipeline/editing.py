"""Change pictures with a model: paint what is missing, vary, take to noise and back, go from one to another.

All take images float32 [n, c, h, w] in [-1, 1] and label, int64 [n] (None: of no class), and give images alike. Image i
draws its noise from (seed, i). `watch` sees the frames: shapes.Watch.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from undiffuse import rng
from undiffuse.diffusion import guidance
from undiffuse.diffusion.denoiser import Denoise
from undiffuse.diffusion.inversion import inverted, slerp
from undiffuse.diffusion.samplers import GUESSES, Frame, Resampled
from undiffuse.errors import UsageError
from undiffuse.pipeline import build
from undiffuse.pipeline.likelihood import check_scored
from undiffuse.pipeline.pipeline import BLOCK, Pipeline
from undiffuse.pipeline.ranges import aligned
from undiffuse.shapes import Images, Mask, Tensor, Watch, unwatched, watch_items

JUMP = 10, 5  # RePaint's j, there of 250 steps: at most so many steps, and at most this part of all


def inpaint(
    pipe: Pipeline,
    images: Images,
    known: Tensor,
    label: Tensor | None = None,
    seed: int = 0,
    *,
    repeats: int = 5,
    watch: Watch = unwatched,
) -> Images:
    """Pictures with what is not `known` painted anew, by any sampler; known pixels come back exactly as they were.

    known: bool, broadcast against images (True: keep). repeats: RePaint's resampling over stretches of ten steps, or a
    fifth of all if that is less, which makes old and new fit together and multiplies the network calls; more than 1
    needs noise with a chain.
    """
    label, kept = _label(pipe, images, label), _mask(images, known)
    times = pipe.times()
    jump = max(1, min(JUMP[0], (len(times) - 1) // JUMP[1]))
    stops = times if repeats == 1 else [*times[:-1:jump], 0.0]
    sampler = build.sampler(pipe.config) if repeats == 1 else Resampled(build.sampler(pipe.config), (*times,), repeats)

    def walk(rows: slice, draws: rng.Generator) -> Iterator[Frame]:
        x0, where = images[rows].to(pipe.device), kept[rows].to(pipe.device)
        denoise = guidance.known(pipe.denoise(_of(label, rows)), x0, where)
        return pipe.walk(pipe.process.prior(tuple(x0.shape), draws), stops, draws, denoise, sampler)

    return torch.where(kept, images, _made(len(images), seed, stops, watch, walk))


def variations(
    pipe: Pipeline,
    images: Images,
    strength: float = 0.5,
    label: Tensor | None = None,
    seed: int = 0,
    *,
    watch: Watch = unwatched,
) -> Images:
    """The pictures put into the noise of t = strength T and brought back (SDEdit, Meng et al. 2022, algorithm 1).

    strength: in (0, 1]; 1 leaves next to nothing of them. By the configured sampler over its times below t.
    """
    if not 0 < strength <= 1:
        raise UsageError(f"strength must lie in (0, 1], got {strength}")
    label = _label(pipe, images, label)
    t = float(max(round(strength * pipe.process.T), 1))
    times = [t, *(s for s in pipe.times() if s < t)]

    def walk(rows: slice, draws: rng.Generator) -> Iterator[Frame]:
        x_t = pipe.process.corrupt(images[rows].to(pipe.device), t, draws).x_t
        return pipe.walk(x_t, times, draws, pipe.denoise(_of(label, rows)))

    return _made(len(images), seed, times, watch, walk)


def invert(
    pipe: Pipeline, images: Images, label: Tensor | None = None, refinements: int = 0, watch: Watch = unwatched
) -> Images:
    """x_T of these pictures: DDIM run upwards over the configured times, x0 not clipped (see diffusion.inversion)."""
    label, pipe = _label(pipe, images, label), _invertible(pipe)
    rising = pipe.times()[::-1]

    def walk(rows: slice, draws: rng.Generator) -> Iterator[Frame]:
        x0 = images[rows].to(pipe.device)
        return inverted(pipe.process, pipe.denoise(_of(label, rows)), x0, rising, refinements)

    return _made(len(images), 0, rising, watch, walk)


def reconstruct(
    pipe: Pipeline, images: Images, label: Tensor | None = None, refinements: int = 0, watch: Watch = unwatched
) -> Images:
    """The pictures taken to noise by `invert` and back by DDIM(0) over the same times."""
    x_T = invert(pipe, images, label, refinements, watch)
    label, pipe = _label(pipe, images, label), _invertible(pipe)
    times = pipe.times()

    def walk(rows: slice, draws: rng.Generator) -> Iterator[Frame]:
        return pipe.walk(x_T[rows], times, draws, pipe.denoise(_of(label, rows)))

    return _made(len(images), 0, times, watch, walk)


def interpolate(
    pipe: Pipeline, x_T: Images, n: int = 8, label: Tensor | None = None, watch: Watch = unwatched
) -> Tensor:
    """n pictures from the noise x_T[0] to x_T[1], both ends included, by the configured sampler without its noise.

    x_T: [2, c, h, w], of `Pipeline.noise` or of `invert`. On the way it is turned along the great circle; guesses for
    two classes, label [2], are mixed.
    """
    if n < 2 or len(x_T) != 2:
        raise UsageError(f"a way has two ends and at least 2 pictures, got {len(x_T)} and {n}")
    label, pipe = _label(pipe, x_T, label), without_noise(pipe)
    times, shares = pipe.times(), np.linspace(0.0, 1.0, n)
    between = slerp(x_T[:1], x_T[1:], shares)

    def denoise(rows: slice) -> Denoise:
        one, other = (None if label is None else label[i].expand(len(shares[rows])) for i in (0, 1))
        if one is None or other is None or bool((one == other).all()):
            return pipe.denoise(one)
        return guidance.mixed(pipe.denoise(one), pipe.denoise(other), shares[rows])

    def walk(rows: slice, draws: rng.Generator) -> Iterator[Frame]:
        return pipe.walk(between[rows], times, draws, denoise(rows))

    return _made(n, 0, times, watch, walk)


def error(images: Images, again: Images) -> float:
    """Mean squared difference per dimension of pictures in [0, 1] (Song, Meng & Ermon 2021, table 2)."""
    return float(((images.double() - again.double()) / 2).square().mean())


def without_noise(pipe: Pipeline) -> Pipeline:
    """The pipeline with eta = 0. Raises UsageError where the sampler cannot do without noise."""
    sampler = pipe.config.sample.sampler
    if sampler not in (*GUESSES, "pndm"):
        raise UsageError(
            f"the sampler '{sampler}' draws noise on the way, so its pictures do not change smoothly; take ddim"
        )
    return pipe.configured(eta=0.0)


def _invertible(pipe: Pipeline) -> Pipeline:
    """DDIM(0) on what the network says, unclipped."""
    noise = pipe.process.noise
    if "flow" not in noise.exact:
        raise UsageError(f"inversion needs noise whose deterministic flow is exact; '{noise.name}' noise has none")
    return pipe.configured(sampler="ddim", eta=0.0, clip=False, threshold=1.0)


def _label(pipe: Pipeline, images: Images, label: Tensor | None) -> Tensor | None:
    """Checked labels; a model that was never trained without a class needs one."""
    if pipe.class_names and label is None and pipe.config.train.label_dropout == 0:
        raise UsageError(
            "this model was trained with a class for every picture (train.label_dropout = 0): give a label"
        )
    return check_scored(pipe, images, label)


def _mask(images: Images, known: Tensor) -> Mask:
    if known.dtype != torch.bool:
        raise UsageError(f"known must be a bool tensor, True where the picture is kept; got {known.dtype}")
    try:
        kept = torch.broadcast_to(known, images.shape)
    except RuntimeError as error:
        raise UsageError(f"known {list(known.shape)} does not fit images {list(images.shape)}") from error
    if bool(kept.all()):
        raise UsageError("everything is known: there is nothing to paint")
    return kept


def _of(label: Tensor | None, rows: slice) -> Tensor | None:
    return None if label is None else label[rows]


def _made(
    n: int,
    seed: int,
    stops: Sequence[float],
    watch: Watch,
    walk: Callable[[slice, rng.Generator], Iterator[Frame]],
) -> Images:
    """The last x of every block's walk, which yields a frame after each step from one stop to the next."""
    blocks, done = list(aligned(0, n, BLOCK)), list[Tensor]()

    def frames() -> Iterator[Frame]:
        for rows in blocks:
            last = None
            for last in walk(slice(rows.start, rows.stop), rng.per_row(seed, "sample", rows=rows)):
                yield last
            assert last is not None
            done.append(last.x.float().cpu())

    for _ in watch_items(watch, frames(), len(blocks) * (len(stops) - 1), "step"):
        pass
    return torch.cat(done)
