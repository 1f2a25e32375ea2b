"""Types and shapes are checked in a run of their own, of one case of each test; all cases run bare, for speed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import instrumented
from undiffuse.images import from_levels

HERE = Path(__file__).parent
WHERE = (
    "diffusion",
    "nn",
    "pipeline",
    "metrics",
    "train/test_trainer.py",
    "train/test_optimizers.py",
    "test_images.py",
)


def test_one_case_of_each_with_every_type_and_shape_checked():
    """Every function that names a shape is entered, and a wrong shape is refused: else the run fails."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COVERAGE_"))}
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "pytest", "-p", "instrumented", "--every-shape", "-m", "not slow and not bare"]
    command += ["-p", "no:cacheprovider", *(str(HERE / room) for room in WHERE)]
    done = subprocess.run(command, cwd=HERE.parent, env=ours | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_cases_run_bare():
    assert not hasattr(from_levels, "__wrapped__")


def test_no_shape_escapes_the_list_of_functions_to_enter():
    """It is made of what modules import from `undiffuse.shapes`, so they import shapes from nowhere else."""
    found = set(instrumented.shaped())
    some = ("diffusion.split.Split.__init__", "nn.unet.UNet.forward", "pipeline.pipeline.Pipeline.sample")
    assert {f"undiffuse.{name}" for name in (*some, "train.optimizers.orthogonal")} <= found
    for path in instrumented.HOUSE.rglob("*.py"):
        assert path.name == "shapes.py" or not re.search(r"jaxtyping|import shapes", path.read_text("utf-8")), path
