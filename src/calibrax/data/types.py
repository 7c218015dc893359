"""What a data set is, what a user asks of its loader, and the checks that all sources share."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

LEAST_TOP_LEVEL = 16  # of training data that are not black; images in fewer levels are on another scale than 0 to 255
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
      validation: validation examples, if the data set has them; see also `take_fraction`.
      license: a note on the terms of use.
      origin: where the examples were read from, and how they were processed.

    Raises:
      DataError: if an array has another dtype or shape, or a size of 0.
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
            check_layout(f"{where}: '{name}'", array.dtype, array.shape)
        if len({(array.ndim, array.shape[-3:]) for array in arrays.values()}) > 1:  # videos may differ in their length
            listed = ", ".join(f"'{name}' {array.shape}" for name, array in arrays.items())
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

    def draws(self, train: int, test: int) -> dict[str, tuple[int, int]]:
        """The number of examples to draw and their seed for each split, given a source's default numbers.

        Raises:
          DataError: if a number or the seed is out of its range.
        """
        check_whole("seed", self.seed, 0)
        nums = {
            "train": train if self.num_train is None else self.num_train,
            "test": test if self.num_test is None else self.num_test,
        }
        for split, num in nums.items():
            check_whole(f"num_{split}", num, 1)
        return {split: (num, 2 * self.seed + index) for index, (split, num) in enumerate(nums.items())}

    def frames(self, default: int) -> dict[str, int]:
        """The number of frames of a video of each split, given a source's default."""
        given = {"train": self.num_frames, "test": self.num_test_frames}
        return {split: default if num is None else num for split, num in given.items()}


def check_layout(what: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise DataError unless this is the dtype and shape of images or videos, with no size of 0."""
    if dtype != np.uint8 or len(shape) not in (4, 5) or min(shape) < 1:
        raise DataError(f"{what} is {dtype} {shape}; expected uint8 [N, H, W, C] or [N, T, H, W, C], all 1 or more")


def check_levels(data: Data) -> None:
    """Refuse training data that are on another scale than 0 to 255, such as binary images of 0 and 1.

    These would be trained on as 0 and 1/255. Black images have no scale and pass.

    Raises:
      DataError: if the highest level of the training data is 1 to 15.
    """
    top = int(np.asarray(data.train).max())
    if 0 < top < LEAST_TOP_LEVEL:
        raise DataError(
            f"{data.origin}: the highest level of the training {data.noun} is {top}, and 255 is white: pass 0 and 255 "
            f"for binary {data.noun}, or levels that are scaled to 0..255"
        )


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
