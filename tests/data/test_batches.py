import itertools

import numpy as np
import pytest

from calibrax.data import DataError, batches, epoch_order, steps_per_epoch

IMAGES = np.arange(23, dtype=np.uint8)[:, None]


def taken(start, count, seed=0):
    return [batch.tolist() for batch in itertools.islice(batches(IMAGES, 5, seed=seed, start_step=start), count)]


def test_each_epoch_is_a_fresh_order_without_the_remainder():
    assert steps_per_epoch(23, 5) == 4
    epochs = [np.concatenate(taken(4 * epoch, 4)).ravel() for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(epochs[1], epoch_order(23, seed=0, epoch=1)[:20])


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7, 12])
def test_from_any_step_on_the_batches_are_those_of_the_whole_run(start):
    assert taken(start, 6) == taken(0, 20)[start : start + 6]


def test_seeds_differ():
    assert taken(0, 4, seed=0) != taken(0, 4, seed=1)


@pytest.mark.parametrize("size", [0, -1, 24])
def test_batches_that_cannot_be(size):
    with pytest.raises(DataError, match=rf"batch size is {size}; expected 1 to 23"):
        steps_per_epoch(23, size)
