"""The kernels under an address sanitizer and one for undefined behaviour: random layers and inputs, right and wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from undiffuse.native import library

pytest.importorskip("torch")  # whose OpenMP runtime they share
pytestmark = pytest.mark.skipif(library.kernels() is None, reason="no C compiler")
FUZZING = Path(__file__).with_name("fuzzing.py")
SANITIZED = """
import ctypes, sys
from undiffuse.native import library
flags = ("-march=native", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
library._open = lambda: library.declared(ctypes.CDLL(str(library.compile_library((flags,)))))
library.keep_memory = lambda: None
sys.path.insert(0, sys.argv[1])
import fuzzing
"""


def sanitized(script: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A process of its own, in which every allocation is watched."""
    # libstdc++ too: the sanitizer looks for its exceptions when it starts
    asking = (["gcc", f"-print-file-name={name}"] for name in ("libasan.so", "libstdc++.so"))
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in asking]
    watched = {"LD_PRELOAD": ":".join(found), "ASAN_OPTIONS": "detect_leaks=0"}
    environment = {**os.environ, **watched, "XDG_CACHE_HOME": str(tmp_path), "UBSAN_OPTIONS": "print_stacktrace=1"}
    command = [sys.executable, "-c", SANITIZED + script, str(FUZZING.parent)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_ten_thousand_layers_and_inputs_touch_no_memory_of_others(tmp_path):
    done = sanitized("fuzzing.main(10_000, 0)", tmp_path)
    assert done.returncode == 0, done.stderr[:3000]
    print(done.stdout)
    assert int(done.stdout.split("cases: ")[1].split()[0]) > 3000  # so many took a kernel


@pytest.mark.slow
def test_a_read_past_the_end_is_found(tmp_path):
    """Else the other test proves nothing: here a kernel is told of more channels than there are."""
    script = """
import torch
from undiffuse.native.library import LinearShape
x, out, work = torch.ones(16, 16), torch.empty(32, 16), torch.empty(256)
library.kernels().linear_forward(LinearShape(32, 16, 16), 1, *(z.data_ptr() for z in (x, x, x, x, out, work)))
"""
    done = sanitized(script, tmp_path)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
    assert "linear_forward" in done.stderr


def test_a_few_random_layers_agree_with_torch():
    done = subprocess.run([sys.executable, str(FUZZING), "300", "20000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split("cases: ")[1].split()[0]) > 80
