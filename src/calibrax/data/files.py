"""The user's own `.npz` files of images or videos."""

import dataclasses
import math
import os
import zipfile
from pathlib import Path

import numpy as np

from calibrax._files import printable
from calibrax.data.types import Data, DataError, FramesError, Options, check_layout, is_whole, readable

SPLITS = ("train", "validation", "test")
LICENSE = "see its source"
# An array may take the larger of the first two once decompressed: the sizes that a file claims are checked first.
ALWAYS_BYTES = 2**28
MAX_RATIO = 500  # times its compressed size; drawings in two levels, such as dSprites', pack 116-fold, zeros 1030-fold
MAX_BYTES = 64 * 2**30


def load_npz(path: Path, options: Options) -> Data:
    """Images or videos from an `.npz` file with uint8 arrays `train`, `test` and optionally `validation`.

    All are [N, H, W, C], or all are [N, T, H, W, C]. Boolean arrays are read as 0 and 255. Of videos only the first
    frames are kept if `options` ask for fewer than there are.

    Raises:
      DataError: if the file cannot be read, or holds something else.
      FramesError: if the videos of a split are shorter than asked for.
    """
    data = Data(name=printable(path.stem), **_read_npz(path), license=LICENSE, origin=printable(path))
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
        is_binary = dtype == np.bool_
        check_layout(f"{path}: '{name}'", np.dtype(np.uint8) if is_binary else dtype, shape)
        size = math.prod(shape)
        if size > min(info.file_size, MAX_BYTES):
            raise DataError(f"{path}: the header of '{name}' promises {size} bytes, more than the file holds")
        with archive.open(info) as stream:
            array = np.lib.format.read_array(stream, allow_pickle=False)
        return np.where(array, np.uint8(255), np.uint8(0)) if is_binary else array


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
