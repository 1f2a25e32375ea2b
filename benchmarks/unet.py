"""This library's U-Net against its peers': images per second, share of the machine's convolution peak, memory.

Run: make bench   (or: python benchmarks/unet.py [--sizes cifar10,gray28] [--repeats 12])

Same weights as diffusers' UNet2DModel, same batch, one process, repetitions in turns; a ratio is the median over turns,
with its quartiles. A training step is forward, mean squared error, backward, gradient clipping and Adam.
"""

import argparse
import platform
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from peers import SIZES, Contender, Size, diffusers_unet, lucidrains_unet, ours
from timing import Call, Spread, convolution_peak, interleaved, ratio
from torch.utils.flop_counter import FlopCounterMode

from undiffuse.native import library
from undiffuse.nn.unet import parameter_count
from undiffuse.rng import fold

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
MODES = ("inference", "training")
HEADS = {"one head": None, "heads of 8": 8}


def contenders(size: Size, head_dim: int | None) -> dict[str, Contender]:
    theirs = diffusers_unet(size, head_dim)
    for parameter in theirs.network.parameters():  # no zeros, which are faster to multiply on some machines
        parameter.data.add_(0.01)
    found = {"diffusers": theirs, "undiffuse": ours(size, head_dim, theirs.network)}
    if head_dim is None:
        found["lucidrains"] = lucidrains_unet(size)
    return found


def inputs(size: Size, contender: Contender) -> tuple[torch.Tensor, torch.Tensor]:
    layout = torch.channels_last if contender.channels_last else torch.contiguous_format
    x = fold(0, "x").normal(size.shape).to(DEVICE).contiguous(memory_format=layout)
    return x, torch.full((size.batch,), 500, device=DEVICE)


def call_of(size: Size, contender: Contender, mode: str, bf16: bool = False) -> Call:
    network = contender.network.to(DEVICE).train(mode == "training")
    x, t = inputs(size, contender)
    t = t.float() if contender.fused else t
    cast = torch.autocast(DEVICE, torch.bfloat16) if bf16 else nullcontext()
    if mode == "inference":

        def infer() -> None:
            with torch.inference_mode(), cast:
                contender.forward(x, t)

        return infer
    optimizer = contender.optimizer

    def step() -> None:
        with cast:
            loss = torch.nn.functional.mse_loss(contender.forward(x, t), x)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def operations(call: Call) -> float:
    """By torch's counter, of the network as torch itself computes it: a faster algorithm does not change the count."""
    with library.switched(False), FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def peak_memory(size: str, heads: str, name: str, mode: str) -> float:
    """MiB above what the process held before the first of three calls, in a process of its own."""
    command = [sys.executable, __file__, "--memory", size, heads, name, mode]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def print_memory(size: str, heads: str, name: str, mode: str) -> None:
    chosen = contenders(SIZES[size], HEADS[heads])
    call = call_of(SIZES[size], chosen[name], mode)
    if DEVICE == "cuda":
        held = torch.cuda.memory_allocated()
        call(), call(), call()
        print((torch.cuda.max_memory_allocated() - held) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    held = resident("VmRSS")
    call(), call(), call()
    print((resident("VmHWM") - held) / 1024)


def resident(field: str) -> int:
    """KiB that the process holds (VmRSS), or held at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def compare(name: str, heads: str, mode: str, repeats: int) -> None:
    size = SIZES[name]
    chosen = contenders(size, HEADS[heads])
    calls = {who: call_of(size, contender, mode) for who, contender in chosen.items()}
    flops = {who: operations(call) for who, call in calls.items()}
    calls["undiffuse, bf16"] = call_of(size, chosen["undiffuse"], mode, bf16=True)
    flops["undiffuse, bf16"] = flops["undiffuse"]
    times = interleaved(calls, repeats)
    peaks = {last: convolution_peak(DEVICE, last, torch.float32, mode == "training") for last in (True, False)}
    both = f"{peaks[True] / 1e9:.0f} GFLOP/s channels last, {peaks[False] / 1e9:.0f} otherwise"
    print(f"\n{name}, {heads}, {mode}, batch {size.batch}: 3x3 convolution peak {both}\n")
    print("| network | parameters | images/s | GFLOP/s | share of peak | times diffusers (quartiles) | MiB |")
    print("|---|---|---|---|---|---|---|")
    for who, seconds in times.items():
        contender = chosen[who.split(",")[0]]
        spread, gain = Spread.of(seconds), ratio(times["diffusers"], seconds)
        speed = flops[who] / spread.median
        cells = [
            who,
            f"{parameter_count(contender.network) / 1e6:.2f} M",
            f"{size.batch / spread.median:.1f}",
            f"{speed / 1e9:.0f}",
            f"{speed / peaks[contender.channels_last]:.0%}",
            f"{gain.median:.2f} ({gain.low:.2f} to {gain.high:.2f})",
            "" if "bf16" in who else f"{peak_memory(name, heads, who, mode):.0f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        return print_memory(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--repeats", type=int, default=12)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else platform.processor() or platform.machine()
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in chosen.sizes.split(","):
        for heads in HEADS:
            for mode in MODES:
                compare(name, heads, mode, chosen.repeats)
    return None


if __name__ == "__main__":
    main()
