"""TFRecord files: the checksum, records by index, TFDS's data in this format, and damaged files."""

import os
import subprocess
import sys

import numpy as np
import pytest
from drawn_arrays import images, one_line
from tfrecords import crc32c as plain_crc32c
from tfrecords import framed, to_tfrecord

from calibrax import data
from calibrax.data import DataError, tfds_cache
from calibrax.data.tfrecord import TFRecords, crc32c


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"") == 0
    assert crc32c(b"123456789") == 0xE3069283
    # RFC 3720, B.4
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(bytes(range(31, -1, -1))) == 0x113FDB5C


@pytest.mark.parametrize("length", [1, 3, 4, 255, 256, 257, 259, 260, 511, 512, 5000])
def test_the_checksum_of_any_length(length):
    content = np.random.default_rng(length).bytes(length)
    assert crc32c(content) == plain_crc32c(content)


def test_records_by_index(tmp_path):
    records = [os.urandom(length) for length in (0, 1, 300, 70_000, 5)]
    (tmp_path / "a").write_bytes(framed(records[:2]))
    (tmp_path / "b").write_bytes(framed([]))
    (tmp_path / "c").write_bytes(framed(records[2:]))
    source = TFRecords(tmp_path / name for name in "abc")
    assert len(source) == 5
    for index in (3, 0, 4, 1, 2):
        assert source[index] == records[index]


@pytest.fixture
def prepared(tmp_path):
    splits = {"train": images(60), "test": images(5)}
    tfds_cache.prepare("flowers", splits, tmp_path, license="none")
    to_tfrecord(tmp_path)
    assert not list(tmp_path.rglob("*array_record*"))
    return tmp_path, splits


def test_sets_prepared_by_tfds_as_tfrecord_are_read_by_name_without_tensorflow(prepared):
    folder, splits = prepared
    loaded = data.load("flowers_images", data_dir=folder)
    np.testing.assert_array_equal(loaded.train, splits["train"])
    np.testing.assert_array_equal(loaded.test, splits["test"])
    code = f"import sys; from calibrax import data; data.load('flowers_images', data_dir={str(folder)!r}); "
    code += "print('tensorflow' in sys.modules)"
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "False"


def test_known_sets_are_found_as_tfrecord(tmp_path):
    splits = {"train": images(60), "test": images(5)}
    tfds_cache.prepare("svhn", splits, tmp_path, license="none")
    to_tfrecord(tmp_path)
    loaded = data.load("svhn", data_dir=tmp_path, download=False)
    np.testing.assert_array_equal(loaded.train, splits["train"])


def test_array_record_is_preferred(prepared):
    folder, _ = prepared
    tfds_cache.prepare("newer", {"train": images(3), "test": images(2)}, folder, license="none")
    (folder / "newer_images" / "1.0.0").rename(folder / "flowers_images" / "0.9.0")
    assert len(data.load("flowers_images", data_dir=folder).train) == 3


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda whole: whole[: len(whole) // 2], "ends within a record"),
        (lambda whole: whole[:-1], "ends within a record"),
        (lambda whole: whole + b"\0", "ends within a record"),
        (lambda whole: b"", "it holds 0 records; expected 60"),
        (lambda whole: b"\xff" * 12 + whole[12:], "ends within a record"),
        (lambda whole: bytes(60 * 16), "checksum of record 0 differs"),
        (lambda whole: whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], "checksum of record 1 differs"),
        (lambda whole: None, "No such file"),
    ],
    ids=["half", "last byte", "one more", "empty", "length", "zeros", "flipped", "missing"],
)
def test_the_error_for_damaged_records_names_folder_and_split(prepared, damage, match):
    folder, _ = prepared
    (shard,) = folder.rglob("*train.tfrecord*")
    content = damage(shard.read_bytes())
    shard.unlink() if content is None else shard.write_bytes(content)
    with one_line(f"flowers_images/1.0.0: split 'train' cannot be read: .*{match}"):
        data.load("flowers_images", data_dir=folder)


def test_a_file_that_lacks_records_is_reported(prepared):
    folder, _ = prepared
    (shard,) = folder.rglob("*train.tfrecord*")
    records = TFRecords([shard])
    shard.write_bytes(framed([records[index] for index in range(20)]))
    with one_line("flowers_images/1.0.0: split 'train' cannot be read: it holds 20 records; expected 60"):
        data.load("flowers_images", data_dir=folder)


def test_a_flipped_byte_never_changes_an_image_unnoticed(prepared):
    folder, splits = prepared
    (shard,) = folder.rglob("*train.tfrecord*")
    whole, noticed = shard.read_bytes(), 0
    for at in np.random.default_rng(0).integers(len(whole), size=60):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            loaded = data.load("flowers_images", data_dir=folder)
        except DataError:
            noticed += 1
        else:  # such a byte is of a length's own checksum, which is not needed
            np.testing.assert_array_equal(loaded.train, splits["train"])
    assert noticed >= 50
