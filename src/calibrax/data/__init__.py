"""Images for training: named data sets, the user's own files, and drawn house numbers. No JAX in here."""

from calibrax.data.batches import batches, epoch_order, steps_per_epoch
from calibrax.data.sources import describe, known_sources, load
from calibrax.data.transforms import take_fraction
from calibrax.data.types import DataError, ImageData

__all__ = [
    "DataError",
    "ImageData",
    "batches",
    "describe",
    "epoch_order",
    "known_sources",
    "load",
    "steps_per_epoch",
    "take_fraction",
]
