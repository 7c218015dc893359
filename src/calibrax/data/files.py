"""The user's own files: an `.npz` file of images or videos, or a folder of images."""

import contextlib
import dataclasses
import hashlib
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.data.types import Data, DataError, FramesError, Options, check_layout, is_whole, readable

SPLITS = ("train", "validation", "test")
LICENSE = "see its source"
# An array may take the larger of the first two once decompressed: the sizes that a file claims are checked first.
ALWAYS_BYTES = 2**28
MAX_RATIO = 500  # times its compressed size; drawings in two levels, such as dSprites', pack 116-fold, zeros 1030-fold
MAX_BYTES = 64 * 2**30
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # of a file's content; EPS would run Ghostscript
TEST_SHARE = 10  # one image in ten of a folder without train/ and test/


def load_npz(path: Path, options: Options) -> Data:
    """Images or videos from an `.npz` file with uint8 arrays `train`, `test` and optionally `validation`.

    All are [N, H, W, C], or all are [N, T, H, W, C]. Of videos only the first frames are kept if `options` ask for
    fewer than there are.

    Raises:
      DataError: if the file cannot be read, or holds something else.
      FramesError: if the videos of a split are shorter than asked for.
    """
    data = Data(name=path.stem, **_read_npz(path), license=LICENSE, origin=str(path))
    if not data.is_video:
        return data
    splits = {}
    for split, videos in data.splits.items():
        num, length = options.num_frames if split == "train" else options.num_test_frames, len(videos[0])
        if num is not None and not (is_whole(num) and 1 <= num <= length):
            raise FramesError(f"{path}: number of frames is {num}; expected 1 to {length}, those of '{split}'", split)
        splits[split] = videos[:, :num]
    return dataclasses.replace(data, **splits)


def holds_videos(path: Path) -> bool | None:
    """True or False by the header of the array `train` of an `.npz` file; None if that holds neither or is damaged."""
    if not os.path.isfile(path):  # opening a pipe would wait for its other end
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            shape, _ = _read_header(path, archive, archive.getinfo("train.npy"))
    except Exception:  # zipfile raises many types of error on damaged files; loading the file reports them
        return None
    return {4: False, 5: True}.get(len(shape))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of the splits. Headers are checked before anything is allocated, and pickles are not opened."""
    with readable(path, "as an .npz file"), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        for name in SPLITS:
            if names.count(name) > 1:
                raise DataError(f"{path} has several arrays '{name}'; expected one")
            if name not in names and name != "validation":
                raise DataError(f"{path} has no array '{name}'; expected uint8 arrays 'train' and 'test'")
        infos = dict(zip(names, archive.infolist(), strict=True))
        return {name: _read_member(path, archive, infos[name], name) for name in SPLITS if name in infos}


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> np.ndarray:
    with readable(f"{path}: array '{name}'"):
        shape, dtype = _read_header(path, archive, info)
        check_layout(f"{path}: '{name}'", dtype, shape)
        size = math.prod(shape)
        if size > min(info.file_size, MAX_BYTES):
            raise DataError(f"{path}: the header of '{name}' promises {size} bytes, more than the file holds")
        with archive.open(info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def _read_header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array; DataError if it claims an implausible size or is compressed in an unusual way."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile inflates others by the block
        raise DataError(f"{path}: '{info.filename}' is packed in a way that NumPy does not write")
    if info.compress_size > path.stat().st_size or info.file_size > max(ALWAYS_BYTES, MAX_RATIO * info.compress_size):
        raise DataError(f"{path}: '{info.filename}' claims {info.file_size} bytes, more than images pack into its size")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return shape, dtype


def load_folder(folder: Path, options: Options) -> Data:
    """Images from a folder with `train` and `test` (and `validation`) inside, or from one folder that is split here.

    A single folder is split by a hash of each file's name, one image in ten for testing, so that adding images moves
    none from one split to another. If all images are grey they have one channel, otherwise three. Images of different
    sizes need `options.image_size`: each is then cropped to its central square (if the size is square) and resized.

    Raises:
      DataError: if there are too few images, if one cannot be read, or if they differ in size.
    """
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
    splits = {name: _read_images(files, grey, options.image_size) for name, files in named.items() if files}
    return Data(name=folder.resolve().name, **splits, license=LICENSE, origin=f"{folder} ({how})")


def _image_files(folder: Path) -> list[Path]:
    paths = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path} is not a regular file (for example, a broken link); expected an image")
    return sorted(paths)


def _name_hash(path: Path) -> int:
    return int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:8], "big")


def _is_grey(path: Path) -> bool:
    with _opened(path) as picture:
        return picture.mode in ("1", "L")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open Pillow image. DataError if its header gives more pixels than Pillow considers safe (89 million)."""
    from PIL import Image, UnidentifiedImageError

    with readable(path, "as an image"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                opened = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError(f"it is none of {', '.join(FORMATS)}") from error
        with opened:
            yield opened


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

    with _opened(path) as opened:
        if opened.mode.startswith(("I", "F")):  # Pillow would clip at 255 instead of scaling
            raise DataError(f"{path} has pixels of mode {opened.mode}; expected 8 bits a channel")
        picture = opened.convert("L" if grey else "RGB")
        if size is not None:
            height, width = size
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            box = (left, top, left + side, top + side) if height == width else None
            picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.asarray(picture).reshape(picture.height, picture.width, 1 if grey else 3)
