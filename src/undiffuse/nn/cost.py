"""What a U-Net takes, counted before it is built: its weights, and the numbers in its maps."""

from collections.abc import Iterator
from typing import NamedTuple

from undiffuse.nn.spec import UNetSpec


class Spot(NamedTuple):
    """A block of the network: channels in and out, how much smaller its map is than the picture, whether it attends,
    and whether its output waits for the way up."""

    c_in: int
    c_out: int
    factor: int
    attends: bool
    waits: bool


def spots(spec: UNetSpec) -> Iterator[Spot]:
    """The blocks in their order, as nn.unet.UNet makes them; without those that change sizes."""
    widths, width, skips = spec.widths, spec.channels, [spec.channels]
    for level, wide in enumerate(widths):
        factor, attends = spec.patch * 2**level, 2**level in spec.attention
        for _ in range(spec.blocks):
            yield Spot(width, wide, factor, attends, True)
            width = wide
        skips += [wide] * (spec.blocks + (level < len(widths) - 1))
    for attends in (True, False):
        yield Spot(width, width, factor, attends, False)
    for level, wide in reversed(list(enumerate(widths))):
        for _ in range(spec.blocks + 1):
            yield Spot(width + skips.pop(), wide, spec.patch * 2**level, 2**level in spec.attention, False)
            width = wide


def count_weights(spec: UNetSpec) -> int:
    """Exactly the numbers that `UNet(spec)` learns."""
    narrow, last, embedding = spec.channels, spec.widths[0], spec.embedding
    pixels = spec.patch**2
    count = _linear(narrow, embedding) + _linear(embedding, embedding)
    count += (spec.num_classes + 1) * embedding if spec.num_classes else 0
    count += _conv(spec.in_channels * pixels, narrow) + 2 * last + _conv(last, spec.out_channels * pixels)
    block = _convnext if spec.block == "convnext" else _residual
    for spot in spots(spec):
        count += block(spot.c_in, spot.c_out, spec)
        if spot.attends:
            count += 2 * spot.c_out + _linear(spot.c_out, 3 * spot.c_out) + _linear(spot.c_out, spot.c_out)
    for wide in [*spec.widths[:-1], *spec.widths[1:]]:  # one that halves and one that doubles between two levels
        count += _residual(wide, wide, spec) if spec.resample == "residual" else _conv(wide, wide)
    return count


def count_waiting(spec: UNetSpec, height: int, width: int) -> int:
    """The numbers of one picture's maps that wait for the way up: a pass without gradients holds more than these."""
    return sum(spot.c_out * _positions(spec, height, width, spot.factor) for spot in spots(spec) if spot.waits)


def count_kept(spec: UNetSpec, height: int, width: int, checkpointed: bool = False) -> int:
    """The numbers of one picture's maps that training keeps for the backward pass, at the least: of each block what
    goes in and what comes between its convolutions; checkpointed: only what goes in."""
    inside = 0 if checkpointed else 1
    return sum((spot.c_in + inside * spot.c_out) * _positions(spec, height, width, spot.factor) for spot in spots(spec))


def _positions(spec: UNetSpec, height: int, width: int, factor: int) -> int:
    """Of a map: sizes that the levels do not divide are padded."""
    multiple = spec.patch * 2 ** (len(spec.multipliers) - 1)
    tall, wide = (-(-side // multiple) * multiple for side in (height, width))
    return (tall // factor) * (wide // factor)


def _linear(c_in: int, c_out: int) -> int:
    return c_in * c_out + c_out


def _conv(c_in: int, c_out: int) -> int:
    return 9 * c_in * c_out + c_out


def _residual(c_in: int, c_out: int, spec: UNetSpec) -> int:
    skip = _linear(c_in, c_out) if c_in != c_out else 0
    told = _linear(spec.embedding, c_out * (2 if spec.scale_shift else 1))
    return 2 * (c_in + c_out) + _conv(c_in, c_out) + _conv(c_out, c_out) + told + skip


def _convnext(c_in: int, c_out: int, spec: UNetSpec) -> int:
    skip = _linear(c_in, c_out) if c_in != c_out else 0
    told = _linear(spec.embedding, c_in * (2 if spec.scale_shift else 1))
    inside = _conv(c_in, 2 * c_out) + _conv(2 * c_out, c_out)
    return 50 * c_in + told + 2 * c_in + inside + 4 * c_out + skip
