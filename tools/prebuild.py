"""Compile the CPU kernels for the wheel: one library for each level of x86-64 (src/undiffuse/native/prebuilt.py).

    python tools/prebuild.py            on x86-64 Linux with gcc, in an environment that has undiffuse

The libraries name no OpenMP runtime: torch's own serves them.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from undiffuse.native import library, prebuilt

GLIBC = (2, 29)  # that of NumPy's distributions, made here; an older system compiles its own


def main() -> None:
    shutil.rmtree(prebuilt.C_FOLDER / "prebuilt", ignore_errors=True)
    (prebuilt.C_FOLDER / "prebuilt").mkdir()
    for level in prebuilt.LEVELS:
        path = prebuilt.library_path(level)
        _compile(level, path)
        print(f"{path.name}  {path.stat().st_size / 1024:.0f} KiB  glibc {'.'.join(map(str, _glibc(path)))}")


def _compile(level: str, path: Path) -> None:
    random = library.numpy_random()
    if random is None:
        sys.exit("this NumPy comes without libnpyrandom.a")
    flags = [flag for flag in library.FLAGS if flag != "-shared"]
    with tempfile.TemporaryDirectory() as folder:
        sources = [str(library.FOLDER / name) for name in library.C_SOURCES]
        _run(["gcc", *flags, f"-march={level}", "-DNUMPY", "-c", *sources], folder)
        objects = [f"{Path(name).stem}.o" for name in library.C_SOURCES]
        # -fopenmp here would name a libgomp
        _run(["gcc", "-shared", "-s", *objects, str(random), "-lm", "-o", str(path)], folder)


def _glibc(path: Path) -> tuple[int, int]:
    """The newest version of glibc that the library asks for."""
    done = subprocess.run(["objdump", "-T", str(path)], capture_output=True, text=True, check=True)
    newest = max((int(a), int(b)) for a, b in re.findall(r"GLIBC_(\d+)\.(\d+)", done.stdout))
    if newest > GLIBC or "libgomp" in done.stdout:
        sys.exit(f"{path.name} needs glibc {newest}, and users have {GLIBC}")
    return newest


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")


if __name__ == "__main__":
    main()
