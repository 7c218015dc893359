"""Image data in memory."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np


class DataError(ValueError):
    """Data that cannot be had or used; the message is one line for the user, whatever a file's name or a cause has."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class FramesError(DataError):
    """Videos of a split have fewer frames than were asked for.

    Attributes:
      split: which one.
    """

    def __init__(self, message: str, split: str):
        super().__init__(message)
        self.split = split


@dataclass(frozen=True)
class ImageData:
    """Images of one data set, each split uint8 [N, H, W, C].

    Attributes:
      name: what runs, reports and plots call it.
      train: training images.
      test: test images.
      validation: validation images, where the set has them.
      license: a note on its terms.
      origin: where these images were read from, and what was done to them.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    validation: np.ndarray | None = None
    license: str = ""
    origin: str = ""

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.train.shape[1:]
        return height, width, channels

    @property
    def splits(self) -> dict[str, np.ndarray]:
        """The splits that are there, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: images for name, images in named.items() if images is not None}


def is_whole(value: Any) -> bool:
    """Whether it is an integer, of Python's or NumPy's."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise DataError unless the value is a whole number, `least` or more."""
    if not is_whole(value):
        raise DataError(f"{name} is {value!r}; expected a whole number, {least} or more")
    if value < least:
        raise DataError(f"{name} is {value}; expected {least} or more")


def check_path(name: str, value: Any) -> str:
    """The path as a string; raises DataError, naming the argument, for what no path can be."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value).strip() or "\0" in os.fspath(value):
        raise DataError(f"{name} is {value!r}; expected a name or a path")
    return os.fspath(value)


def check_splits(where: str, splits: dict[str, np.ndarray]) -> None:
    """Each split uint8 [N, H, W, C] with N > 0, all of one image shape; `where` begins the message."""
    for name, images in splits.items():
        if images.dtype != np.uint8:
            raise DataError(f"{where}: '{name}' has dtype {images.dtype}; expected uint8 in 0..255")
        if images.ndim != 4 or 0 in images.shape[1:]:
            raise DataError(f"{where}: '{name}' has shape {images.shape}; expected [N, H, W, C]")
        if len(images) == 0:
            raise DataError(f"{where}: '{name}' is empty; expected at least one image")
    shapes = {name: images.shape[1:] for name, images in splits.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())
        raise DataError(f"{where}: images differ in shape between splits: {listed}")
