"""From what a user names to images: local data first, the network last and briefly."""

import contextlib
import difflib
import os
from pathlib import Path

import numpy as np

from calibrax.data.datasets.celeba import CELEBA, load_celeba
from calibrax.data.datasets.originals import ORIGINALS, Original
from calibrax.data.download import fetch
from calibrax.data.files import load_folder, load_npz
from calibrax.data.tfds_cache import prepare, prepared_name, read_prepared
from calibrax.data.transforms import Size, checked_size, resize_data
from calibrax.data.types import DataError, ImageData, check_path, check_splits, check_whole

STREET_DIGITS = "street-digits"
ALIASES = {
    "svhn_cropped": "svhn",
    "cifar-10": "cifar10",
    "frey-face": "frey_face",
    "freyface": "frey_face",
    "celeb_a": CELEBA,
}
DEFAULT_DATA_DIR = "~/tensorflow_datasets"
AT_ONCE = 1024  # images
TIMEOUT = 10.0  # seconds of silence; TFDS alone retries for minutes


def load(
    source: str | Path,
    *,
    data_dir: str | Path | None = None,
    image_size: Size = None,
    download: bool = True,
    timeout: float = TIMEOUT,
    seed: int = 0,
    num_train: int = 9000,
    num_test: int = 1000,
) -> ImageData:
    """Images by name or path.

    Args:
      source: `svhn`, `mnist`, `cifar10`, `frey_face` or `celeba`; another image data set that TFDS has prepared as
        array_record in `data_dir`; `street-digits`, drawn here; an `.npz` file; or a folder of images.
      data_dir: where prepared data, then original files, are looked for, and where both are kept; by default TFDS's
        own folder in the user's home.
      image_size: resize to this square or (height, width), antialiased bilinear, rounded to uint8. `celeba` is cut to
        the face first, at most 140, and is 64×64 where None is given.
      download: ask the network when nothing local is found; never for `celeba`, whose terms each user accepts.
      timeout: seconds of silence after which the network is given up.
      seed, num_train, num_test: of `street-digits`.

    Raises:
      DataError: in one line, saying what would be accepted.
    """
    source = check_path("data", source)
    name, path = ALIASES.get(source, source), expanded(source)
    folder = data_folder(data_dir)
    if name != CELEBA:  # whose sizes are its own
        checked_size(image_size)
    if name == STREET_DIGITS:
        data = _street_digits(seed, num_train, num_test)
    elif name in ORIGINALS:
        data = _load_original(name, ORIGINALS[name], folder, download=download, timeout=timeout)
    elif name == CELEBA:
        return load_celeba(folder, image_size)
    elif path.suffix.lower() == ".npz":
        if not os.path.isfile(path):
            raise DataError(f"there is no file {source}")
        data = load_npz(path)
    elif os.path.isdir(path):
        return load_folder(path, image_size)
    elif os.path.isfile(path):
        raise DataError(f"{source} is a file of another kind; expected an .npz file, or a folder of images")
    else:
        data = _load_prepared(source, folder)
    return resize_data(data, image_size)


def data_folder(data_dir: str | Path | None) -> Path:
    """Where data is looked for; raises DataError for what no path can be."""
    return expanded(DEFAULT_DATA_DIR if data_dir is None else check_path("data_dir", data_dir))


def expanded(path: str) -> Path:
    """The path with ~ replaced, where there is such a user."""
    return Path(os.path.expanduser(path))


def known_sources() -> list[str]:
    """The names that `load` knows without a file."""
    return [STREET_DIGITS, *ORIGINALS, CELEBA]


def describe(data: ImageData) -> str:
    """What is in a data set, in a few aligned lines."""
    shape = "x".join(map(str, data.event_shape))
    lines = [("name", data.name), ("images", f"{shape}, uint8")]
    for split, images in data.splits.items():
        lines.append((split, f"{len(images):,} images, {levels_in_words(images)}"))
    lines += [("terms", data.license), ("origin", data.origin)]
    return "\n".join(f"{label:<12}{text}" for label, text in lines)


def levels_in_words(images: np.ndarray) -> str:
    """The spread of the levels, from their histogram: `images.std()` would take eight times the images' memory."""
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), AT_ONCE):
        counts += np.bincount(images[start : start + AT_ONCE].ravel(), minlength=256)
    levels, shares = np.arange(256), counts / counts.sum()
    mean = levels @ shares
    std = np.sqrt((levels - mean) ** 2 @ shares)
    there = np.flatnonzero(counts)
    return f"levels {there[0]}..{there[-1]}, mean {mean:.1f}, std {std:.1f}"


def _street_digits(seed: int, num_train: int, num_test: int) -> ImageData:
    from calibrax.data.datasets.street_digits import draw

    for name, value, least in (("seed", seed, 0), ("num_train", num_train, 1), ("num_test", num_test, 1)):
        check_whole(name, value, least)
    return ImageData(
        name=STREET_DIGITS,
        train=draw(num_train, seed=2 * seed),
        test=draw(num_test, seed=2 * seed + 1),
        license="drawn by calibrax, Apache-2.0",
        origin=f"drawn from seed {seed}; house numbers of SVHN's shape, not SVHN",
    )


def _load_original(name: str, original: Original, folder: Path, *, download: bool, timeout: float) -> ImageData:
    """Prepared data, then original files, then the network."""
    for prepared in (prepared_name(name), original.tfds_name):
        found = read_prepared(prepared, folder)
        if found is not None:
            return _checked(name, *found, original.license)
    missing = [file for file in original.remotes if not (folder / file).is_file()]
    if missing and download:
        try:
            for file in missing:
                fetch(original.remotes[file], folder / file, timeout=timeout)
        except DataError as error:
            raise DataError(
                f"{name} is neither in {folder} nor online: {error}. {_ways(name, original, folder)}"
            ) from error
        except OSError as error:
            raise DataError(f"{name} cannot be kept in {folder}: {error.strerror or error}") from error
    elif missing:
        raise DataError(f"{name} is not in {folder}. {_ways(name, original, folder)}")
    data = _checked(name, original.read(folder), f"original files in {folder}", original.license)
    with contextlib.suppress(ImportError):  # without tensorflow-datasets the original files are read each time
        prepare(name, data.splits, folder, license=original.license)
    return data


def _ways(name: str, original: Original, folder: Path) -> str:
    files = " and ".join(original.remotes)
    return (
        f"Ways to get it: put {files} into {folder} (or another --data-dir); run `calibrax data {name}` where there is "
        f"a network; or give your own images as --data images.npz"
    )


def _load_prepared(source: str, folder: Path) -> ImageData:
    safe = source.replace("-", "").replace("_", "").replace("/", "").isalnum() and ".." not in source
    found = read_prepared(source, folder) if safe and not source.startswith("/") else None
    if found is None:
        close = difflib.get_close_matches(source, known_sources(), n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        known = ", ".join(known_sources())
        raise DataError(
            f"no data called {source!r}: {hint}expected {known}, a data set prepared as array_record in {folder}, "
            f"an .npz file, or a folder of images"
        )
    return _checked(source.replace("/", "-"), *found, "see TensorFlow Datasets")


def _checked(name: str, splits: dict[str, np.ndarray], origin: str, license: str) -> ImageData:
    for split in ("train", "test"):
        if split not in splits:
            raise DataError(f"{name} in {origin} has no split '{split}'")
    check_splits(origin, splits)
    return ImageData(name=name, **splits, license=license, origin=origin)
