"""Batches of videos as a pure function of a seed and a step, read ahead where the videos are not in memory."""

import functools
import os
import sys
from collections.abc import Callable, Iterator

import numpy as np

from calibrax.data.batches import batches, epoch_order, steps_per_epoch
from calibrax.data.types import DataError, check_whole
from calibrax.data.video import Videos

MAX_THREADS = 16


def video_batches(videos: Videos, batch_size: int, *, seed: int, start_step: int = 0) -> Iterator[np.ndarray]:
    """Endless shuffled batches, uint8 [batch_size, T, H, W, C], a fresh order each epoch.

    A pure function of the seed and the step, with the order of `data.batches`. An array is read in place; from another
    source videos are read ahead, two batches of them, by several threads.

    Args:
      videos: [N, T, H, W, C], or a random-access source.
      batch_size: videos a batch.
      seed: of the order.
      start_step: how many batches went before; the data position of a resumed run.

    Raises:
      DataError: if not even one batch is there, a number is out of its range, or a video cannot be read.
    """
    check_whole("seed", seed, 0)
    check_whole("start_step", start_step, 0)
    if isinstance(videos, np.ndarray):
        yield from batches(videos, batch_size, seed=seed, start_step=start_step)
        return
    try:
        import grain
    except ImportError as error:
        raise DataError(f"videos that are not in memory need grain to be read: {error}") from error
    shuffled = _Shuffled(videos, batch_size, seed=seed, start_step=start_step)
    options = grain.ReadOptions(num_threads=min(MAX_THREADS, os.cpu_count() or 1), prefetch_buffer_size=2 * batch_size)
    try:
        yield from grain.MapDataset.source(shuffled).to_iter_dataset(options).batch(batch_size)
    except DataError as error:
        raise DataError(str(error)) from error  # without the lines that Grain adds


class _Shuffled:
    """The videos in the order of a run, from one of its steps on: epoch after epoch without an end."""

    def __init__(self, videos: Videos, batch_size: int, *, seed: int, start_step: int):
        self._videos = videos
        self._per_epoch = batch_size * steps_per_epoch(len(videos), batch_size)
        self._start = start_step * batch_size
        order = functools.partial(epoch_order, len(videos), seed=seed)
        self._order: Callable[..., np.ndarray] = functools.lru_cache(2)(order)  # reading ahead crosses into the next

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> np.ndarray:
        epoch, place = divmod(self._start + index, self._per_epoch)
        return self._videos[int(self._order(epoch=epoch)[place])]
