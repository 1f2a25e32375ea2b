"""Help, usage errors and `import undiffuse` answer at once: none of them imports torch."""

import os
import statistics
import subprocess
import sys
import time

import pytest

PROBE = """
import sys
from undiffuse.cli import main
status = main(sys.argv[1:])
heavy = {"torch", "accelerate", "sklearn", "matplotlib", "scipy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
sys.exit(status)
"""


def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = ["-c", code] if code else ["-m", "undiffuse"]
    return subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["train", "--help"], 0),
        (["sample", "-h"], 0),
        (["plot", "--help"], 0),
        (["sample", "run", "--nope"], 2),
        (["sampel"], 2),
        (["train", "nope"], 2),
        (["train", "digits", "--set", "trian.lr=1"], 2),
        (["train", "digits", "--set", "train.lr=abc"], 2),
        (["sample", "run"], 2),
        (["sample", "run", "--out", "x.png", "-n", "three"], 2),
        (["edit"], 2),
        (["studio", "--port", "1"], 2),
        ([], 2),
    ],
)
def test_torch_is_not_imported(arguments, status):
    done = run(*arguments, code=PROBE)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, undiffuse; dir(undiffuse); assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    assert run(code=code).returncode == 0


def test_help_and_a_usage_error_answer_within_six_tenths_of_a_second():
    """The median of seven; a machine that is busy with other work proves nothing either way."""
    if os.getloadavg()[0] > 0.8 * (os.cpu_count() or 1) or os.environ.get("CI"):
        pytest.skip("the machine is not quiet")
    for arguments in (["--help"], ["train", "nope"]):
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            run(*arguments)
            seconds.append(time.perf_counter() - began)
        assert statistics.median(seconds) < 0.6


def test_the_module_and_its_main_are_the_same_command():
    done = run("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("undiffuse ")
