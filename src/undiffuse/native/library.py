"""The C kernels beside this file, compiled once for this machine with its own compiler and kept in the user's cache.

Everything works without them, only slower: no compiler, no Linux, UNDIFFUSE_NATIVE=0, and torch's kernels are used.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.files import cache as user
from undiffuse.native import prebuilt

FOLDER = Path(__file__).parent
C_SOURCES = (
    *("winograd.c", "winograd_weight.c", "groupnorm.c", "attention.c", "linear.c", "residual.c", "draws.c"),
    "threads.c",
)
HEADERS = ("vec.h", "transforms.h", "tiles.h", "product.h", "kernels.h")
FLAGS = ("-O3", "-fopenmp", "-fno-math-errno", "-shared", "-fPIC")
TUNING = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h's
KEPT, LARGEST_KEPT = 512 << 20, 32 << 20  # bytes; above the second glibc never keeps a block

NEWEST = 4  # compiled libraries that stay in the cache: environments may differ

_enabled = os.environ.get("UNDIFFUSE_NATIVE", "1") != "0"


class SlowWarning(UserWarning):
    """A warning that the fast CPU kernels cannot be had here; the message says why."""


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """The kernels on or off inside the block; off is how they are compared with torch's."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


def kernels() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they are switched off or cannot be had (said once, as a SlowWarning).

    They are for Linux. Elsewhere torch's kernels are what there is, and nothing is said.
    """
    return _load() if _enabled and sys.platform == "linux" else None


@cache
def _load() -> ctypes.CDLL | None:
    try:
        library = _open()
    except (OSError, RuntimeError, UndiffuseError, subprocess.SubprocessError) as trouble:
        what = " ".join(str(trouble).split())[:300]
        reason = f"{what}; networks run on torch's own kernels, about half as fast (UNDIFFUSE_NATIVE=0 hides this line)"
        warnings.warn(f"the fast CPU kernels cannot be had: {reason}", SlowWarning, stacklevel=2)
        return None
    keep_memory()
    return library


def _open() -> ctypes.CDLL:
    """The library that came with the wheel, or else the one that is compiled here, from the cache.

    One from the cache that does not load, or lacks a function, is marked to be compiled again.
    """
    if (ready := prebuilt.find_library()) is not None:
        with suppress(OSError, AttributeError):  # a system too old for it
            library = declared(prebuilt.open_library(ready, openmp()))
            if not prebuilt.draws_as_numpy(library):
                library.__dict__["normals"] = lambda *_: 0
            return library
    path = compile_library()
    try:
        return declared(ctypes.CDLL(str(path)))
    except (OSError, AttributeError) as error:
        _seal(path).unlink(missing_ok=True)
        raise RuntimeError(f"{path} cannot be used ({error}); it will be compiled again at the next start") from error


def keep_memory() -> None:
    """Have glibc keep up to half a GiB of freed memory for the next maps: getting new pages costs more than a norm.

    Its own limits, if set in the environment (MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_), stand.
    """
    if hasattr(ctypes.CDLL(None), "mallopt") and not any(name.startswith("MALLOC_") for name in os.environ):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)


def compile_library(tuning: tuple[tuple[str, ...], ...] = TUNING) -> Path:
    """The shared library's path, after compiling it if the cache has none for these sources, compiler, flags and CPU.

    Raises RuntimeError with the reason if there is no compiler, no OpenMP runtime to share, or an error.
    """
    compiler = next(filter(None, map(shutil.which, ("gcc", "cc", "clang"))), None)
    if compiler is None:
        raise RuntimeError("no C compiler was found (gcc or clang)")
    runtime = openmp()
    text = "".join((FOLDER / name).read_text("utf-8") for name in (*C_SOURCES, *HEADERS))
    version = _run([compiler, "--version"], seconds=20).stdout
    parts = [text, version, str(runtime), str(numpy_random()), np.__version__, str(tuning), cpu()]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    target = private_folder() / f"kernels-{key}.so"
    if not _sound(target):
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            made = Path(scratch) / "kernels.so"
            _compile(compiler, runtime, tuning, made)
            _seal(made).write_bytes(_digest(made).encode())
            for path in (made, _seal(made)):
                with path.open("rb") as written:
                    os.fsync(written.fileno())
            made.replace(target)  # at once: another process may be compiling the same
            _seal(made).replace(_seal(target))
        _forget_old(target.parent)
    return target


def _forget_old(folder: Path) -> None:
    """Keep the newest libraries: a new version of anything makes another, and nobody looks at the old ones again."""
    made = sorted(folder.glob("kernels-*.so"), key=lambda path: path.stat().st_mtime)
    for path in made[:-NEWEST]:
        path.unlink(missing_ok=True)
        _seal(path).unlink(missing_ok=True)


def _seal(path: Path) -> Path:
    """Beside the library: the digest of what was compiled. A file cut short would kill the process that loads it."""
    return path.with_suffix(".sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sound(path: Path) -> bool:
    """Whether a whole library of our own lies there."""
    files = (path, _seal(path))
    if not all(file.is_file() and file.stat().st_uid == os.getuid() for file in files):
        return False
    return _seal(path).read_text("utf-8", errors="replace") == _digest(path)


def _run(command: list[str], seconds: int) -> subprocess.CompletedProcess[str]:
    """Run a command, in English whatever the user's language, and not for ever."""
    english = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=english, timeout=seconds, check=False
    )


def _compile(compiler: str, runtime: Path, tuning: tuple[tuple[str, ...], ...], made: Path) -> None:
    archive, sources = numpy_random(), [str(FOLDER / name) for name in C_SOURCES]
    drawing = [["-DNUMPY", str(archive)], []] if archive else [[]]  # without, if it cannot be linked
    for tuned, drawn in product(tuning, drawing):
        command = [compiler, *FLAGS, *tuned, *sources, *drawn, str(runtime), "-lm"]
        done = _run([*command, "-o", str(made)], seconds=300)
        if done.returncode == 0 and made.is_file():
            return
    line = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200])
    raise RuntimeError(f"{Path(compiler).name} failed with status {done.returncode}: {line.strip() or 'no message'}")


def private_folder() -> Path:
    """The user's cache, made private: what lies there is run."""
    folder = user.folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise RuntimeError(f"{folder} belongs to, or can be written by, another user: chmod go-w it")
    return folder


def openmp() -> Path:
    """torch's own OpenMP runtime, to be shared: two pools of threads would spin against each other."""
    lines = Path("/proc/self/maps").read_text("utf-8", errors="replace").splitlines()
    found = sorted({Path(line.split(maxsplit=5)[5]) for line in lines if "libgomp" in line})
    own = [path for path in found if any(part in ("torch", "torch.libs") for part in path.parts)] or found
    if len(own) != 1:  # scikit-learn, for one, brings another
        raise RuntimeError(f"torch's OpenMP runtime is not GCC's ({', '.join(map(str, own)) or 'no libgomp'})")
    return own[0]


def numpy_random() -> Path | None:
    """NumPy's distributions, to be linked with; some packages of it come without."""
    path = Path(np.__file__).parent / "random" / "lib" / "libnpyrandom.a"
    return path if path.is_file() else None


def cpu() -> str:
    """The processor's features, which -march=native depends on."""
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


class NormShape(ctypes.Structure):
    """groupnorm.c's Shape."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "positions", "channels", "groups", "step")),
        ("silu", ctypes.c_int32),
    ]


class HeadsShape(ctypes.Structure):
    """attention.c's Heads."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "n", "heads", "d")]


class LinearShape(ctypes.Structure):
    """linear.c's Linear."""

    _fields_ = [(name, ctypes.c_int64) for name in ("rows", "inputs", "outputs")]


class ResidualShape(ctypes.Structure):
    """residual.c's Residual."""

    POINTERS = (
        *("norm1_weight", "norm1_bias", "conv1_weight", "conv1_bias", "offset", "norm2_weight", "norm2_bias"),
        *("conv2_weight", "conv2_bias", "skip_weight", "skip_bias"),
    )
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "height", "width", "left", "inputs", "outputs")),
        *((name, ctypes.c_int64) for name in ("groups1", "groups2", "step", "chunk")),
        *((name, ctypes.c_float) for name in ("eps1", "eps2")),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def declared(library: ctypes.CDLL) -> ctypes.CDLL:
    """The argument types of every function."""
    n, p, i = ctypes.c_long, ctypes.c_void_p, ctypes.c_int
    shape, heads, linear, residual = map(ctypes.POINTER, (NormShape, HeadsShape, LinearShape, ResidualShape))
    signatures = {
        "normals": ([p, n, n, p, n], i),
        "gather_threads": ([i], None),
        "wino_vector": ([], i),
        "wino_fuses": ([n] * 5, i),
        "wino_conv_floats": ([n] * 6, n),
        "wino_wgrad_floats": ([n] * 6, n),
        "wino_conv": ([p] * 5 + [n] * 5 + [i, p, n], None),
        "wino_wgrad": ([p] * 4 + [n] * 5 + [p, n], None),
        "norm_forward": ([shape, i] + [p] * 4 + [ctypes.c_float] + [p] * 3, None),
        "norm_backward": ([shape, i] + [p] * 11, None),
        "attention_floats": ([heads, i], n),
        "attention_forward": ([heads, i] + [p] * 4, None),
        "attention_backward": ([heads, i] + [p] * 6, None),
        "residual_floats": ([residual, n], n),
        "residual_forward": ([residual, i] + [p] * 4, None),
        "linear_forward": ([linear, i] + [p] * 6, None),
    }
    for name, (arguments, result) in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, result
    return library
