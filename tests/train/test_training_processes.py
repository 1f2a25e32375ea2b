"""Training by several real processes on gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny
from undiffuse.config import read
from undiffuse.files import checkpoint

STEPS = {"train__steps": 20, "train__log_every": 1, "train__checkpoint_every": 10}
LONG = {"train__steps": 4000, "train__log_every": 20, "train__checkpoint_every": 20}


def launched(folder: Path, count: int, *arguments: str) -> subprocess.Popen[str]:
    launch = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "undiffuse", "train")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launch, *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def trained(folder: Path, count: int, *arguments: str) -> str:
    process = launched(folder, count, *arguments)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def logs(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_same_course(run: Path, other: Path, within: float = 1e-5) -> None:
    mine, theirs = logs(run), logs(other)
    assert [record["step"] for record in mine] == [record["step"] for record in theirs]
    for name in ("loss", "grad_norm"):
        assert [r[name] for r in mine] == pytest.approx([r[name] for r in theirs], rel=within), name


def wait_for_checkpoints(run: Path, process: subprocess.Popen[str], more_than: int = 0) -> None:
    deadline = time.monotonic() + 120
    while len(checkpoint.steps(run / "checkpoints")) <= more_than:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children(process: subprocess.Popen[str]) -> list[int]:
    """Of a launcher, in the order of their rank."""
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A folder with t.yaml, and the run of one process in `one`."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "t.yaml").write_text(tiny.config(**STEPS).as_yaml())
    tiny.trained(folder / "one", **STEPS)
    return folder


def test_two_processes_train_as_one(recipe, tmp_path):
    said = trained(recipe, 2, "t.yaml", "--out", str(tmp_path / "two"))
    assert said.count("step 20/20") == 1
    assert_same_course(tmp_path / "two", recipe / "one")


@pytest.mark.slow
@pytest.mark.parametrize(("count", "shard"), [(2, False), (4, False), (2, True), (4, True)])
def test_several_processes_train_as_one_and_resume_on_any_number(recipe, tmp_path, count, shard):
    """The same global batches: the same losses as one process, exact resume, and one process goes on with it."""
    option = ["--set", f"train.shard={str(shard).lower()}"]
    trained(recipe, count, "t.yaml", "--out", str(tmp_path / "many"), *option)
    assert_same_course(tmp_path / "many", recipe / "one")
    for resumed in (count, 1):
        run = tiny.without_later_checkpoints(tmp_path / "many", 10, tmp_path / f"resumed by {resumed}")
        trained(recipe, resumed, "--resume", "--out", str(run))
        assert_same_course(run, recipe / "one")
        if resumed == count:
            assert tiny.weights(run, 20) == tiny.weights(tmp_path / "many", 20)


@pytest.mark.slow
def test_two_processes_train_as_one_by_muon(tmp_path):
    """Its turning of each matrix is of the averaged gradient, the same on both; two resume to the same bits."""
    config = tiny.config(**STEPS, train__optimizer="muon")
    (tmp_path / "t.yaml").write_text(config.as_yaml())
    tiny.trained(tmp_path / "one", **STEPS, train__optimizer="muon")
    trained(tmp_path, 2, "t.yaml", "--out", "two")
    assert_same_course(tmp_path / "two", tmp_path / "one")
    run = tiny.without_later_checkpoints(tmp_path / "two", 10, tmp_path / "resumed")
    trained(tmp_path, 2, "--resume", "--out", str(run))
    assert tiny.weights(run, 20) == tiny.weights(tmp_path / "two", 20)


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_one_process_goes_on_with_what_it_began_on_two(recipe, tmp_path, shard):
    """And two with what one began."""
    run = tiny.without_later_checkpoints(recipe / "one", 10, tmp_path / "run")
    trained(recipe, 2, "--resume", "--out", str(run))
    assert_same_course(run, recipe / "one")


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_where_one_process_dies_the_others_stop_and_training_goes_on(tmp_path, rank, number, shard):
    (tmp_path / "t.yaml").write_text(tiny.config(**LONG, train__shard=shard, train__keep=3).as_yaml())
    run = tmp_path / "run"
    process = launched(tmp_path, 2, "t.yaml", "--out", "run")
    wait_for_checkpoints(run, process, more_than=1)
    began = time.monotonic()
    os.kill(children(process)[rank], number)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode != 0
    ours = [line for line in said.splitlines() if line.startswith("undiffuse: ")]
    words = "another process of this training has stopped" if number == signal.SIGKILL else "stopped at step "
    assert any(words in line for line in ours), said
    end = checkpoint.steps(run / "checkpoints")[-1] + 5
    (run / "config.yaml").write_text(read(run / "config.yaml").replaced({"train.steps": end}).as_yaml())
    trained(tmp_path, 2, "--resume", "--out", "run")
    assert checkpoint.steps(run / "checkpoints")[-1] == end


@pytest.mark.slow
@pytest.mark.parametrize("shard", [False, True])
def test_two_processes_measure_and_draw_on_the_way_as_one(tmp_path, shard):
    """Grids, measures, the best checkpoint, an end by patience, and a resume that goes on to the same."""
    changes = {
        "train__steps": 40,
        "train__log_every": 10,
        "train__checkpoint_every": 10,
        "train__sample_every": 10,
        "train__quality_every": 10,
        "train__quality_n": 20,
        "train__patience": 2,
        "train__lr": 1e-6,  # so that nothing gets better
        "train__keep": 1,
    }
    tiny.trained(tmp_path / "one", **changes)
    (tmp_path / "t.yaml").write_text(tiny.config(**changes, train__shard=shard).as_yaml())
    trained(tmp_path, 2, "t.yaml", "--out", "two")
    one, two = (
        [json.loads(line) for line in (tmp_path / name / "quality.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    )
    assert [record["step"] for record in two] == [record["step"] for record in one] == [10, 20, 30]
    for name in ("frechet", "raw", "floor"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=1e-3)
    assert checkpoint.steps(tmp_path / "two" / "checkpoints") == checkpoint.steps(tmp_path / "one" / "checkpoints")
    assert {path.name for path in (tmp_path / "two" / "samples").glob("step_*")} == {
        f"step_{step:08d}.png" for step in (10, 20, 30)
    }
    before = (tmp_path / "two" / "quality.jsonl").read_text()
    said = launched(tmp_path, 2, "--resume", "--out", "two").communicate(timeout=300)[0]
    assert "stopped at step 30: not clearly better for 2 measures" in said
    assert (tmp_path / "two" / "quality.jsonl").read_text() == before


@pytest.mark.slow
def test_two_processes_go_on_from_a_model(recipe, tmp_path):
    option = ["--set", "train.steps=4", "--out", str(tmp_path / "run")]
    trained(recipe, 2, "--from", str(recipe / "one"), *option)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 4


@pytest.mark.slow
def test_several_processes_stop_at_the_launchers_signal(tmp_path):
    (tmp_path / "t.yaml").write_text(tiny.config(**LONG).as_yaml())
    process = launched(tmp_path, 2, "t.yaml", "--out", "run")
    wait_for_checkpoints(tmp_path / "run", process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    ours = [line for line in said.splitlines() if line.startswith("undiffuse: ")]
    step = checkpoint.steps(tmp_path / "run" / "checkpoints")[-1]
    assert ours == [f"undiffuse: stopped at step {step} of 4000, saved; go on with: undiffuse train --resume --out run"]
