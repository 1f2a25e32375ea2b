"""Threads give way while others need the processors, and spin again when they do not; results do not change."""

import os
import threading
import time

import pytest

torch = pytest.importorskip("torch")  # whose OpenMP runtime the kernels share

from undiffuse.native import library, threads  # noqa: E402
from undiffuse.nn.unet import UNet, UNetSpec  # noqa: E402

pytestmark = pytest.mark.skipif(library.kernels() is None, reason="no C compiler")


@pytest.fixture
def machine(monkeypatch):
    """A sharing whose clock and processors are the test's: each look, others have used this share of them."""
    said = {"share": 0.0, "now": 0.0}
    cpus = len(os.sched_getaffinity(0))

    def seconds():
        said["now"] += 1
        said["used"] = said.get("used", 0.0) + said["share"] * cpus + 0.5  # half a second of it ours
        return said["now"], said["used"], said["now"] * 0.5

    monkeypatch.setattr(threads, "_seconds", seconds)
    monkeypatch.setattr(threads, "has_small_quota", lambda: False)
    sharing = threads.Sharing()
    yield lambda share, count=2: _looked(sharing, said, share, count)
    sharing.give_way(False, 2)


def _looked(sharing, said, share, count):
    said["share"], sharing.due = share, 0.0
    sharing.look(count)
    return sharing.gives_way


def holders():
    return [thread for thread in threading.enumerate() if thread.name == "undiffuse-yield"]


def test_it_gives_way_above_one_share_and_stops_below_a_smaller_one(machine):
    shares = [0.0, 0.08, 0.2, 0.08, 0.02, 0.08, 0.5]
    assert [machine(share) for share in shares] == [False, False, True, True, False, False, True]


def test_with_one_thread_nobody_waits(machine):
    assert not machine(0.9, count=1)
    assert machine(0.9, count=2)
    assert not machine(0.9, count=1)


def test_the_thread_that_holds_the_team_ends(machine):
    before = len(holders())
    assert machine(0.9)
    assert len(holders()) == before + 1
    assert not machine(0.0)
    assert len(holders()) == before


def test_looks_are_half_a_second_apart(monkeypatch):
    sharing = threads.Sharing()
    sharing.look(2)
    monkeypatch.setattr(threads, "_seconds", lambda: pytest.fail("looked again"))
    sharing.look(2)


def test_the_processors_work_is_counted():
    before, own = threads.seconds_of_all(), time.process_time()
    while time.process_time() < own + 0.3:
        pass
    assert threads.seconds_of_all() - before >= 0.2  # in ticks of a hundredth
    assert threads.others_share((0, 10, 5), (1, 11, 6)) == 0
    assert threads.others_share((0, 10, 5), (2, 14, 7)) == pytest.approx(1 / len(os.sched_getaffinity(0)))


@pytest.mark.parametrize(("text", "small"), [("max 100000", False), ("50000 100000", True), ("", False), (None, False)])
def test_a_containers_quota(text, small, tmp_path, monkeypatch):
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert threads.has_small_quota() is small


def test_results_are_the_same_to_the_bit(machine):
    network = UNet(UNetSpec(1, 1, channels=32, multipliers=(1, 2), attention=(2,))).eval()
    for parameter in network.parameters():
        parameter.data.add_(0.01)
    x = torch.linspace(-1, 1, 16 * 256).sin().reshape(16, 1, 16, 16)
    found, count = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for share in (0.0, 0.9, 0.0):
            machine(share)
            with torch.no_grad():
                found.append(network(x, torch.ones(16)))
    finally:
        torch.set_num_threads(count)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_a_forked_child_starts_anew(machine):
    sharing = threads.Sharing()
    sharing.give_way(True, 2)
    child = os.fork() if hasattr(os, "fork") else None
    if child == 0:
        sharing.forget()
        os._exit(0 if not sharing.gives_way else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    sharing.give_way(False, 2)
