"""uint8 arrays of `.npz` files. What a file claims of its sizes is checked before any of it is inflated."""

import os
import zipfile
from pathlib import Path

import numpy as np

from calibrax.data.types import DataError

SPLITS = ("train", "validation", "test")
MAX_BYTES = 64 * 2**30  # of one array
ALWAYS_BYTES = 2**28  # of one array, however well it packs
MAX_RATIO = 500  # beyond those; binary drawings such as dSprites' pack 116-fold, zeros 1030-fold


def read_npz(path: Path, layout: str) -> dict[str, np.ndarray]:
    """The uint8 arrays `train`, `test` and, if it is there, `validation` of an `.npz` file.

    Headers are checked before any array is allocated; other keys are ignored; pickles are not opened.

    Args:
      path: the file.
      layout: names of the axes, such as `[N, H, W, C]`, for their number and for messages.

    Raises:
      DataError: in one line.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [(info.filename.removesuffix(".npy"), info) for info in archive.infolist()]
            members = dict(listed)
            for name in SPLITS:
                if sum(member == name for member, _ in listed) > 1:
                    raise DataError(f"{path} has several arrays '{name}'; expected one")
            for name in ("train", "test"):
                if name not in members:
                    raise DataError(f"{path} has no array '{name}'; expected uint8 arrays 'train' and 'test' {layout}")
            return {name: _read_member(path, archive, members[name], layout) for name in SPLITS if name in members}
    except DataError:
        raise
    except Exception as error:  # zipfile raises many kinds on damaged files
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from error


def num_axes(path: Path, name: str) -> int | None:
    """How many axes an array of an `.npz` file has, by its header; None where that cannot be read."""
    if not os.path.isfile(path):  # to open a pipe would wait for its other end
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return len(_read_header(path, archive, archive.getinfo(f"{name}.npy"))[0])
    except Exception:  # the same; whoever loads it says what is wrong
        return None


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, layout: str) -> np.ndarray:
    name = Path(info.filename).stem
    try:
        shape, dtype = _read_header(path, archive, info)
        if dtype != np.uint8 or len(shape) != layout.count(",") + 1:
            raise DataError(f"{path}: '{name}' is {dtype} {shape}; expected uint8 {layout}")
        size = int(np.prod([int(n) for n in shape], dtype=object))
        if size > min(info.file_size, MAX_BYTES):
            raise DataError(f"{path}: the header of '{name}' promises {size} bytes, more than the file holds")
        with archive.open(info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds on damaged files
        raise DataError(f"{path}: array '{name}' cannot be read: {error}") from error


def _read_header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype. No more than `info.file_size` is ever inflated of a member that passes."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # zipfile inflates others by the block
        raise DataError(f"{path}: '{info.filename}' is packed in a way that NumPy does not write")
    if info.compress_size > path.stat().st_size or info.file_size > max(ALWAYS_BYTES, MAX_RATIO * info.compress_size):
        raise DataError(f"{path}: '{info.filename}' claims {info.file_size} bytes, more than images pack into its size")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    return shape, dtype
