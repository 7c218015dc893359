"""Batches as a pure function of a seed and a step, so that a resumed run reads what an uninterrupted one would."""

from collections.abc import Iterator

import numpy as np

from calibrax.data.types import DataError, check_whole, is_whole


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Whole batches in one pass; the remainder of each epoch's order is dropped.

    Raises:
      DataError: if not even one batch is there.
    """
    if not is_whole(batch_size) or not 1 <= batch_size <= num_examples:
        raise DataError(f"batch size is {batch_size}; expected 1 to {num_examples}, the number of training examples")
    return num_examples // batch_size


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The permutation of one epoch, [num_examples]."""
    return np.random.default_rng((seed, epoch)).permutation(num_examples)


def part_size(batch_size: int, part: tuple[int, int]) -> int:
    """Examples in one of several equal parts of a batch.

    Raises:
      DataError: if there is no such part, or the batch cannot be cut so.
    """
    index, count = part
    if not 0 <= index < count:
        raise DataError(f"part is {part}; expected (i, n) with 0 <= i < n")
    if batch_size % count:
        raise DataError(f"batch size is {batch_size}; expected a multiple of the {count} parts")
    return batch_size // count


def batches(
    images: np.ndarray, batch_size: int, *, seed: int, start_step: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[np.ndarray]:
    """Endless shuffled batches [batch_size, ...], a fresh order each epoch; or equal parts of them.

    Args:
      images: [N, ...].
      batch_size: examples a batch.
      seed: of the order.
      start_step: how many batches went before; the data position of a resumed run.
      part: (i, n) for the i-th of n parts of each batch, from 0: what the i-th of n processes reads.

    Raises:
      DataError: with the first batch, if not even one is there, or a number is out of its range.
    """
    check_whole("seed", seed, 0)
    check_whole("start_step", start_step, 0)
    size = part_size(batch_size, part)
    per_epoch = steps_per_epoch(len(images), batch_size)
    epoch, first = divmod(start_step, per_epoch)
    while True:
        order = epoch_order(len(images), seed=seed, epoch=epoch)
        for batch in range(first, per_epoch):
            begin = batch * batch_size + part[0] * size
            yield images[order[begin : begin + size]]
        epoch, first = epoch + 1, 0
