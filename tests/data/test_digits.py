"""The digits are scikit-learn's, on their own 17 levels, split once and for all."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from undiffuse.data.prepare import digits, load_data
from undiffuse.errors import UsageError


@pytest.fixture(scope="module")
def data():
    return digits()


def test_1347_to_train_and_450_held_out(data):
    assert (len(data.train), len(data.held_out)) == (1347, 450)
    assert (data.shape, data.levels, data.class_names) == ((1, 8, 8), 17, tuple("0123456789"))


def test_the_split_is_scikit_learns_stratified_with_random_state_0(data):
    bunch = load_digits()
    rows = train_test_split(np.arange(1797), test_size=450, random_state=0, stratify=bunch.target)
    for part, wanted in zip((data.train, data.held_out), rows, strict=True):
        np.testing.assert_array_equal(part.pictures[part.rows][:, 0], bunch.images[wanted])
        np.testing.assert_array_equal(part.labels, bunch.target[wanted])


def test_no_picture_is_in_both_parts_by_index_and_classes_are_in_proportion(data):
    whole = np.bincount(load_digits().target)
    train, held_out = (np.bincount(part.labels.numpy()) for part in (data.train, data.held_out))
    np.testing.assert_array_equal(train + held_out, whole)
    np.testing.assert_allclose(held_out / whole, 450 / 1797, atol=0.01)


def test_x_is_v_over_8_minus_1_exactly(data):
    v = data.train.pictures[data.train.rows].double()
    assert set(v.unique().tolist()) == set(range(17))
    assert data.train.images().dtype == torch.float32
    assert torch.equal(data.train.images().double(), v / 8 - 1)


def test_some_rows_are_rows_of_the_whole(data):
    rows = np.array([5, 0, 5, 1346])
    assert torch.equal(data.train.images(rows), data.train.images()[rows])
    assert torch.equal(data.held_out.images(slice(3, 9)), data.held_out.images()[3:9])


@pytest.mark.parametrize("classes", [["7", "1", "3"], ["3", "1", "7", "1"]])
def test_restricted_classes_are_re_indexed_in_the_sources_own_order(data, classes):
    some = data.restricted(classes)
    assert some.class_names == ("1", "3", "7")
    for part, whole in ((some.train, data.train), (some.held_out, data.held_out)):
        kept = (whole.labels == 1) | (whole.labels == 3) | (whole.labels == 7)
        assert torch.equal(part.images(), whole.images()[kept])
        assert torch.equal(torch.tensor([1, 3, 7])[part.labels], whole.labels[kept])


def test_all_classes_are_the_whole(data):
    assert torch.equal(data.restricted(list("9876543210")).train.labels, data.train.labels)


@pytest.mark.parametrize(
    ("source", "classes", "words"),
    [
        ("digits", ["ten"], r"data\.classes: no class 'ten'; known: 0, 1"),
        ("digits", ["10"], "no class '10'; did you mean"),
        ("digits", [], "name at least one class"),
        ("digitz", None, "unknown data source 'digitz'; did you mean 'digits'"),
        ("", None, "unknown data source ''; known: digits"),
    ],
)
def test_what_is_not_there_is_named(source, classes, words):
    with pytest.raises(UsageError, match=words):
        load_data(source).restricted(classes or [])
