"""Sampling jobs with real processes, signals and `accelerate launch`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from drawn import finished
from undiffuse.files.blocks import BLOCK_FORMATS

pytestmark = pytest.mark.slow
KINDS = list(BLOCK_FORMATS)
MANY = ["-n", "2000", "--batch-size", "64", "--steps", "25"]


def command(run: Path, out: Path, *options: str, launch: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", *launch] if launch else [sys.executable]
    arguments = [*launcher, "-m", "undiffuse", "sample", str(run), "--out", str(out), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def run_to_the_end(*arguments, **options) -> str:
    process = command(*arguments, **options)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def wait_for_files(out: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list(out.glob("[0-9]*"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_2000_images_stopped_three_times_are_those_of_one_go(tiny_run, tmp_path, kind):
    options = [*MANY, "--format", kind]
    run_to_the_end(tiny_run, tmp_path / "whole", *options)
    out, there = tmp_path / "cut", 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = command(tiny_run, out, *options)
        wait_for_files(out, there + 1, process)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        there = len(list(out.glob("[0-9]*")))
        assert not finished(out)
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert "Traceback" not in said
            assert said.splitlines()[-1].startswith("undiffuse: stopped with ")
            assert said.splitlines()[-1].endswith(f"of 2,000 images in {out}; go on with the same command")
    run_to_the_end(tiny_run, out, *options)
    assert tiny.tree(out) == tiny.tree(tmp_path / "whole")
    assert "all 2,000 images are there already" in run_to_the_end(tiny_run, out, *options)


LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_two_processes_give_the_images_of_one(tiny_run, tmp_path, kind):
    options = ["-n", "500", "--batch-size", "32", "--format", kind]
    run_to_the_end(tiny_run, tmp_path / "one", *options)
    said = run_to_the_end(tiny_run, tmp_path / "two", *options, launch=LAUNCH)
    assert "image 500/500" in said
    assert tiny.tree(tmp_path / "two") == tiny.tree(tmp_path / "one")
    assert "all 500 images are there already" in run_to_the_end(tiny_run, tmp_path / "two", *options, launch=LAUNCH)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Of a launcher, in the order of their rank."""
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_where_one_process_dies_the_others_stop_and_the_job_goes_on(tiny_run, tmp_path, rank, number):
    run_to_the_end(tiny_run, tmp_path / "whole", *MANY)
    out = tmp_path / "cut"
    process = command(tiny_run, out, *MANY, launch=LAUNCH)
    wait_for_files(out, 100, process)
    began = time.monotonic()
    os.kill(children(process)[rank], number)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - began < 60
    assert not finished(out)
    run_to_the_end(tiny_run, out, *MANY)  # would be refused while a process of the old command lives
    assert tiny.tree(out) == tiny.tree(tmp_path / "whole")


def test_several_processes_stop_at_the_launchers_signal(tiny_run, tmp_path):
    out = tmp_path / "cut"
    process = command(tiny_run, out, *MANY, launch=LAUNCH)
    wait_for_files(out, 100, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert [line for line in said.splitlines() if line.startswith("undiffuse: ")] == [
        line for line in said.splitlines() if line.startswith("undiffuse: stopped with ")
    ]
    assert said.count("go on with the same command") == 1
    run_to_the_end(tiny_run, out, *MANY, launch=LAUNCH)
    assert finished(out)
