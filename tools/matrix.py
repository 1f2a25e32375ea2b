"""Try the wheel as a stranger would: a fresh environment, an empty directory, the demo and every command.

    python tools/matrix.py                       every cell whose Python is on the PATH
    python tools/matrix.py 3.12 lowest           these cells
    python tools/matrix.py lowest --suite        and the fast tests, with the tests' own tools as pinned

Cells: 3.11, 3.12, 3.13, 3.14 with the pinned versions; lowest, the lowest versions that pyproject.toml declares;
newest, the newest there are. Needs `build`, `uv`, gcc and an environment with undiffuse.
Logs, and summary.md with sizes and times: build/matrix/.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "matrix"
MIB = 2**20
CELLS = {
    "3.11": "3.11",
    "3.12": "3.12",
    "3.13": "3.13",
    "3.14": "3.14",
    "lowest": "3.11",
    "newest": "3.13",
}  # and its Python
SMALL = "--set train.steps=20 --set train.batch_size=16 --set model.channels=16"
SMOKE = f"""
undiffuse --version
undiffuse --help
undiffuse demo
undiffuse check digits --out sheet.png
undiffuse train digits --out runs/mine {SMALL} --set train.checkpoint_every=10
undiffuse train --resume --out runs/mine
undiffuse train --from digits --out runs/threes --set data.classes=[3] {SMALL.replace("--set model.channels=16", "")}
undiffuse sample digits -n 10 --out ten.png --steps 5
undiffuse sample runs/mine -n 4 --label 3,7 --out four.gif --steps 5
undiffuse sample runs/mine -n 4 --out four.npz --steps 5 --sampler ancestral
undiffuse sample fashion-mnist -n 4 --label sneaker --out many --steps 5
undiffuse sample emoji -n 1 --out one.png --steps 5
undiffuse fit runs/mine
undiffuse edit digits inpaint --mask right --out painted.png --steps 5
undiffuse edit digits interpolate --out between.png --steps 5
undiffuse evaluate runs/mine -n 20 --repeats 1 --out numbers.json
undiffuse evaluate runs/mine --metrics bpd --times 5
undiffuse convert runs/mine folder --to diffusers
undiffuse sample folder -n 2 --out again.png --steps 5
undiffuse plot schedules --out schedules.png
undiffuse plot forward --out forward.png
undiffuse plot noise --out noise.png
undiffuse plot reverse runs/mine --out reverse.png
undiffuse plot elbo runs/mine --out elbo.png
undiffuse plot score runs/mine --out score.png
"""


@dataclass(frozen=True)
class Cell:
    name: str
    python: str  # the interpreter to make the environment with

    @property
    def home(self) -> Path:
        return OUT / self.name

    @property
    def bin(self) -> Path:
        return self.home / "venv" / "bin"

    def run(self, *command: str, **changes: str) -> None:
        """Run in the cell's empty directory; what it says goes to the log."""
        folder = self.home / "empty"
        folder.mkdir(exist_ok=True)
        path = os.pathsep.join([str(self.bin), os.environ["PATH"]])
        with (OUT / f"{self.name}.log").open("ab") as log:
            log.write(f"\n$ {' '.join(command)}\n".encode())
            log.flush()
            environment = {**os.environ, "PATH": path, "PYTHONPATH": "", **changes}
            subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cells", nargs="*", choices=[[], *CELLS], help="default: all whose Python is there")
    parser.add_argument("--suite", action="store_true", help="run the fast tests too")
    given = parser.parse_args()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    wheel = _built()
    rows = [_tried(name, wheel, given.suite) for name in given.cells or CELLS]
    head = ["| cell | Python | torch | wheel | environment | install | commands | tests |", "|" + "---|" * 8]
    (OUT / "summary.md").write_text("\n".join([*head, *rows]) + "\n", encoding="utf-8")
    print((OUT / "summary.md").read_text("utf-8"))
    return int(any("FAILED" in row for row in rows))


def _built() -> Path:
    subprocess.run([sys.executable, str(ROOT / "tools" / "prebuild.py")], check=True, capture_output=True)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(OUT), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = OUT.glob("*.whl")
    return wheel


def _tried(name: str, wheel: Path, suite: bool) -> str:
    """One row of the summary."""
    python = shutil.which(f"python{CELLS[name]}")
    if python is None or subprocess.run([python, "--version"], capture_output=True, check=False).returncode:
        return f"| {name} | python{CELLS[name]} is not here |" + " |" * 6
    cell = Cell(name, python)
    cell.home.mkdir()
    print(f"{name}: {OUT / name}.log", flush=True)
    done = [_timed(lambda: _install(cell, wheel)), _timed(lambda: _smoke(cell)), "not run"]
    if suite:
        done[2] = _timed(lambda: _test(cell))
    version = "import sys, torch; print(sys.version.split()[0], '|', torch.__version__)"
    found = subprocess.run([cell.bin / "python", "-c", version], capture_output=True, text=True, check=False).stdout
    size = sum(path.stat().st_size for path in (cell.home / "venv").rglob("*") if not path.is_symlink())
    sizes = f"{wheel.stat().st_size / MIB:.1f} MiB | {size / MIB:,.0f} MiB"
    shutil.rmtree(cell.home)
    return f"| {name} | {found.strip()} | {sizes} | {' | '.join(done)} |"


def _timed(work: Callable[[], None]) -> str:
    start = time.monotonic()
    try:
        work()
    except subprocess.CalledProcessError as error:
        return f"FAILED: {' '.join(map(str, error.cmd))[:80]}"
    return f"{time.monotonic() - start:.0f} s"


def _install(cell: Cell, wheel: Path) -> None:
    cell.run(cell.python, "-m", "venv", str(cell.home / "venv"))
    pip = (str(cell.bin / "python"), "-m", "pip", "install", "--quiet")
    if cell.name == "lowest":
        lowest = str(cell.home / "lowest.txt")
        source = ("pip", "compile", str(ROOT / "pyproject.toml"), "--resolution", "lowest-direct")
        cell.run(sys.executable, "-m", "uv", *source, "--python", cell.python, "--quiet", "--output-file", lowest)
        cell.run(*pip, "-r", lowest)
        cell.run(*pip, "--no-deps", str(wheel))
    elif cell.name == "newest":
        cell.run(*pip, str(wheel))
    else:
        installer = (str(cell.bin / "python"), str(ROOT / "tools" / "install.py"), str(wheel))
        try:
            cell.run(*installer)
        except subprocess.CalledProcessError:  # refused: no CPU build for this Python can be had here
            cell.run(*installer, TORCH="gpu")


def _smoke(cell: Cell) -> None:
    for line in SMOKE.strip().splitlines():
        cell.run(*line.split())
    cell.run(
        str(cell.bin / "python"), "-c", "import undiffuse as ud; print(ud.Pipeline.load('digits').sample(2).shape)"
    )


def _test(cell: Cell) -> None:
    tools = ("pytest", "pytest-xdist", "hypothesis", "beartype", "build", "hatchling", "mypy", "types-PyYAML")
    pip = (str(cell.bin / "python"), "-m", "pip", "install", "--quiet")
    cell.run(*pip, "-c", str(ROOT / "constraints.txt"), "--no-deps", *tools)
    cell.run(*pip, *tools)  # what they need, whatever of it is there
    options = ("-o", "addopts=-q --strict-markers", "-o", "filterwarnings=ignore::DeprecationWarning", "-n", "2")
    cell.run(
        str(cell.bin / "python"), "-m", "pytest", "-m", "not slow", *options, str(ROOT / "tests"), OMP_NUM_THREADS="1"
    )


if __name__ == "__main__":
    sys.exit(main())
