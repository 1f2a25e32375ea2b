"""The Inception Score: its limits, other people's numbers, sums that merge."""

import numpy as np
import pytest
import torch

from independent import fidelity, torchmetrics
from undiffuse.metrics.inception_score import ClassSums, inception_score


def logits(n, k=10, seed=0, sharp=3.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n, k)) * sharp)


def test_the_limits():
    """Certain and balanced: as many as there are classes; one class, or nothing known: 1."""
    certain = np.eye(10)[np.arange(1000) % 10]
    assert inception_score(certain)[0] == pytest.approx(10, rel=1e-12)
    assert inception_score(certain[::2])[0] == pytest.approx(5, rel=1e-12)
    assert inception_score(np.full((50, 10), 0.1))[0] == pytest.approx(1, rel=1e-12)
    assert inception_score(np.eye(10)[np.zeros(50, int)])[0] == pytest.approx(1, rel=1e-12)


def test_by_hand():
    """p = (3/4, 1/4) and its mirror: exp(ln 2 - H(1/4)) = 2 * (3/4)^(3/4) * (1/4)^(1/4)."""
    p = np.tile([[0.75, 0.25], [0.25, 0.75]], (20, 1))
    assert inception_score(p)[0] == pytest.approx(2 * 0.75**0.75 * 0.25**0.25, rel=1e-12)


def test_torch_fidelity_and_torchmetrics_say_the_same_of_one_split():
    z = logits(700)
    found, _ = inception_score(z.softmax(1).numpy())
    assert found == pytest.approx(fidelity("metric_isc").isc_features_to_metric(z, splits=1)["inception_score_mean"])
    inception = torchmetrics("image.inception").InceptionScore
    with pytest.warns(UserWarning, match="memory footprint"):
        metric = inception(feature=torch.nn.Flatten(), splits=1).set_dtype(torch.float64)
    metric.update(z[:, :, None, None])
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert found == pytest.approx(float(metric.compute()[0]), rel=1e-6)


def test_parts_merge_in_any_order():
    p = logits(90).softmax(1).numpy()
    a, b, c = (ClassSums.of(part) for part in np.split(p, [20, 70]))
    for merged in (a.merge(b).merge(c), c.merge(a).merge(b), a.merge(b.merge(c))):
        assert merged.score() == pytest.approx(inception_score(p)[0], rel=1e-12)


def test_the_error_is_the_spread_over_samples():
    runs = [inception_score(logits(500, seed=seed).softmax(1).numpy()) for seed in range(100)]
    values, errors = (np.array(column) for column in zip(*runs, strict=True))
    assert 0.75 < np.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.3


def test_too_few_for_an_error():
    assert inception_score(logits(19).softmax(1).numpy())[1] is None
    assert inception_score(logits(20).softmax(1).numpy())[1] > 0
