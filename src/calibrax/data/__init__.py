"""Images and videos for training: named data sets, the user's own files, and drawn data. This package needs no JAX."""

from calibrax.data.batches import batches, epoch_order, steps_per_epoch
from calibrax.data.datasets.moving_digits import MovingDigits, moving_digits
from calibrax.data.sources import describe, is_video_source, known_sources, load, sources_in_words
from calibrax.data.transforms import first, take_fraction
from calibrax.data.types import Data, DataError, Examples, FramesError

__all__ = [
    "Data",
    "DataError",
    "Examples",
    "FramesError",
    "MovingDigits",
    "batches",
    "describe",
    "epoch_order",
    "first",
    "is_video_source",
    "known_sources",
    "load",
    "moving_digits",
    "sources_in_words",
    "steps_per_epoch",
    "take_fraction",
]
