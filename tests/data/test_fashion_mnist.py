"""Fashion-MNIST from its original files, which have the names of MNIST's."""

import gzip
import pathlib
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from calibrax import data
from calibrax.data import DataError
from calibrax.data.datasets import fashion_mnist, mnist


def write(folder, seed):
    """Original files of drawn images; returns the images."""
    folder.mkdir(exist_ok=True)
    splits = {}
    for num, (split, name) in enumerate((("train", mnist.TRAIN), ("test", mnist.TEST)), 2):
        splits[split] = np.random.default_rng(seed).integers(0, 256, (num, 28, 28, 1), dtype=np.uint8)
        header = struct.pack(">4i", 2051, num, 28, 28)
        (folder / name).write_bytes(gzip.compress(header + splits[split].tobytes()))
    return splits


def test_it_is_read_beside_mnist_and_apart_from_it(tmp_path):
    write(tmp_path, seed=0)
    with pytest.raises(DataError, match="put fashion-mnist/train-images"):
        data.load("fashion_mnist", data_dir=tmp_path, download=False)
    splits = write(tmp_path / "fashion-mnist", seed=1)
    for name in ("fashion-mnist", "fashion_mnist"):  # the second time from what the first has prepared
        loaded = data.load(name, data_dir=tmp_path, download=False)
        assert loaded.name == "fashion_mnist"
        assert loaded.license.startswith("MIT")
        for split, images in splits.items():
            np.testing.assert_array_equal(loaded.splits[split], images)
    assert "fashion_mnist_images" in loaded.origin


def test_sizes_and_checksums_are_those_of_tfds():
    package = pathlib.Path(tfds.__file__).parent
    lines = (package / "url_checksums" / "fashion_mnist.txt").read_text().splitlines()
    listed = {url: (int(size), sha256) for url, size, sha256, _ in map(str.split, lines)}
    for remote in fashion_mnist.ORIGINAL.remotes.values():
        assert listed[remote.url] == (remote.size, remote.sha256)
