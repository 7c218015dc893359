"""Videos for training: bouncing digits, BAIR's robot, the user's own as `.npz`. No JAX in here."""

import dataclasses
import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from calibrax.data.datasets.bair import LICENSE, ROBOT_PUSHING, load_robot_pushing
from calibrax.data.datasets.bair import NUM_FRAMES as NUM_ROBOT_FRAMES
from calibrax.data.datasets.moving_digits import NUM_FRAMES, MovingDigits
from calibrax.data.sources import data_folder, expanded, levels_in_words, load
from calibrax.data.transforms import Size, checked_size, fraction_size, resize
from calibrax.data.types import DataError, FramesError, ImageData, check_path, check_whole, is_whole
from calibrax.data.video_files import holds_videos, read_video_npz

MOVING_DIGITS, MOVING_MNIST = "moving-digits", "moving-mnist"
ALIASES = {
    "bair": ROBOT_PUSHING,
    "moving_digits": MOVING_DIGITS,
    "moving_mnist": MOVING_MNIST,
}
TO_DESCRIBE = 256  # videos of a split at most


class Videos(Protocol):
    """The videos of a split by index, uint8 [T, H, W, C] each: an array [N, T, H, W, C], or a random-access source."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> np.ndarray: ...


@dataclass(frozen=True)
class VideoData:
    """Videos of one data set; its splits may differ in their number of frames, not in height, width and channels.

    Attributes:
      name: what runs, reports and plots call it.
      train: training videos.
      test: test videos.
      validation: validation videos, where the set has them.
      license: a note on its terms.
      origin: where these videos were read from, and what was done to them.
    """

    name: str
    train: Videos
    test: Videos
    validation: Videos | None = None
    license: str = ""
    origin: str = ""

    @property
    def event_shape(self) -> tuple[int, int, int, int]:
        """(T, H, W, C) of a training video."""
        frames, height, width, channels = self.train[0].shape
        return frames, height, width, channels

    @property
    def splits(self) -> dict[str, Videos]:
        """The splits that are there, by name."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: videos for name, videos in named.items() if videos is not None}


def load_video(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    num_frames: int | None = None,
    num_test_frames: int | None = None,
    image_size: Size = None,
    digits: str | None = None,
    deterministic: bool = False,
    seed: int = 0,
    num_train: int = 10_000,
    num_test: int = 256,
    prepare: bool = False,
    download: bool = True,
) -> VideoData:
    """Videos by name or path.

    Args:
      source: `moving-digits`, drawn here; `moving-mnist`, the same with MNIST's digits; `moving-digits:IMAGES`, the
        same with those of another image source; `bair`, that is TFDS's `bair_robot_pushing_small`, read from
        `data_dir` one sequence at a time; or an `.npz` file with uint8 arrays `train`, `test` and optionally
        `validation`, each [N, T, H, W, C].
      data_dir: where prepared data and original files are looked for; by default TFDS's own folder in the user's home.
      num_frames: T of a training video, its first frames; by default all there are, 20 for moving digits.
      num_test_frames: T of a test or validation video; by default all there are, 20 for moving digits.
      image_size: resize to this square or (height, width), antialiased bilinear, rounded to uint8.
      digits: of `moving-digits`: an image source as `data.load` takes, whose training and test images bounce in the
        training and the test videos; by default drawn digits, the same in both.
      deterministic, seed, num_train, num_test: of moving digits, see `MovingDigits`.
      prepare: download and prepare `bair` if it is not there, which takes TensorFlow and 81 GiB.
      download: ask the network for MNIST when nothing local is found.

    Raises:
      DataError: in one line, saying what would be accepted.
    """
    source = check_path("data", source)
    name, folder = ALIASES.get(source, source), data_folder(data_dir)
    checked_size(image_size)
    if name.startswith(f"{MOVING_DIGITS}:"):
        name, _, digits = name.partition(":")
    whole = NUM_ROBOT_FRAMES if name == ROBOT_PUSHING else NUM_FRAMES
    train_frames, test_frames = (whole if num is None else num for num in (num_frames, num_test_frames))
    if name in (MOVING_DIGITS, MOVING_MNIST):
        digits = "mnist" if digits is None and name == MOVING_MNIST else digits
        images = None if digits is None else load(digits, data_dir=folder, download=download)
        data = _moving_digits(images, (num_train, num_test), (train_frames, test_frames), seed, deterministic)
    elif name == ROBOT_PUSHING:
        splits, where = load_robot_pushing(folder, train_frames, test_frames, prepare=prepare)
        data = VideoData(name=ROBOT_PUSHING, **splits, license=LICENSE, origin=f"{where}, camera image_aux1")
    elif Path(source).suffix.lower() == ".npz":
        data = _from_file(expanded(source), num_frames, num_test_frames)
    else:
        close = difflib.get_close_matches(source, known_videos(), n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        known = f"{MOVING_DIGITS}, {MOVING_DIGITS}:IMAGES, {MOVING_MNIST}, bair, or an .npz file of videos"
        raise DataError(f"no videos called {source!r}: {hint}expected {known}")
    return _resized(data, image_size)


def known_videos() -> list[str]:
    """The names that `load_video` knows without a file."""
    return [MOVING_DIGITS, MOVING_MNIST, ROBOT_PUSHING]


def is_video_source(source: str | Path) -> bool:
    """Whether `load_video` would take it, and `load` not: a name of videos, or an `.npz` file that holds some."""
    source = check_path("data", source)
    name = ALIASES.get(source, source)
    if name in known_videos() or name.startswith(f"{MOVING_DIGITS}:"):
        return True
    return Path(source).suffix.lower() == ".npz" and holds_videos(expanded(source))


def first_videos(videos: Videos, num: int | None = None) -> np.ndarray:
    """The first of the videos, or all of them, in memory: uint8 [N, T, H, W, C]."""
    num = len(videos) if num is None else min(num, len(videos))
    return videos[:num] if isinstance(videos, np.ndarray) else np.stack([videos[index] for index in range(num)])


def take_fraction_of_videos(data: VideoData, fraction: float) -> VideoData:
    """The first `fraction` of the training videos, at least one; the other splits whole.

    Raises:
      DataError: if the fraction is not in (0, 1].
    """
    num, whole = fraction_size(len(data.train), fraction), len(data.train)
    if num == whole:
        return data
    train = data.train[:num] if isinstance(data.train, np.ndarray) else _First(data.train, num)
    return dataclasses.replace(
        data, train=train, origin=f"{data.origin}; the first {num:,} of {whole:,} training videos"
    )


def describe_videos(data: VideoData) -> str:
    """What is in a data set, in a few aligned lines; levels are those of the first videos of a split."""
    lines = [("name", data.name)]
    for split, videos in data.splits.items():
        shape, first = "x".join(map(str, videos[0].shape)), first_videos(videos, TO_DESCRIBE)
        of_first = "" if len(first) == len(videos) else f"the first {len(first)}: "
        levels = levels_in_words(first.reshape(-1, *first.shape[2:]))
        lines.append((split, f"{len(videos):,} videos, {shape}, uint8, {of_first}{levels}"))
    lines += [("terms", data.license), ("origin", data.origin)]
    return "\n".join(f"{label:<12}{text}" for label, text in lines)


def _moving_digits(
    images: ImageData | None, nums: tuple[int, int], frames: tuple[int, int], seed: int, deterministic: bool
) -> VideoData:
    """Training and test videos from seeds that differ."""
    digits = (None, None) if images is None else (images.train, images.test)
    seeds = (2 * seed, 2 * seed + 1)
    try:
        check_whole("seed", seed, 0)
        train, test = (
            MovingDigits(*arguments, deterministic=deterministic)
            for arguments in zip(digits, nums, seeds, frames, strict=True)
        )
    except ValueError as error:
        raise DataError(f"{MOVING_DIGITS}: {error}") from error
    whose = "drawn digits, not MNIST's" if images is None else f"digits of {images.origin}"
    how = "reflected by the edges" if deterministic else "leaving the edges at random"
    return VideoData(
        name=MOVING_DIGITS if images is None else f"moving-{images.name}",
        train=train,
        test=test,
        license="drawn by calibrax, Apache-2.0" if images is None else images.license,
        origin=f"drawn from seed {seed}: {whose}, {how}",
    )


def _from_file(path: Path, num_frames: int | None, num_test_frames: int | None) -> VideoData:
    """The first frames of an `.npz` file's videos."""
    if not os.path.isfile(path):
        raise DataError(f"there is no file {path}")
    splits = read_video_npz(path)
    for split, videos in splits.items():
        num = num_frames if split == "train" else num_test_frames
        if num is not None and not (is_whole(num) and 1 <= num <= videos.shape[1]):
            most = f"1 to {videos.shape[1]}, those of '{split}'"
            raise FramesError(f"{path}: number of frames is {num}; expected {most}", split)
        splits[split] = videos[:, :num]
    return VideoData(name=path.stem, **splits, license="see its source", origin=str(path))


def _resized(data: VideoData, image_size: Size) -> VideoData:
    """All splits at that size; what is in memory now, other videos when they are asked for."""
    size, (height, width) = checked_size(image_size), data.event_shape[1:3]
    if size is None or size == (height, width):
        return data
    splits = {}
    for split, videos in data.splits.items():
        if isinstance(videos, np.ndarray):
            frames = resize(videos.reshape(-1, *videos.shape[2:]), size)
            splits[split] = frames.reshape(*videos.shape[:2], *frames.shape[1:])
        else:
            splits[split] = _Resized(videos, size)
    note = f"{data.origin}; resized from {height}x{width} to {size[0]}x{size[1]}, antialiased bilinear"
    return dataclasses.replace(data, **splits, origin=note)


class _Resized:
    """Videos of a random-access source at another size, resized when they are asked for."""

    def __init__(self, videos: Videos, size: tuple[int, int]):
        self._videos, self._size = videos, size

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> np.ndarray:
        return resize(self._videos[index], self._size)


class _First:
    """The first videos of a random-access source."""

    def __init__(self, videos: Videos, num: int):
        self._videos, self._num = videos, num

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self._num:
            raise IndexError(f"index is {index}; expected 0 to {self._num - 1}")
        return self._videos[index]
