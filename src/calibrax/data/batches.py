"""Shuffled batches as a pure function of a seed and a step, so that a resumed run reads what an unbroken one would."""

import functools
import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from calibrax.data.types import DataError, Examples, check_whole, is_whole

MAX_THREADS = 16


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """The number of whole batches in an epoch; the examples that remain are left out of that epoch.

    Args:
      num_examples: of the training split.
      batch_size: examples per batch.

    Returns:
      An integer of at least 1.

    Raises:
      DataError: if there are too few examples for one batch.
    """
    if not is_whole(batch_size) or not 1 <= batch_size <= num_examples:
        raise DataError(f"batch size is {batch_size}; expected 1 to {num_examples}, the number of training examples")
    return num_examples // batch_size


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The order of the examples in one epoch.

    Args:
      num_examples: N.
      seed: of the run.
      epoch: from 0.

    Returns:
      A permutation of 0 to N - 1, [N].
    """
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def batches(
    examples: Examples, batch_size: int, *, seed: int, start_step: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[np.ndarray]:
    """Endless shuffled batches [batch_size, ...] in a new order each epoch, or equal parts of these batches.

    Arrays are indexed directly. Examples of a random-access source are read by several threads, two batches ahead.

    Args:
      examples: N of them, an array or a random-access source.
      batch_size: examples per batch.
      seed: seed of the order.
      start_step: the number of batches to skip; a resumed run passes the number of steps that it has taken.
      part: (i, n) yields part i of n of each batch, counted from 0; this is how n processes share a batch.

    Returns:
      An endless iterator of uint8 arrays [batch_size / n, ...].

    Raises:
      DataError: when the first batch is requested, if an argument is out of its range; later, if an example cannot be
        read.
    """
    check_whole("seed", seed, 0)
    check_whole("start_step", start_step, 0)
    shuffled = _Shuffled(examples, batch_size, seed, start_step, part)
    if isinstance(examples, np.ndarray):
        yield from (examples[shuffled.indices(step)] for step in itertools.count())
    else:
        stream = read_ahead(shuffled, 2 * shuffled.size)
        while True:
            yield np.stack(list(itertools.islice(stream, shuffled.size)))


def read_ahead(examples: Any, num: int) -> Iterator[Any]:
    """The examples of a random-access source in order, read by several threads, at most `num` of them in advance.

    Raises:
      DataError: if the source raises it.
    """
    import grain

    options = grain.ReadOptions(num_threads=min(MAX_THREADS, os.cpu_count() or 1), prefetch_buffer_size=num)
    try:
        yield from grain.MapDataset.source(examples).to_iter_dataset(options)
    except DataError as error:
        raise DataError(str(error)) from error  # without the lines that Grain adds


class _Shuffled:
    """The examples of one part of each batch, from a step of the run on: an endless random-access source."""

    def __init__(self, examples: Examples, batch_size: int, seed: int, start_step: int, part: tuple[int, int]):
        index, count = part
        if not 0 <= index < count:
            raise DataError(f"part is {part}; expected (i, n) with 0 <= i < n")
        if batch_size % count:
            raise DataError(f"batch size is {batch_size}; expected a multiple of the {count} parts")
        self.size = batch_size // count
        self._examples, self._batch_size, self._start_step = examples, batch_size, start_step
        self._first, self._steps_per_epoch = index * self.size, steps_per_epoch(len(examples), batch_size)
        # Two permutations are kept, since reading ahead crosses into the next epoch.
        self._order = functools.lru_cache(2)(lambda epoch: epoch_order(len(examples), seed=seed, epoch=epoch))

    def indices(self, step: int) -> np.ndarray:
        """The examples of this part of a batch, [size]; steps count from `start_step`."""
        epoch, batch = divmod(self._start_step + step, self._steps_per_epoch)
        begin = batch * self._batch_size + self._first
        return self._order(epoch)[begin : begin + self.size]

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> np.ndarray:
        step, place = divmod(index, self.size)
        return self._examples[int(self.indices(step)[place])]
