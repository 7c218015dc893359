"""From what a user names to a data set: one table of names, then the user's own files and TFDS's prepared data."""

import difflib
import importlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibrax.data.files import holds_videos, load_npz
from calibrax.data.folders import load_folder
from calibrax.data.tfds_cache import read_prepared
from calibrax.data.transforms import Size, checked_size, first, resize_data
from calibrax.data.types import TIMEOUT, Data, DataError, Options, check_levels, check_path

DEFAULT_DATA_DIR = "~/tensorflow_datasets"  # unless TFDS_DATA_DIR is set, as for TFDS
TO_DESCRIBE = 256  # videos of a split at most


class Source(NamedTuple):
    """A named data set."""

    name: str
    loader: str  # MODULE.FUNCTION in `calibrax.data.datasets`, imported on use; takes `Options` and returns `Data`
    aliases: tuple[str, ...] = ()  # other names that `load` takes
    is_video: bool = False
    takes_images: bool = False  # NAME:IMAGES is accepted too; IMAGES, a source of images, is passed as `Options.digits`

    def load(self, options: Options) -> Data:
        module, function = self.loader.split(".")
        return getattr(importlib.import_module(f"calibrax.data.datasets.{module}"), function)(options)


SOURCES = (
    Source("street-digits", "street_digits.load"),
    Source("svhn", "svhn.load", aliases=("svhn_cropped",)),
    Source("mnist", "mnist.load"),
    Source("fashion_mnist", "fashion_mnist.load", aliases=("fashion-mnist",)),
    Source("cifar10", "cifar10.load", aliases=("cifar-10",)),
    Source("frey_face", "frey_face.load", aliases=("frey-face", "freyface")),
    Source("celeba", "celeba.load", aliases=("celeb_a",)),
    Source("moving-digits", "moving_digits.load", aliases=("moving_digits",), is_video=True, takes_images=True),
    Source("moving-mnist", "moving_digits.load_mnist", aliases=("moving_mnist",), is_video=True),
    Source("bair", "bair.load", aliases=("bair_robot_pushing_small",), is_video=True),
)
BY_NAME = {name: source for source in SOURCES for name in (source.name, *source.aliases)}


def load(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    image_size: Size = None,
    num_frames: int | None = None,
    num_test_frames: int | None = None,
    digits: str | None = None,
    deterministic: bool = False,
    seed: int = 0,
    num_train: int | None = None,
    num_test: int | None = None,
    prepare: bool = False,
    download: bool = True,
    timeout: float = TIMEOUT,
) -> Data:
    """Images or videos by name or path.

    Local data is used first (prepared data, then original files), and the network only after that. A source ignores
    the arguments that do not apply to it.

    Args:
      source: a name of `SOURCES`; NAME:IMAGES where an entry takes images; another image data set that TFDS has
        prepared in `data_dir`, as array_record or tfrecord; an `.npz` file of images or videos; or a folder of images.
      data_dir: the folder for prepared data and original files; by default that of TFDS: the environment variable
        TFDS_DATA_DIR, or else `tensorflow_datasets` in the user's home.
      image_size: resize to this square or (height, width), antialiased bilinear, rounded to uint8. `celeba` is cropped
        to the face first, has at most 140 pixels, and is 64×64 by default.
      num_frames: length T of a training video, taken from its start; by default all frames, or 20 for moving digits.
      num_test_frames: the same for test and validation videos.
      digits: for moving digits, the image source of the digits: its training images move in the training videos, its
        test images in the test videos. By default drawn digits, or those of MNIST for `moving-mnist`.
      deterministic: for moving digits, see `MovingDigits`.
      seed: seed of drawn images and videos.
      num_train, num_test: numbers of drawn examples; by default 9,000 and 1,000 images, or 10,000 and 256 videos.
      prepare: download and prepare `bair` if it is missing, which needs TensorFlow and 81 GiB.
      download: download original files if nothing local is found. `celeba` is never downloaded, since each user has to
        accept its terms.
      timeout: seconds of silence from a server after which a download ends.

    Returns:
      The data set, with uint8 arrays or random-access sources as its splits.

    Raises:
      DataError: if the data cannot be found or read; the message says what is accepted.
    """
    source = check_path("data", source)
    found, images = _find(source)
    options = Options(
        data_dir=expanded(check_path("data_dir", default_data_dir() if data_dir is None else data_dir)),
        image_size=checked_size(image_size),
        num_frames=num_frames,
        num_test_frames=num_test_frames,
        digits=digits if images is None else images,
        deterministic=deterministic,
        seed=seed,
        num_train=num_train,
        num_test=num_test,
        prepare=prepare,
        download=download,
        timeout=timeout,
    )
    if found is None:
        data = _load_path(source, options)
        check_levels(data)
    else:
        data = found.load(options)
    return resize_data(data, options.image_size)


def default_data_dir() -> str:
    """The data folder when none is given, which is TFDS's."""
    return os.environ.get("TFDS_DATA_DIR") or DEFAULT_DATA_DIR


def _find(source: str) -> tuple[Source | None, str | None]:
    """The entry of the table that a user names, if there is one, and the IMAGES of NAME:IMAGES."""
    name, colon, images = source.partition(":")
    found = BY_NAME.get(name)
    if not colon:
        return found, None
    return (found, images) if found is not None and found.takes_images else (None, None)


def _load_path(source: str, options: Options) -> Data:
    """The data of a source that is not in the table: a file, a folder, or data that TFDS has prepared."""
    path = expanded(source)
    if path.suffix.lower() == ".npz":
        if not os.path.isfile(path):
            raise DataError(f"there is no file {source}")
        return load_npz(path, options)
    if os.path.isdir(path):
        return load_folder(path, options)
    if os.path.isfile(path):
        raise DataError(f"{source} is a file of another kind; expected an .npz file, or a folder of images")
    # TFDS's names have no other characters; nothing outside of the data folder is looked at.
    is_name = source.replace("-", "").replace("_", "").replace("/", "").isalnum() and not source.startswith("/")
    prepared = read_prepared(source, options.data_dir) if is_name else None
    if prepared is None:
        # A name and its alias may both be close to what was given.
        close = dict.fromkeys(BY_NAME[name].name for name in difflib.get_close_matches(source, BY_NAME))
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise DataError(f"no data called {source!r}: {hint}expected {sources_in_words(options.data_dir)}")
    splits, origin = prepared
    return Data(source.replace("/", "-"), **splits, license="see TensorFlow Datasets", origin=origin)


def known_sources() -> list[str]:
    """The names that `load` takes besides files, folders and TFDS's prepared data.

    Returns:
      Names, each of which `load` takes as it is.
    """
    return [source.name for source in SOURCES]


def sources_in_words(data_dir: str | Path = "--data-dir") -> str:
    """What `load` takes, for help texts and messages.

    Args:
      data_dir: what the text calls the folder of prepared data.

    Returns:
      One sentence without a full stop.
    """
    images = ", ".join(source.name for source in SOURCES if not source.is_video)
    videos = ", ".join(
        f"{source.name}, {source.name}:IMAGES" if source.takes_images else source.name
        for source in SOURCES
        if source.is_video
    )
    return (
        f"{images}, a data set prepared by TFDS in {data_dir}, an .npz file, or a folder of images; "
        f"for videos {videos}, or an .npz file"
    )


def files_of(source: str | Path) -> Path | None:
    """The path of the user's file or folder that a source, or the IMAGES of NAME:IMAGES, gives; None for a known name.

    Nothing need exist there. The name of data that TFDS has prepared is taken for such a path too.
    """
    source = check_path("data", source)
    found, images = _find(source)
    if images is not None:
        return files_of(images)
    return expanded(source) if found is None else None


def absolute(source: str | Path) -> str:
    """The source for use in any working directory: the path of an existing file or folder is made absolute."""
    source = check_path("data", source)
    found, images = _find(source)
    if images is not None:
        return f"{source.partition(':')[0]}:{absolute(images)}"
    path = expanded(source)
    return str(path.absolute()) if found is None and os.path.exists(path) else source


def is_video_source(source: str | Path) -> bool | None:
    """True for videos, False for images, None if only loading can tell; nothing but a header is read.

    Args:
      source: as for `load`.

    Returns:
      True, False or None.
    """
    source = check_path("data", source)
    found, _ = _find(source)
    if found is not None:
        return found.is_video
    path = expanded(source)
    if path.suffix.lower() == ".npz":
        return holds_videos(path)
    return False if os.path.isdir(path) else None


def expanded(path: str) -> Path:
    """The path with ~ replaced, if there is such a user."""
    return Path(os.path.expanduser(path))


def describe(data: Data) -> str:
    """The content of a data set in a few aligned lines; for videos, the levels are those of the first of each split.

    Args:
      data: any data set.

    Returns:
      Text of several lines: name, shape, counts and levels of each split, licence, origin.
    """
    lines = [("name", data.name)] + ([] if data.is_video else [("images", f"{_by_x(data.event_shape)}, uint8")])
    for split, examples in data.splits.items():
        some = first(examples, TO_DESCRIBE if data.is_video else None)
        # From a histogram, since `some.std()` would take eight times the memory of the examples.
        levels, counts = np.arange(256), sum(np.bincount(example.ravel(), minlength=256) for example in some)
        mean, present = levels @ counts / some.size, np.flatnonzero(counts)
        std = np.sqrt((levels - mean) ** 2 @ counts / some.size)
        words = [f"{len(examples):,} {data.noun}", *([_by_x(some.shape[1:]), "uint8"] if data.is_video else [])]
        of_first = f"the first {len(some)}: " if len(some) < len(examples) else ""
        words += [f"{of_first}levels {present[0]}..{present[-1]}", f"mean {mean:.1f}", f"std {std:.1f}"]
        lines.append((split, ", ".join(words)))
    lines += [("terms", data.license), ("origin", data.origin)]
    return "\n".join(f"{label:<12}{text}" for label, text in lines)


def _by_x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
