"""Ten thousand damaged configurations, runs, diffusers folders, label files and archives: a line each, no hang, no
traceback, no more than two gigabytes."""

import multiprocessing
import queue

import pytest
import strangers


def survived(count: int, workers: int) -> dict[str, int]:
    """The outcomes of cases 0..count-1, by kind and exit status; a crash is a worker that says nothing."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    lanes = [context.Process(target=strangers.work, args=(lane, count, workers, results)) for lane in range(workers)]
    for lane in lanes:
        lane.start()
    outcomes: dict[str, int] = {}
    wrong = []
    done = 0
    while done < workers:
        try:
            found = results.get(timeout=10)
        except queue.Empty:
            assert all(lane.is_alive() or not lane.exitcode for lane in lanes), "a worker died"
            continue
        if isinstance(found, str):
            wrong.append(found)
            continue
        done += 1
        for name, times in found.items():
            outcomes[name] = outcomes.get(name, 0) + times
    for lane in lanes:
        lane.join()
        assert lane.exitcode == 0, f"a worker ended with {lane.exitcode}"
    assert not wrong, "\n\n".join([f"{len(wrong)} cases went wrong", *wrong[:5]])
    return outcomes


def test_files_of_strangers():
    outcomes = survived(240, 1)
    assert sum(outcomes.values()) == 240
    assert all(sum(times for name, times in outcomes.items() if name.endswith(status)) > 10 for status in "012")


@pytest.mark.slow
def test_ten_thousand_files_of_strangers():
    assert sum(survived(10_000, 2).values()) == 10_000
