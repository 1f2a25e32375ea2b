"""Install undiffuse into the environment that runs this file, with the build of PyTorch that fits the machine.

    python tools/install.py -e .               what `make setup` and `make demo` call
    TORCH=gpu python tools/install.py -e .     Linux: PyPI's build for NVIDIA GPUs, whatever this machine has
    TORCH=cpu ...                              the CPU build, though there is a GPU
    TORCH=cu128 ...                            the build of that name: pytorch.org/get-started says which there are

It says what will be downloaded and how large it is, and refuses gigabytes of GPU packages that nobody asked for.
Python's standard library and pip are all it needs.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BUILDS = "https://download.pytorch.org/whl"
ROOT = Path(__file__).resolve().parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
PINNED = ["-c", str(ROOT / "constraints.txt")]
TORCH = next(line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line.startswith("torch=="))
MIB = 2**20


def main(arguments: list[str]) -> int:
    build = os.environ.get("TORCH") or ("gpu" if _has_gpu() else "cpu")
    if re.fullmatch(r"cpu|gpu|cu\d+|rocm[\d.]+|xpu", build) is None:
        print(f"TORCH={build}: it is cpu, gpu, or a build's name such as cu128", file=sys.stderr)
        return 2
    there = _torch()
    if there and "TORCH" in os.environ:
        print(f"PyTorch {there} is here already; for another build: {sys.executable} -m pip uninstall torch")
    if not there:
        index = _index(build)
        found = _plan([TORCH, *index])
        if build == "cpu" and any(name.startswith(("nvidia-", "cuda-")) for name in found):
            _refuse(found)
            return 1
        _announce(f"PyTorch ({build})", found)
        _pip(TORCH, *index)
    _announce("all else", _plan(arguments))
    _pip(*arguments)
    return 0


def _torch() -> str:
    """The build that is installed, if it is of the version that is tested."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        return ""
    return found if found.split("+")[0] == TORCH.removeprefix("torch==") else ""


def _has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None and _run(["nvidia-smi", "-L"]).returncode == 0


def _index(build: str) -> list[str]:
    """Where the build comes from: PyPI's own is for GPUs on Linux and for CPUs elsewhere; PyTorch's index has the rest.

    If that does not answer, what pip finds may still be a CPU build. torch's dependencies come from PyPI, pinned.
    """
    if build == "gpu" or (build == "cpu" and sys.platform != "linux"):
        return []
    try:
        urllib.request.urlopen(f"{BUILDS}/{build}/torch/", timeout=10).close()
    except OSError as error:
        if build == "cpu":
            return []
        sys.exit(f"TORCH={build}: {BUILDS}/{build} cannot be had ({error})")
    return ["--no-deps", "--index-url", f"{BUILDS}/{build}"]


def _plan(arguments: list[str]) -> dict[str, str]:
    """The packages that pip would fetch for this, and where from."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip("--dry-run", "--report", str(report), *arguments)
        listed: list[dict[str, Any]] = json.loads(report.read_text("utf-8"))["install"]
    return {entry["metadata"]["name"].lower(): entry["download_info"]["url"] for entry in listed}


def _pip(*arguments: str) -> None:
    done = subprocess.run([*PIP, *PINNED, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)  # pip has said why


def _run(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, check=False)


def _announce(what: str, found: dict[str, str]) -> None:
    fetched = {name: url for name, url in found.items() if not url.startswith("file:")}
    if fetched:
        print(f"downloading {what}: {_in_words(fetched)}", flush=True)


def _refuse(found: dict[str, str]) -> None:
    print(
        f"PyTorch's CPU builds ({BUILDS}/cpu) cannot be reached, and what pip finds is the build for GPUs, which this "
        f"machine does not have: {_in_words(found)}.\nTake it all the same with TORCH=gpu, or install the CPU build of "
        f"{TORCH} into this environment yourself ({sys.executable} -m pip install ...) and start again.",
        file=sys.stderr,
    )


def _in_words(found: dict[str, str]) -> str:
    with ThreadPoolExecutor(16) as pool:
        sizes = list(pool.map(_size, found.values()))
    unknown = "" if all(sizes) else "at least "
    return f"{len(found)} package{'s' * (len(found) > 1)}, {unknown}{sum(sizes) / MIB:,.0f} MiB"


def _size(url: str) -> int:
    """Bytes; 0 where nobody says."""
    try:
        request = urllib.request.Request(url, method="HEAD" if url.startswith("http") else None)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.headers.get("Content-Length") or 0)
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
