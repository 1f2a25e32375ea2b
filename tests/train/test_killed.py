"""Fifty kills, and the bits of a run that nobody stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import killed
import tiny

pytestmark = pytest.mark.slow
KILLS = 50


def test_fifty_kills_leave_the_bits_of_an_uninterrupted_run(tmp_path):
    """Weights, averages, the optimiser's moments and the memory of the loss-aware times; and never more than one
    interval between checkpoints is repeated."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = [sys.executable, killed.__file__, str(run), str(KILLS), "7"]
    done = subprocess.run(command, cwd=Path(killed.__file__).parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(kills) == KILLS
    inside = [kill for kill in kills if any(name.endswith(".writing") for name in kill["unfinished"])]
    assert len(inside) >= 15
    assert all(kill["reached"] - kill["newest"] <= killed.INTERVAL for kill in kills)
    assert len({kill["reached"] for kill in kills}) > KILLS / 2
    tiny.trained(whole, **killed.CHANGES)
    last = killed.CHANGES["train__steps"]
    assert tiny.weights(run, last) == tiny.weights(whole, last)
    assert {"ema.safetensors", "ema-0.99.safetensors", "optimizer.safetensors", "times.safetensors"} <= set(
        tiny.weights(run, last)
    )
    logged = [[json.loads(line) for line in (one / "metrics.jsonl").read_text().splitlines()] for one in (run, whole)]
    assert [record["step"] for record in logged[0]] == [record["step"] for record in logged[1]]
    assert [record["loss"] for record in logged[0]] == [record["loss"] for record in logged[1]]
    assert not list((run / "checkpoints").glob(".*"))


FULL = """
mount -t tmpfs -o size=700k tmpfs "$1" && cd "$1" || exit 77
"$2" -m undiffuse train ../t.yaml --out run 2> ../said
echo $? > ../status; ls -A run/checkpoints > ../kept
mount -o remount,size=20m "$1" && "$2" -m undiffuse train --resume --out run && cp -r run ../saved
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a small file system of its own")
def test_a_disk_that_is_really_full_ends_in_one_line_and_loses_nothing(tmp_path):
    """A file system of 700 KiB, which takes three checkpoints; once it is larger, training goes on to the same bits."""
    changes = {"train__steps": 12}
    small = tmp_path / "small"
    small.mkdir()
    (tmp_path / "t.yaml").write_text(tiny.config(**changes).as_yaml())
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh", str(small), sys.executable]
    done = subprocess.run(inside, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no right to mount a file system here")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "status").read_text().strip() == "1"
    kept = (tmp_path / "kept").read_text().split()
    assert kept and all(name.isdigit() for name in kept)
    last = (tmp_path / "said").read_text().splitlines()[-1]
    words = f"step {int(kept[-1])} is saved: make room, then go on with: undiffuse train --resume --out run"
    assert last.startswith("undiffuse: ") and last.endswith(words)
    assert "No space left on device" in last
    tiny.trained(tmp_path / "whole", **changes)
    assert tiny.weights(tmp_path / "saved", 12) == tiny.weights(tmp_path / "whole", 12)
