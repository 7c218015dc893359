"""Another size of the images or frames, resized as in the paper's experiments; and a part of the examples."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from calibrax.data.types import Data, DataError, Examples, is_whole

Size = int | tuple[int, int] | None
MAX_SIDE = 1 << 14  # pixels
MAX_BYTES = 64 * 2**30  # for the resized images of a split


def checked_size(image_size: Size) -> tuple[int, int] | None:
    """(height, width), or None, which leaves images as they are.

    Raises:
      DataError: unless it is one integer or two, each 1 to 16384.
    """
    if image_size is None:
        return None
    size = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(size) != 2 or not all(is_whole(side) and 1 <= side <= MAX_SIDE for side in size):
        words = "x".join(map(str, size))
        raise DataError(f"image size is {words}; expected one whole number, or height and width, 1 to {MAX_SIDE}")
    return size[0], size[1]


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 images or frames [..., H, W, C] to `size` (height, width); antialiased bilinear, rounded to uint8.

    There may be any number of channels. Each is resized alone, as Pillow does with colour images too.

    Raises:
      DataError: if the result would take more than 64 GiB.
    """
    from PIL import Image

    *leading, height, width, channels = images.shape
    if (height, width) == tuple(size):
        return images
    height, width = size
    flat = images.reshape(-1, *images.shape[-3:])
    if len(flat) * height * width * channels > MAX_BYTES:
        raise DataError(f"image size is {height}x{width}; expected less: {len(flat):,} images would take over 64 GiB")
    resized = np.empty((len(flat), height, width, channels), np.uint8)
    for target, image in zip(resized, flat, strict=True):
        for channel in range(channels):
            plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel]))
            target[:, :, channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return resized.reshape(*leading, height, width, channels)


def resize_data(data: Data, size: tuple[int, int] | None) -> Data:
    """All splits at `size` (height, width), or as they are if it is None. Only arrays are resized at once."""
    if size is None or size == data.image_shape[:2]:
        return data
    resized = functools.partial(resize, size=size)
    splits = {
        name: resized(examples) if isinstance(examples, np.ndarray) else View(examples, resized)
        for name, examples in data.splits.items()
    }
    height, width = data.image_shape[:2]
    note = f"{data.origin}; resized from {height}x{width} to {size[0]}x{size[1]}, antialiased bilinear"
    return dataclasses.replace(data, **splits, origin=note)


def take_fraction(data: Data, fraction: float) -> Data:
    """The first `fraction` of the training examples, at least one; the test split stays whole.

    Args:
      data: any data set.
      fraction: in (0, 1].

    Returns:
      The data set with a shorter training split. If it has no validation split, the examples that are left out become
      that.

    Raises:
      DataError: if the fraction is not in (0, 1].
    """
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise DataError(f"fraction is {fraction!r}; expected more than 0, at most 1")
    whole = len(data.train)
    num = max(1, round(fraction * whole))
    if num == whole:
        return data
    train, rest = _part(data.train, range(num)), _part(data.train, range(num, whole))
    validation = rest if data.validation is None else data.validation
    note = f"{data.origin}; the first {num:,} of {whole:,} training {data.noun}"
    return dataclasses.replace(data, train=train, validation=validation, origin=note)


def _part(examples: Examples, part: range) -> Examples:
    return examples[part.start : part.stop] if isinstance(examples, np.ndarray) else View(examples, part=part)


def first(examples: Examples, num: int | None = None) -> np.ndarray:
    """The first `num` examples in memory, uint8 [N, ...]; all of them by default, or if there are fewer.

    Args:
      examples: an array or a random-access source.
      num: how many; None for all.

    Returns:
      uint8 [min(num, N), ...].
    """
    num = len(examples) if num is None else min(num, len(examples))
    return examples[:num] if isinstance(examples, np.ndarray) else np.stack([examples[index] for index in range(num)])


class View:
    """A random-access source: a part of another (default: all), each example passed through a function when read."""

    def __init__(
        self, examples: Any, function: Callable[[Any], Any] = lambda example: example, part: range | None = None
    ):
        self._examples, self._function = examples, function
        self._part = range(len(examples)) if part is None else part

    def __len__(self) -> int:
        return len(self._part)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"index is {index}; expected 0 to {len(self) - 1}")
        return self._function(self._examples[self._part[index]])
