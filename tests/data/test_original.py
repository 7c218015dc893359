"""Published data sets from their original files, prepared once; and the errors if these are missing or damaged."""

import gzip
import io
import struct
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from scipy.io import savemat

from calibrax import data
from calibrax.data import DataError, download
from calibrax.data.datasets import cifar10, mnist, svhn

RNG = np.random.default_rng(0)


def images(num, shape=(8, 8, 3)):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


def write_svhn(folder, num=(30, 12)):
    splits = {}
    for split, count in zip(("train", "test"), num, strict=True):
        splits[split] = images(count, (32, 32, 3))
        savemat(folder / f"{split}_32x32.mat", {"X": np.moveaxis(splits[split], 0, 3), "y": np.ones((count, 1))})
    return splits


def test_svhn_is_prepared_once_from_its_mat_files_and_then_read_without_them(tmp_path):
    splits = write_svhn(tmp_path)
    first = data.load("svhn", data_dir=tmp_path, download=False)
    for split, expected in splits.items():
        np.testing.assert_array_equal(getattr(first, split), expected)
        (tmp_path / f"{split}_32x32.mat").unlink()
    again = data.load("svhn_cropped", data_dir=tmp_path, download=False)
    np.testing.assert_array_equal(again.train, splits["train"])
    assert "svhn_images" in again.origin
    small = data.load("svhn", data_dir=tmp_path, download=False, image_size=28)
    assert small.event_shape == (28, 28, 3)


def test_reading_prepared_data_needs_no_tensorflow(tmp_path):
    write_svhn(tmp_path)
    code = (
        "import sys; from calibrax import data;"
        f"[data.load('svhn', data_dir={str(tmp_path)!r}, download=False) for _ in range(2)];"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules.get('calibrax.data').__dict__"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_mnist_frey_face_and_cifar_from_their_original_files(tmp_path, monkeypatch):
    grey = {"train": images(6, (28, 28, 1)), "test": images(3, (28, 28, 1))}
    for split, name in (("train", "train-images-idx3-ubyte.gz"), ("test", "t10k-images-idx3-ubyte.gz")):
        header = struct.pack(">4i", 2051, len(grey[split]), 28, 28)
        (tmp_path / name).write_bytes(gzip.compress(header + grey[split].tobytes()))
    np.testing.assert_array_equal(data.load("mnist", data_dir=tmp_path).test, grey["test"])

    frames = RNG.integers(0, 256, (560, 1965), dtype=np.uint8)
    savemat(tmp_path / "frey_rawface.mat", {"ff": frames})
    faces = data.load("frey_face", data_dir=tmp_path)
    assert [len(split) for split in faces.splits.values()] == [1565, 200, 200]
    assert faces.event_shape == (28, 20, 1)
    every = np.concatenate(list(faces.splits.values())).reshape(1965, 560)
    assert {row.tobytes() for row in every} == {row.tobytes() for row in frames.T}

    monkeypatch.setattr(cifar10, "ROWS", 20)
    rows = RNG.integers(0, 256, (6, 20, 3073), dtype=np.uint8)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, batch in zip(names, rows, strict=True):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = batch.nbytes
            archive.addfile(info, io.BytesIO(batch.tobytes()))
    coloured = data.load("cifar10", data_dir=tmp_path)
    assert np.shape(coloured.train) == (100, 32, 32, 3)
    np.testing.assert_array_equal(coloured.test[7][3, 5], rows[5, 7, 1:].reshape(3, 32, 32)[:, 3, 5])


@pytest.mark.parametrize(
    ("original", "file"),
    [
        (svhn.ORIGINAL, "train_32x32.mat"),
        (mnist.ORIGINAL, "train-images-idx3-ubyte.gz"),
        (cifar10.ORIGINAL, "cifar-10-binary.tar.gz"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_damaged_original_files_are_named(tmp_path, original, file):
    for remote in original.remotes:
        (tmp_path / remote).write_bytes(b"not what it says" * 10)
    with one_line(f"{file} (cannot be read|is not)"):
        data.load(original.name, data_dir=tmp_path)


def test_without_a_network_the_error_comes_soon_and_says_how_to_get_the_data(tmp_path, monkeypatch):
    silent = svhn.ORIGINAL._replace(remotes={"train_32x32.mat": download.Remote("http://127.0.0.1:9/train_32x32.mat")})
    monkeypatch.setattr(svhn, "load", silent.load)
    start = time.monotonic()
    with one_line("neither in .* nor online.*Ways to get it: put train_32x32.mat.*calibrax data svhn.*images.npz"):
        data.load("svhn", data_dir=tmp_path, timeout=1.0)
    assert time.monotonic() - start < 3
