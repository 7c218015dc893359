"""Images and videos for training: named data sets, the user's own files, and what is drawn here. No JAX in here."""

from calibrax.data.batches import batches, epoch_order, steps_per_epoch
from calibrax.data.datasets.moving_digits import MovingDigits, moving_digits
from calibrax.data.sources import describe, known_sources, load
from calibrax.data.transforms import take_fraction
from calibrax.data.types import DataError, ImageData
from calibrax.data.video import (
    VideoData,
    Videos,
    describe_videos,
    first_videos,
    is_video_source,
    known_videos,
    load_video,
    take_fraction_of_videos,
)
from calibrax.data.video_batches import video_batches

__all__ = [
    "DataError",
    "ImageData",
    "MovingDigits",
    "VideoData",
    "Videos",
    "batches",
    "describe",
    "describe_videos",
    "epoch_order",
    "first_videos",
    "is_video_source",
    "known_sources",
    "known_videos",
    "load",
    "load_video",
    "moving_digits",
    "steps_per_epoch",
    "take_fraction",
    "take_fraction_of_videos",
    "video_batches",
]
