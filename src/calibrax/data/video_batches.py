"""Batches of videos as a pure function of a seed and a step, read ahead where the videos are not in memory."""

import functools
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np

from calibrax.data.batches import batches, epoch_order, part_size, steps_per_epoch
from calibrax.data.types import DataError, check_whole
from calibrax.data.video import Videos

MAX_THREADS = 16


def video_batches(
    videos: Videos, batch_size: int, *, seed: int, start_step: int = 0, part: tuple[int, int] = (0, 1)
) -> Iterator[np.ndarray]:
    """Endless shuffled batches, uint8 [batch_size, T, H, W, C], a fresh order each epoch; or equal parts of them.

    A pure function of the seed and the step, with the order of `data.batches`. An array is read in place; from another
    source videos are read ahead, two batches of them, by several threads.

    Args:
      videos: [N, T, H, W, C], or a random-access source.
      batch_size: videos a batch.
      seed: of the order.
      start_step: how many batches went before; the data position of a resumed run.
      part: (i, n) for the i-th of n parts of each batch, from 0: what the i-th of n processes reads.

    Raises:
      DataError: if not even one batch is there, a number is out of its range, or a video cannot be read.
    """
    check_whole("seed", seed, 0)
    check_whole("start_step", start_step, 0)
    if isinstance(videos, np.ndarray):
        yield from batches(videos, batch_size, seed=seed, start_step=start_step, part=part)
        return
    try:
        import grain
    except ImportError as error:
        raise DataError(f"videos that are not in memory need grain to be read: {error}") from error
    shuffled, size = _Shuffled(videos, batch_size, seed, start_step, part), part_size(batch_size, part)
    options = grain.ReadOptions(num_threads=min(MAX_THREADS, os.cpu_count() or 1), prefetch_buffer_size=2 * size)
    try:
        yield from grain.MapDataset.source(shuffled).to_iter_dataset(options).batch(size)
    except DataError as error:
        raise DataError(str(error)) from error  # without the lines that Grain adds


class _Shuffled:
    """The videos of one part of each batch in the order of a run, from one of its steps on, without an end."""

    def __init__(self, videos: Videos, batch_size: int, seed: int, start_step: int, part: tuple[int, int]):
        self._videos, self._batch_size = videos, batch_size
        self._size, self._steps_per_epoch = part_size(batch_size, part), steps_per_epoch(len(videos), batch_size)
        self._start_step, self._first = start_step, part[0] * self._size
        order = functools.partial(epoch_order, len(videos), seed=seed)
        self._order: Callable[..., np.ndarray] = functools.lru_cache(2)(order)  # reading ahead crosses into the next

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> np.ndarray:
        batch, place = divmod(index, self._size)
        epoch, batch = divmod(self._start_step + batch, self._steps_per_epoch)
        return self._videos[int(self._order(epoch=epoch)[batch * self._batch_size + self._first + place])]
