"""What a data set is, what a user asks of its loader, and the checks that all sources share."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LAYOUTS = {4: "[N, H, W, C]", 5: "[N, T, H, W, C]"}  # of the arrays of a split, by their number of axes
TIMEOUT = 10.0  # seconds without data from a server; TFDS alone would retry for minutes


class DataError(ValueError):
    """Data cannot be found, read or used. The message is a single line, even if a file name or a cause has several."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class FramesError(DataError):
    """The videos of a split do not have the number of frames that was asked for.

    Attributes:
      split: the name of the split.
    """

    def __init__(self, message: str, split: str):
        super().__init__(message)
        self.split = split


class Examples(Protocol):
    """The examples of a split by index: an array, or a random-access source that reads or draws each one on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Data:
    """Images or videos of one data set.

    A split is a uint8 array, [N, H, W, C] for images and [N, T, H, W, C] for videos, or a random-access source of N
    such examples. Splits of videos may differ in T; all other sizes of an example are the same in all splits.

    Attributes:
      name: the name in runs, reports and plots.
      train: training examples.
      test: test examples.
      validation: validation examples, if the data set has them.
      license: a note on the terms of use.
      origin: where the examples were read from, and how they were processed.

    Raises:
      DataError: if an array has another dtype or shape, or is empty.
    """

    name: str
    train: Examples
    test: Examples
    validation: Examples | None = None
    license: str = ""
    origin: str = ""

    def __post_init__(self):
        where = self.origin or self.name
        arrays = {name: examples for name, examples in self.splits.items() if isinstance(examples, np.ndarray)}
        for name, array in arrays.items():
            axes = np.ndim(arrays.get("train", array))
            if array.dtype != np.uint8:
                raise DataError(f"{where}: '{name}' has dtype {array.dtype}; expected uint8 in 0..255")
            if array.ndim != axes or axes not in LAYOUTS or 0 in array.shape[1:]:
                layout = LAYOUTS.get(axes, " or ".join(LAYOUTS.values()))
                raise DataError(f"{where}: '{name}' has shape {array.shape}; expected {layout}")
            if len(array) == 0:
                raise DataError(f"{where}: '{name}' is empty; expected at least one example")
        shapes = {name: array.shape[-3:] for name, array in arrays.items()}  # videos may differ in their length
        if len(set(shapes.values())) > 1:
            listed = ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())
            what = "frames" if self.is_video else "images"
            raise DataError(f"{where}: {what} differ in shape between splits: {listed}")

    @property
    def splits(self) -> dict[str, Examples]:
        """The splits of this data set by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: examples for name, examples in named.items() if examples is not None}

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of a training example: (H, W, C) or (T, H, W, C)."""
        return self.train[0].shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of a training image, or of a frame of a training video: (H, W, C)."""
        height, width, channels = self.event_shape[-3:]
        return height, width, channels

    @property
    def is_video(self) -> bool:
        """True for videos, False for images."""
        return len(self.event_shape) == 4

    @property
    def noun(self) -> str:
        """What the examples are called in messages and tables: "images" or "videos"."""
        return "videos" if self.is_video else "images"


@dataclass(frozen=True)
class Options:
    """The arguments of `load`, which documents them. Each source reads the fields that apply to it."""

    data_dir: Path
    image_size: tuple[int, int] | None = None
    num_frames: int | None = None
    num_test_frames: int | None = None
    digits: str | None = None
    deterministic: bool = False
    seed: int = 0
    num_train: int | None = None
    num_test: int | None = None
    prepare: bool = False
    download: bool = True
    timeout: float = TIMEOUT

    def nums(self, train: int, test: int) -> dict[str, int]:
        """The number of examples to draw for each split, given a source's defaults."""
        given = {"train": (self.num_train, train), "test": (self.num_test, test)}
        return {split: default if num is None else num for split, (num, default) in given.items()}

    def frames(self, default: int) -> dict[str, int]:
        """The number of frames of a video of each split, given a source's default."""
        given = {"train": self.num_frames, "test": self.num_test_frames}
        return {split: default if num is None else num for split, num in given.items()}


def is_whole(value: Any) -> bool:
    """True for integers of Python and NumPy, False for bool and everything else."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise DataError unless the value is an integer of at least `least`."""
    if not is_whole(value):
        raise DataError(f"{name} is {value!r}; expected a whole number, {least} or more")
    if value < least:
        raise DataError(f"{name} is {value}; expected {least} or more")


def check_path(name: str, value: Any) -> str:
    """Return the path as a string; raise DataError if the value cannot be a path. `name` is the argument's."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value).strip() or "\0" in os.fspath(value):
        raise DataError(f"{name} is {value!r}; expected a name or a path")
    return os.fspath(value)


@contextlib.contextmanager
def readable(what: Path | str, kind: str = "") -> Iterator[None]:
    """Turn errors inside the block into a DataError, "WHAT cannot be read KIND: ...".

    The readers of archives, images and records raise many types of error on damaged files.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise DataError(f"{what} cannot be read{kind and f' {kind}'}: {reason}") from error
