"""The user's own images: an `.npz` file or a folder."""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.data.npz import SPLITS, read_npz
from calibrax.data.transforms import Size, checked_size
from calibrax.data.types import DataError, ImageData, check_splits

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # of a file's content; EPS would run Ghostscript
TEST_SHARE = 10  # one image in ten of a folder without train/ and test/


def load_npz(path: Path) -> ImageData:
    """Images from an `.npz` with uint8 arrays `train`, `test` and optionally `validation`, each [N, H, W, C].

    Raises:
      DataError: in one line.
    """
    splits = read_npz(path, "[N, H, W, C]")
    check_splits(str(path), splits)
    return ImageData(name=path.stem, **splits, license="see its source", origin=str(path))


def load_folder(folder: Path, image_size: Size = None) -> ImageData:
    """Images from a folder with `train` and `test` (and `validation`) inside, or from one folder that is split here.

    A single folder is split by a hash of each file's name, one image in ten for testing, so that adding images moves
    none from one side to the other. Grey images give one channel when all of them are grey, otherwise three. Images of
    different sizes need `image_size`: each is then cropped to its central square and resized.

    Raises:
      DataError: in one line.
    """
    size = checked_size(image_size)
    named = {name: _image_files(folder / name) for name in SPLITS if (folder / name).is_dir()}
    if "train" in named or "test" in named:
        for name in ("train", "test"):
            if not named.get(name):
                raise DataError(f"{folder} has no images in '{name}'; expected folders train and test, or images alone")
        how = "folders train and test"
    else:
        files = _image_files(folder)
        if not files:
            raise DataError(f"{folder} holds no images; expected {', '.join(IMAGE_SUFFIXES[:4])}, ... files")
        test = [path for path in files if _name_hash(path) % TEST_SHARE == 0] or files[-1:]
        named = {"train": [path for path in files if path not in set(test)], "test": test}
        if not named["train"]:
            raise DataError(f"{folder} holds {len(files)} image; expected at least two, to train and to test on")
        how = f"split by the hash of file names, {len(test)} of {len(files)} for testing"
    grey = all(_is_grey(path) for files in named.values() for path in files)
    splits = {name: _read_images(files, grey, size) for name, files in named.items() if files}
    check_splits(str(folder), splits)
    return ImageData(name=folder.resolve().name, **splits, license="see its source", origin=f"{folder} ({how})")


def _image_files(folder: Path) -> list[Path]:
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is no file, such as a broken link; expected an image")
    return sorted(paths)


def _name_hash(path: Path) -> int:
    return int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:8], "big")


def _is_grey(path: Path) -> bool:
    with _picture(path) as picture:
        return picture.mode in ("1", "L")


@contextlib.contextmanager
def _picture(path: Path) -> Iterator[Any]:
    """An image that is open, of no more pixels than Pillow takes to be safe (89 million), by its header."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(path, formats=FORMATS)
        with opened:
            yield opened
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path} cannot be read as an image: it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def _read_images(files: list[Path], grey: bool, size: tuple[int, int] | None) -> np.ndarray:
    images: list[np.ndarray] = []
    for path in files:
        images.append(_read_image(path, grey, size))
        if images[-1].shape != images[0].shape:
            sizes = f"{files[0].name} is {images[0].shape[:2]}, {path.name} is {images[-1].shape[:2]}"
            raise DataError(f"images differ in size: {sizes}; give an image size to crop and resize them")
    return np.stack(images)


def _read_image(path: Path, grey: bool, size: tuple[int, int] | None) -> np.ndarray:
    """uint8 [H, W, 1] or [H, W, 3]."""
    from PIL import Image

    with _picture(path) as opened:
        if opened.mode.startswith(("I", "F")):  # Pillow would cut off at 255, not scale
            raise DataError(f"{path} has pixels of mode {opened.mode}; expected 8 bits a channel")
        picture = opened.convert("L" if grey else "RGB")
        if size is not None:
            height, width = size
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            box = (left, top, left + side, top + side) if height == width else None
            picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(picture).reshape(picture.height, picture.width, 1 if grey else 3)
