"""Train on generated, test on real: real data give what scikit-learn's own example gives."""

import numpy as np
import pytest
import torch

from undiffuse.data.prepare import digits
from undiffuse.errors import UndiffuseError
from undiffuse.metrics.transfer import _inputs, binomial_stderr, svc_accuracy


@pytest.fixture(scope="module")
def pairs():
    data = digits()
    return [(part.images(), part.labels) for part in (data.train, data.held_out)]


def test_real_digits_give_991_in_a_thousand(pairs):
    assert svc_accuracy(*pairs, levels=17) == pytest.approx(446 / 450)


def test_the_same_as_scikit_learn_on_its_own_numbers(pairs):
    from sklearn.svm import SVC

    (x, y), (x_test, y_test) = (((x.flatten(1).numpy() + 1) * 8, y.numpy()) for x, y in pairs)
    assert svc_accuracy(*pairs, levels=17) == SVC(gamma=0.001).fit(x, y).score(x_test, y_test)


def test_wrong_labels_teach_nothing(pairs):
    (x, y), test = pairs
    assert svc_accuracy((x, (y + 1) % 10), test, levels=17) < 0.02


def test_pictures_are_rounded_to_the_datas_levels_first(pairs):
    (x, _), _ = pairs
    np.testing.assert_array_equal(_inputs(x + 0.06, 17), ((x.flatten(1) + 1) * 8).numpy())


def test_one_class_alone_is_refused(pairs):
    x, _ = pairs[0]
    with pytest.raises(UndiffuseError, match="at least two classes"):
        svc_accuracy((x, torch.zeros(len(x), dtype=torch.int64)), pairs[1], levels=17)


@pytest.mark.parametrize(("p", "n", "error"), [(0.5, 100, 0.05), (0.0, 10, 0.0), (1.0, 10, 0.0), (0.9, 9, 0.1)])
def test_the_binomial_error(p, n, error):
    np.testing.assert_allclose(binomial_stderr(p, n), error)
