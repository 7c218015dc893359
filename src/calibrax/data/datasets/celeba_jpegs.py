"""The JPEG files of CelebA's photographs by split, from a TFDS preparation or from the original files."""

import contextlib
import functools
import os
import re
import threading
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from calibrax.data.tfds_cache import examples_of, find_builder, image_of, split_names
from calibrax.data.transforms import View
from calibrax.data.types import DataError, readable

NUM_IMAGES = {"train": 162_770, "validation": 19_867, "test": 19_962}  # the official partition
TFDS_NAME = "celeb_a"
IMAGES, PARTITION = "img_align_celeba", "list_eval_partition.txt"
MAX_JPEG, MAX_PARTITION = 1 << 20, 1 << 24  # bytes; the real files have about 1e4 and 2.6e6
# The file or folder that holds the photographs, and each split as pairs (name, content of the JPEG file).
Photographs = tuple[str, dict[str, View]]


def read_partition(path: Path) -> dict[str, list[str]]:
    """File names by split, from lines such as `000001.jpg 0`: 0 is training, 1 validation, 2 testing."""
    splits: dict[str, list[str]] = {split: [] for split in NUM_IMAGES}
    with readable(path), path.open(encoding="ascii") as stream:
        lines = stream.read(MAX_PARTITION).splitlines()
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"(\d{6}\.jpg)\s+([012])", line.strip())
        if match is None:
            raise DataError(f"{path}: line {number} is {line[:40]!r}; expected a line like '000001.jpg 0'")
        splits[list(splits)[int(match[2])]].append(match[1])
    if len({name for names in splits.values() for name in names}) < len(lines):
        raise DataError(f"{path} names a photograph twice")
    _check_numbers(path, splits)
    return splits


def _check_numbers(where: Path | str, splits: Mapping[str, Sized]) -> None:
    for split, num in NUM_IMAGES.items():
        if len(splits[split]) != num:
            raise DataError(f"{where} has {len(splits[split]):,} images for {split}; CelebA has {num:,}")


def from_tfds(data_dir: Path) -> Photographs | None:
    """The photographs that TFDS has prepared in the folder, or None."""
    builder = find_builder(TFDS_NAME, data_dir)
    if builder is None:
        return None
    import tensorflow_datasets as tfds

    where, splits = str(builder.data_path), {}
    for split in split_names(builder, required=NUM_IMAGES):
        with readable(where):
            records = examples_of(builder, split, {"image": tfds.decode.SkipDecoding()})
        splits[split] = View(range(len(records)), functools.partial(_read_record, where, records))
    _check_numbers(where, splits)
    return where, splits


def _read_record(where: str, records: Sequence[Any], index: int) -> tuple[str, bytes]:
    name = f"{where}: record {index}"
    with readable(name):
        content = image_of(records[index])
    if not isinstance(content, bytes):
        raise DataError(f"{where} holds images that are not encoded; expected JPEG, as TFDS's own celeb_a")
    return name, content


def from_files(data_dir: Path, stack: contextlib.ExitStack) -> Photographs:
    """The photographs of the original files, in the order of their names; `stack` closes the files that are opened."""
    archive, folder, partition = data_dir / f"{IMAGES}.zip", data_dir / IMAGES, data_dir / PARTITION
    lacking = [f"{IMAGES}.zip"] if not archive.is_file() and not folder.is_dir() else []
    lacking += [PARTITION] if not partition.is_file() else []
    if lacking:
        raise DataError(
            f"celeba is not in {data_dir}: no {' and no '.join(lacking)}. It is not downloaded, since each user has to "
            f"accept its terms. Ways to get it: put {IMAGES}.zip (or the folder {IMAGES}) and {PARTITION} there (or in "
            f"another --data-dir); or put {TFDS_NAME} there, prepared by TensorFlow Datasets as array_record or "
            f"tfrecord; or give faces that are cropped already as --data images.npz"
        )
    names = read_partition(partition)
    where = archive if archive.is_file() else folder
    known, read = _open_zip(archive, stack) if archive.is_file() else _open_folder(folder)
    missing = [name for split in names.values() for name in split if name not in known]
    if missing:
        raise DataError(f"{where} lacks {len(missing):,} of the images in {PARTITION}, the first {missing[0]}")
    return str(where), {split: View(sorted(listed), read) for split, listed in names.items()}


def _open_zip(path: Path, stack: contextlib.ExitStack) -> tuple[Collection[str], Callable[[str], tuple[str, bytes]]]:
    """The names of the JPEG files in a zip file, and a function that reads one; nothing is extracted to the disk."""
    with readable(path, "as a zip file"):
        archive = stack.enter_context(zipfile.ZipFile(path))
        matches = ((re.fullmatch(rf"(?:{IMAGES}/)?(\d{{6}}\.jpg)", one.filename), one) for one in archive.infolist())
        members = {match[1]: info for match, info in matches if match}
    lock = threading.Lock()  # all threads share the file handle of the archive

    def read(name: str) -> tuple[str, bytes]:
        info, where = members[name], f"{path}: {name}"
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.file_size > MAX_JPEG:
            raise DataError(f"{where} is no JPEG image of at most {MAX_JPEG} bytes")
        with readable(where), lock, archive.open(info) as stream:
            return where, stream.read(info.file_size)  # limits what is decompressed too, unlike archive.read

    return members, read


def _open_folder(folder: Path) -> tuple[Collection[str], Callable[[str], tuple[str, bytes]]]:
    """The names of the files in a folder, and a function that reads one."""
    with readable(folder):
        names = set(os.listdir(folder))

    def read(name: str) -> tuple[str, bytes]:
        path = folder / name
        with readable(path), path.open("rb") as stream:
            content = stream.read(MAX_JPEG + 1)
        if len(content) > MAX_JPEG:
            raise DataError(f"{path} is no JPEG image of at most {MAX_JPEG} bytes")
        return str(path), content

    return names, read
