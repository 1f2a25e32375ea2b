"""The order of training is a function of (seed, step), and leaves no datum out."""

import numpy as np
import pytest
import torch

from undiffuse.data.dataset import Part
from undiffuse.data.loader import Batches


def batches(n=23, batch_size=5, seed=0) -> Batches:
    """Picture i shows i, and so says which it is."""
    pictures = torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1)
    return Batches(Part(pictures, torch.arange(n), 256), batch_size, seed)


@pytest.mark.parametrize(("n", "batch_size"), [(23, 5), (20, 5), (7, 7), (5, 12), (1, 3), (23, 1)])
def test_every_datum_comes_once_an_epoch(n, batch_size):
    data = batches(n, batch_size)
    seen = np.concatenate([data.rows(step) for step in range(3 * n)])
    epochs = len(seen) // n
    for epoch in range(epochs):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_epochs_and_seeds_have_orders_of_their_own():
    first, second = (batches(batch_size=23).rows(step).tolist() for step in (0, 1))
    other = batches(batch_size=23, seed=1).rows(0).tolist()
    assert len({tuple(order) for order in (first, second, other, list(range(23)))}) == 4


def test_the_order_does_not_depend_on_the_batch_size():
    large, small = batches(batch_size=40), batches(batch_size=8)
    np.testing.assert_array_equal(large.rows(1), np.concatenate([small.rows(step) for step in range(5, 10)]))


def test_steps_may_be_asked_for_in_any_order():
    ahead = batches()
    later = ahead.rows(1000).tolist()
    assert [ahead.rows(step).tolist() for step in (3, 0)] == [batches().rows(step).tolist() for step in (3, 0)]
    assert later == batches().rows(1000).tolist()


def test_some_positions_are_a_part_of_the_whole_batch():
    whole = batches(batch_size=12).batch(7)
    for positions in (slice(0, 4), slice(4, 8), slice(8, 12), slice(3, 3)):
        for part, full in zip(batches(batch_size=12).batch(7, positions), whole, strict=True):
            assert torch.equal(part, full[positions])


def test_images_and_labels_of_a_batch_belong_together():
    x, y = batches().batch(4)
    shown = ((x.flatten() + 1) * 255 / 2).round().long()
    assert torch.equal(shown, y)
    np.testing.assert_array_equal(y, batches().rows(4))
