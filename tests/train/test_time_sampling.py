"""Times are drawn as each way says, and its weights make every way's mean loss the same."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from undiffuse import rng
from undiffuse.data.prepare import digits
from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.files import checkpoint
from undiffuse.pipeline import build
from undiffuse.train import starting
from undiffuse.train.team import Team
from undiffuse.train.time_sampling import FLOOR, HISTORY, TIME_SAMPLINGS, SecondMoment
from undiffuse.train.trainer import Trainer

T, BATCH = 40, 8
LOSS = np.exp(-np.arange(T) / 5.0) + 0.01  # of t = 1..T: steep, as the bound's terms are


def drawn(way, step=0, batch=BATCH, rows=None):
    rows = range(batch) if rows is None else rows
    return way.draw(rows, rng.per_row(0, "own", step, rows=rows), rng.fold(0, "common", step))


def learned(T=T, rounds=HISTORY, loss=LOSS) -> SecondMoment:
    way = SecondMoment(T)
    for _ in range(rounds):
        way.learn(np.arange(1, T + 1), loss)
    return way


def ways():
    return {name: make(T, BATCH) for name, make in TIME_SAMPLINGS.items()} | {"learned": learned()}


@pytest.mark.parametrize("name", ways())
def test_the_weighted_mean_is_the_mean_over_all_times(name):
    way, sums = ways()[name], []
    for step in range(2000):
        t, weight = drawn(way, step)
        assert t.dtype == torch.int64 and weight.dtype == torch.float32
        assert t.min() >= 1 and t.max() <= T
        sums.append((weight.numpy() * LOSS[t.numpy() - 1]).mean())
    error = np.std(sums) / len(sums) ** 0.5
    assert np.mean(sums) == pytest.approx(LOSS.mean(), abs=4 * error)
    assert error < 0.1 * LOSS.mean()


@pytest.mark.parametrize("name", ways())
def test_draws_depend_on_the_row_and_not_on_who_draws_them(name):
    way = ways()[name]
    whole, first, second = drawn(way), drawn(way, rows=range(3)), drawn(way, rows=range(3, BATCH))
    for all_rows, a, b in zip(whole, first, second, strict=True):
        assert torch.equal(all_rows, torch.cat([a, b]))


def test_low_discrepancy_puts_one_time_into_each_part_and_every_time_is_as_likely():
    way, counts = TIME_SAMPLINGS["low_discrepancy"](T, BATCH), np.zeros(T)
    for step in range(4000):
        t = drawn(way, step)[0].numpy()
        counts += np.bincount(t - 1, minlength=T)
        gaps = np.diff(np.sort(t))
        assert (gaps == T // BATCH).all() and t.min() <= T // BATCH
    expected = 4000 * BATCH / T
    assert abs(counts - expected).max() < 5 * expected**0.5


@pytest.mark.parametrize("name", ["uniform", "second_moment"])
def test_every_time_is_as_likely_at_first(name):
    way, counts = TIME_SAMPLINGS[name](T, BATCH), np.zeros(T)
    for step in range(2000):
        counts += np.bincount(drawn(way, step)[0].numpy() - 1, minlength=T)
    expected = 2000 * BATCH / T
    assert abs(counts - expected).max() < 5 * expected**0.5


def test_what_was_learnt_is_a_copy_and_has_no_sign():
    way = SecondMoment(2)
    way.learn(np.array([1]), np.array([-2.0]))  # bits of continuous data may be negative
    kept = way.tensors()
    way.learn(np.array([2]), np.array([3.0]))
    assert kept["history"][0, 0] == 2 and kept["seen"].tolist() == [1, 0]
    SecondMoment(2).fill(kept, Path())


def test_second_moment_is_uniform_until_every_time_was_seen_ten_times():
    way = learned(rounds=HISTORY - 1)
    way.learn(np.arange(2, T + 1), LOSS[1:])
    assert (way.p == 1 / T).all()
    way.learn(np.array([1]), LOSS[:1])
    assert way.p[0] > way.p[-1] * 10


def test_second_moment_follows_equation_18_over_the_last_ten_losses():
    way, generator = SecondMoment(T), np.random.default_rng(0)
    seen = [[] for _ in range(T)]
    for _ in range(200):
        t, losses = generator.integers(1, T + 1, 16), generator.exponential(size=16)
        way.learn(t, losses)
        for time, loss in zip(t, losses, strict=True):
            seen[time - 1].append(loss)
    root = np.array([np.sqrt(np.mean(np.square(values[-10:]))) for values in seen])
    np.testing.assert_allclose(way.p, (1 - FLOOR) * root / root.sum() + FLOOR / T, rtol=1e-12)


def test_second_moment_leaves_the_least_variance():
    """Of the weighted loss: p in proportion to |L_t| has none at all, uniform times have that of L_t."""
    p, uniform = learned().p, np.full(T, 1 / T)
    second = [float((q * (LOSS / (T * q)) ** 2).sum()) for q in (p, uniform)]
    variance = [s - LOSS.mean() ** 2 for s in second]
    assert variance[0] < 1e-3 * variance[1]


@pytest.mark.parametrize("loss", [0.0, 1e-300, 1e300])
def test_extreme_losses_leave_sound_probabilities(loss):
    p = learned(loss=np.full(T, loss)).p
    np.testing.assert_allclose(p, 1 / T, rtol=1e-9)
    some = LOSS.copy()
    some[3] = loss
    p = learned(loss=some).p
    assert np.isfinite(p).all() and p.min() > 0 and p.sum() == pytest.approx(1)


def test_one_time_is_drawn_always():
    for make in TIME_SAMPLINGS.values():
        t, weight = drawn(make(1, 4), batch=4)
        assert t.tolist() == [1] * 4 and weight.tolist() == [1.0] * 4


# -- in training ----------------------------------------------------------------------------------------------------

DATA = digits()


def trainer(team=None, **changes) -> Trainer:
    config = build.resolved(tiny.config(), DATA).replaced(
        {"train.time_sampling": "second_moment", "diffusion.T": 5, "train.steps": 100, **changes}
    )
    parts = (starting.loss(config), starting.batches(config, DATA), config.train, build.num_classes(config))
    return Trainer(build.denoiser(config), *parts, team=team, times=starting.time_sampling(config))


def steps(made: Trainer, count: int) -> None:
    for _, _ in zip(range(count), made.run(), strict=False):
        pass


def test_a_resumed_run_draws_the_same_times(tmp_path):
    whole, first = trainer(), trainer()
    steps(whole, 24)
    steps(first, 20)
    assert first.times.seen.min() >= HISTORY and first.times.p.std() > 0
    folder = checkpoint.save(tmp_path, first.snapshot())
    second = trainer()
    second.restore(folder)
    steps(second, 4)
    np.testing.assert_array_equal(second.times.history, whole.times.history)
    for a, b in zip(second.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_weights_enter_the_gradient_and_the_report():
    """By hand: a step whose times were drawn with the learned probabilities."""
    made = trainer(**{"train.lr": 1e-12, "train.grad_clip": 0.0})
    steps(made, 30)
    made.report()
    losses, t, weight = made._losses(made.rows)
    assert weight.std() > 0
    gradients = torch.autograd.grad((losses * weight).mean(), made.parameters, retain_graph=True)
    norm = torch.stack([g.norm() for g in gradients]).norm().item()
    plain = torch.stack([g.norm() for g in torch.autograd.grad(losses.mean(), made.parameters)]).norm().item()
    expected = float((losses.detach() * weight).mean())
    made._one_step()
    report = made.report()
    assert report.loss == pytest.approx(expected, rel=1e-5)
    assert report.grad_norm == pytest.approx(norm, rel=1e-4) and abs(plain / norm - 1) > 1e-3
    assert set(t.tolist()) <= {1, 2, 3, 4, 5}


def test_the_unweighted_losses_are_remembered():
    made = trainer()
    steps(made, 30)
    losses, t, weight = made._losses(made.rows)
    assert weight.std() > 0
    made._one_step()
    last = {}
    for time, loss in zip(t.tolist(), losses.tolist(), strict=True):
        last[time] = loss
    for time, loss in last.items():
        newest = (made.times.seen[time - 1] - 1) % HISTORY
        assert made.times.history[time - 1, newest] == pytest.approx(loss, rel=1e-5)


class Two(Team):
    """One of two processes, whose rows stand for the other's too."""

    def __init__(self, index):
        super().__init__()
        self.index, self.count = index, 2

    def gather(self, rows):
        return np.concatenate([rows, rows])


@pytest.mark.parametrize("name", TIME_SAMPLINGS)
def test_two_processes_draw_the_global_batch_and_learn_all_of_it(name):
    changes = {"train.time_sampling": name, "diffusion.T": 500}
    one, *halves = (trainer(team, **changes) for team in (None, Two(0), Two(1)))
    first, *shares = (made._losses(made.rows)[1] for made in (one, *halves))
    assert torch.equal(first, torch.cat(shares))
    one.step = 2  # steps 0 and 1 happen to draw u = 0.0916 and 0.0917
    assert not torch.equal(first, one._losses(one.rows)[1])
    if name == "second_moment":
        losses = np.arange(4.0)
        halves[0]._gradients = lambda: (losses, shares[0].numpy().astype(float), np.ones(4))
        halves[0].team.average_gradients = lambda parameters: None
        halves[0]._one_step()
        assert halves[0].times.seen.sum() == 8


def test_the_batch_size_reaches_low_discrepancy():
    config = tiny.config().replaced({"train.time_sampling": "low_discrepancy"})
    assert starting.time_sampling(config).batch_size == config.train.batch_size


def test_a_loss_that_is_not_finite_is_not_remembered():
    made = trainer()
    steps(made, 2)
    seen = made.times.seen.sum()
    made.loss = lambda *given: torch.full((8,), float("nan"), requires_grad=True)
    made._one_step()
    assert made.times.seen.sum() == seen and np.isfinite(made.times.history).all()


def test_a_memory_of_another_run_is_refused(tmp_path):
    made = trainer()
    steps(made, 1)
    folder = checkpoint.save(tmp_path, made.snapshot())
    with pytest.raises(UndiffuseError, match=r"not the memory of second_moment for T = 6"):
        trainer(**{"diffusion.T": 6}).times.fill(checkpoint.load_tensors(folder, "times"), folder)
    with pytest.raises(UndiffuseError, match="no loss can have"):
        SecondMoment(2).fill(
            {"history": torch.full((2, 10), float("nan")).double(), "seen": torch.ones(2).long()}, Path()
        )
    plain = trainer(**{"train.time_sampling": "uniform"})
    folder = checkpoint.save(tmp_path / "plain", plain.snapshot())
    with pytest.raises(UndiffuseError, match=r"has no times\.safetensors"):
        made.restore(folder)


def test_an_unknown_way_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="second_moment"):
        trainer(**{"train.time_sampling": "second_momentum"})
