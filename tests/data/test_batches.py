"""Shuffled batches of arrays and of random-access sources: their order, their start, and what is read ahead."""

import itertools
import threading

import numpy as np
import pytest
from numbered import Lazy, numbered

from calibrax.data import DataError, batches, epoch_order, steps_per_epoch


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


def taken(source, start, count, size=5, seed=0):
    stream = itertools.islice(batches(source, size, seed=seed, start_step=start), count)
    return [batch[:, 0, 0, 0, 0].tolist() for batch in stream]


def test_each_epoch_has_a_new_order_and_drops_the_remainder():
    assert steps_per_epoch(23, 5) == 4
    epochs = [np.concatenate(taken(numbered(23), 4 * epoch, 4)).ravel() for epoch in range(3)]
    for epoch in epochs:
        assert len(set(epoch.tolist())) == 20
    assert not np.array_equal(epochs[0], epochs[1])
    np.testing.assert_array_equal(epochs[1], epoch_order(23, seed=0, epoch=1)[:20])


def test_different_seeds_give_different_batches():
    assert taken(numbered(23), 0, 4, seed=0) != taken(numbered(23), 0, 4, seed=1)


def test_lazy_batches_are_those_of_an_array():
    array = numbered(23)
    expected = [batch[:, 0, 0, 0, 0].tolist() for batch in itertools.islice(batches(array, 5, seed=4), 12)]
    assert taken(array, 0, 12, seed=4) == expected
    assert taken(Lazy(array), 0, 12, seed=4) == expected
    assert sorted(itertools.chain(*expected[:4])) == sorted(epoch_order(23, seed=4, epoch=0)[:20].tolist())


@pytest.mark.parametrize("kind", [np.asarray, Lazy])
@pytest.mark.parametrize("start", [1, 4, 7])
def test_batches_from_a_later_step_are_those_of_an_unbroken_run(start, kind):
    source = kind(numbered(23))
    assert taken(source, start, 6) == taken(source, 0, 13)[start : start + 6]


def test_few_videos_are_read_ahead_and_the_threads_end():
    before = set(threading.enumerate())
    lazy = Lazy(numbered(200))
    stream = batches(lazy, 5, seed=0)
    next(stream)
    started = set(threading.enumerate()) - before
    del stream
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert 5 <= len(lazy.asked) <= 5 + 10 + 16


@pytest.mark.parametrize("size", [0, -1, 24])
def test_impossible_batch_sizes_are_refused(size):
    with one_line(rf"batch size is {size}; expected 1 to 23"):
        steps_per_epoch(23, size)
    for source in (numbered(23), Lazy(numbered(23))):
        with one_line(rf"batch size is {size}; expected 1 to 23"):
            next(batches(source, size, seed=0))
