"""CelebA's photographs as JPEG files, by split: from a TFDS preparation or the original files."""

import contextlib
import functools
import os
import re
import threading
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from calibrax.data.tfds_cache import find_builder, image_of, readable, split_names
from calibrax.data.types import DataError

CELEBA = "celeba"
NUM_IMAGES = {"train": 162_770, "validation": 19_867, "test": 19_962}  # the official partition
TFDS_NAME = "celeb_a"
IMAGES, PARTITION = "img_align_celeba", "list_eval_partition.txt"
MAX_JPEG, MAX_PARTITION = 1 << 20, 1 << 24  # bytes; the real ones have some 10^4 and 2.6e6


@dataclass(frozen=True)
class Photographs:
    """The JPEG files of one split by index, each read when it is asked for: a random-access source for Grain."""

    where: str  # begins messages
    keys: Sequence[Any]
    read: Callable[[Any], bytes]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> tuple[str, bytes]:
        """The photograph's name and its file's content."""
        key = self.keys[index]
        return f"{self.where}: {key}", self.read(key)


def find_photographs(data_dir: Path, stack: contextlib.ExitStack) -> dict[str, Photographs]:
    """The photographs of every split; TFDS's preparation comes first.

    Args:
      data_dir: the folder to look in; `celeba.load_celeba` says for what.
      stack: closes what is read from.
    """
    return _from_tfds(data_dir) or _from_files(data_dir, stack)


def read_partition(path: Path) -> dict[str, list[str]]:
    """File names by split, from lines such as `000001.jpg 0`: 0 for training, 1 validation, 2 testing."""
    splits: dict[str, list[str]] = {split: [] for split in NUM_IMAGES}
    try:
        with path.open(encoding="ascii") as stream:
            lines = stream.read(MAX_PARTITION).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"(\d{6}\.jpg)\s+([012])", line.strip())
        if match is None:
            raise DataError(f"{path}: line {number} is {line[:40]!r}; expected such as '000001.jpg 0'")
        splits[list(splits)[int(match[2])]].append(match[1])
    if len({name for names in splits.values() for name in names}) < len(lines):
        raise DataError(f"{path} names a photograph twice")
    _check_numbers(path, splits)
    return splits


def _check_numbers(where: Path | str, splits: Mapping[str, Sized]) -> None:
    for split, num in NUM_IMAGES.items():
        if len(splits[split]) != num:
            raise DataError(f"{where} has {len(splits[split]):,} images for {split}; CelebA has {num:,}")


def _from_tfds(data_dir: Path) -> dict[str, Photographs] | None:
    """The photographs of TFDS's own `celeb_a`, undecoded, as the files are."""
    builder = find_builder(TFDS_NAME, data_dir)
    if builder is None:
        return None
    import tensorflow_datasets as tfds

    where, splits = str(builder.data_path), {}
    for split in NUM_IMAGES:
        if split not in split_names(builder):
            raise DataError(f"{where} has no split '{split}'")
        with readable(where):
            records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        read = functools.partial(_read_record, where, records)
        splits[split] = Photographs(where, range(len(records)), read)
    _check_numbers(where, splits)
    return splits


def _read_record(where: str, records: Sequence[Any], index: int) -> bytes:
    with readable(f"{where}: record {index}"):
        content = image_of(records[index])
    if not isinstance(content, bytes):
        raise DataError(f"{where} holds images that are not encoded; expected JPEG, as TFDS's own celeb_a")
    return content


def _from_files(data_dir: Path, stack: contextlib.ExitStack) -> dict[str, Photographs]:
    """The photographs of the original files, in the order of their names."""
    archive, folder, partition = data_dir / f"{IMAGES}.zip", data_dir / IMAGES, data_dir / PARTITION
    lacking = [f"{IMAGES}.zip"] if not archive.is_file() and not folder.is_dir() else []
    lacking += [PARTITION] if not partition.is_file() else []
    if lacking:
        raise DataError(
            f"{CELEBA} is not in {data_dir}: no {' and no '.join(lacking)}. It is not downloaded, its terms are the "
            f"user's to accept. Ways to get it: put {IMAGES}.zip (or the folder {IMAGES}) and {PARTITION} there (or in "
            f"another --data-dir); or {TFDS_NAME}, prepared by TensorFlow Datasets as array_record; or give faces that "
            f"are cropped already as --data images.npz"
        )
    names = read_partition(partition)
    where = archive if archive.is_file() else folder
    known, read = _open_zip(archive, stack) if archive.is_file() else _open_folder(folder)
    missing = [name for split in names.values() for name in split if name not in known]
    if missing:
        raise DataError(f"{where} lacks {len(missing):,} of the images in {PARTITION}, the first {missing[0]}")
    return {split: Photographs(str(where), sorted(listed), read) for split, listed in names.items()}


def _open_zip(path: Path, stack: contextlib.ExitStack) -> tuple[Collection[str], Callable[[str], bytes]]:
    """The names of the JPEG files in a zip file, and how to read one; nothing is extracted."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(path))
        matches = ((re.fullmatch(rf"(?:{IMAGES}/)?(\d{{6}}\.jpg)", one.filename), one) for one in archive.infolist())
        members = {match[1]: info for match, info in matches if match}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as a zip file: {error}") from error

    lock = threading.Lock()  # a zip file's handle is shared

    def read(name: str) -> bytes:
        info = members[name]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.file_size > MAX_JPEG:
            raise DataError(f"{path}: {name} is no JPEG image of at most {MAX_JPEG} bytes")
        try:
            with lock, archive.open(info) as stream:
                return stream.read(info.file_size)  # bounds what is inflated too, which archive.read does not
        except Exception as error:  # zipfile and zlib raise many kinds on damaged files
            raise DataError(f"{path}: {name} cannot be read: {error}") from error

    return members, read


def _open_folder(folder: Path) -> tuple[Collection[str], Callable[[str], bytes]]:
    """The names of a folder's files, and how to read one."""
    try:
        names = set(os.listdir(folder))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error

    def read(name: str) -> bytes:
        try:
            with (folder / name).open("rb") as stream:
                content = stream.read(MAX_JPEG + 1)
        except OSError as error:
            raise DataError(f"{folder / name} cannot be read: {error.strerror}") from error
        if len(content) > MAX_JPEG:
            raise DataError(f"{folder / name} is no JPEG image of at most {MAX_JPEG} bytes")
        return content

    return names, read
