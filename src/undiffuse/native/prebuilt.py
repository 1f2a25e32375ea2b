"""Kernels that come compiled with the wheel (tools/prebuild.py): without a compiler, and without a wait at first use.

One library for each level of x86-64, used where the processor has that level's instructions and the library was made
from these very sources. Everywhere else the kernels are compiled on the spot.
"""

import ctypes
import hashlib
import platform
from pathlib import Path

import numpy as np

C_FOLDER = Path(__file__).parent
LEVELS = {  # the x86-64 psABI's, best first; each has the next one's too
    "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
    "x86-64-v3": ("avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"),
}  # as /proc/cpuinfo calls them


def library_path(level: str) -> Path:
    """Where the library of a level and of these sources lies."""
    sources = sorted([*C_FOLDER.glob("*.c"), *C_FOLDER.glob("*.h")])
    digest = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:12]
    return C_FOLDER / "prebuilt" / f"{level}-{digest}.so"


def find_library() -> Path | None:
    """The best that this processor can run, if the wheel brought it."""
    if platform.machine() != "x86_64" or not (C_FOLDER / "prebuilt").is_dir():
        return None
    flags = processor_flags()
    needed: set[str] = set()
    found = None
    for level, names in reversed(LEVELS.items()):
        needed |= set(names)
        if needed <= flags and library_path(level).is_file():
            found = library_path(level)
    return found


def processor_flags() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def open_library(path: Path, openmp: Path) -> ctypes.CDLL:
    """The library, on this OpenMP runtime, which it names nowhere: every build of torch has its own name for it."""
    ctypes.CDLL(str(openmp), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def draws_as_numpy(library: ctypes.CDLL) -> bool:
    """Whether its normal numbers are this NumPy's: those it was linked with may be of another version."""
    ours, theirs = np.random.Philox(key=1), np.random.Philox(key=1)  # noqa: TID251  (a fixed stream, to compare with)
    found = np.empty(1000, np.float32)
    pointers = (ctypes.c_void_p * 1)(ours.ctypes.bit_generator.value)
    if not library.normals(pointers, 1, len(found), found.ctypes.data, 1):
        return False
    wanted = np.random.Generator(theirs).standard_normal(len(found), dtype=np.float32)  # noqa: TID251
    return bool((found == wanted).all())
