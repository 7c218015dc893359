"""Published data sets from their original files: where these are, how they are read, under what terms."""

import contextlib
import gzip
import io
import math
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibrax.data.download import Remote
from calibrax.data.matlab import read_uint8
from calibrax.data.types import DataError

MAX_BYTES = 1 << 28  # of one file, unpacked; the largest array is SVHN's for training, 225,045,504
CIFAR_TRAIN, CIFAR_TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"
CIFAR_ROWS = 10_000  # of a file
Splits = dict[str, np.ndarray]


class Original(NamedTuple):
    """A published data set."""

    remotes: dict[str, Remote]  # by file name
    read: Callable[[Path], Splits]  # from the folder that holds those files
    license: str
    tfds_name: str  # the name under which others may have prepared it


def read_svhn(folder: Path) -> Splits:
    """SVHN's cropped digits, 32×32×3: 73,257 for training, 26,032 for testing."""
    return {split: _read_svhn_file(folder / f"{split}_32x32.mat") for split in ("train", "test")}


def _read_svhn_file(path: Path) -> np.ndarray:
    images = _read_mat(path, "X")
    if images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise DataError(f"{path}: 'X' has shape {images.shape}; expected (32, 32, 3, N)")
    return np.ascontiguousarray(np.moveaxis(images, 3, 0))


def read_frey_face(folder: Path) -> Splits:
    """Frey Face, 28×20×1. No official split: 1,565 / 200 / 200 by a fixed shuffle, the film's frames being in order."""
    frames = _read_mat(folder / "frey_rawface.mat", "ff")
    if frames.shape != (560, 1965):
        raise DataError(f"{folder / 'frey_rawface.mat'}: 'ff' has shape {frames.shape}; expected (560, 1965)")
    images = frames.T.reshape(1965, 28, 20, 1)[np.random.default_rng(0).permutation(1965)]
    return {"train": images[:1565], "validation": images[1565:1765], "test": images[1765:]}


def _read_mat(path: Path, key: str) -> np.ndarray:
    try:
        return read_uint8(path, key, MAX_BYTES)
    except KeyError as error:
        raise DataError(f"{path} has no variable '{key}'") from error
    except Exception as error:  # zlib and struct have kinds of their own
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}") from error


def read_mnist(folder: Path) -> Splits:
    """MNIST, 28×28×1: 60,000 for training, 10,000 for testing."""
    names = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
    return {split: _read_idx(folder / name) for split, name in names.items()}


def _read_idx(path: Path) -> np.ndarray:
    with _gunzip(path) as stream:
        magic, *shape = struct.unpack(">4i", stream.read(16))
        size = math.prod(shape)
        if magic != 2051 or min(shape) < 1 or size > MAX_BYTES:
            raise DataError(f"{path} is not an idx file of images")
        content = stream.read(size + 1)
    if len(content) != size:
        raise DataError(f"{path} is not a whole idx file of images")
    return np.frombuffer(content, np.uint8).reshape(*shape, 1)


def read_cifar10(folder: Path) -> Splits:
    """CIFAR-10, 32×32×3: 50,000 for training, 10,000 for testing."""
    path = folder / "cifar-10-binary.tar.gz"
    try:
        with _gunzip(path) as stream:
            content = stream.read(MAX_BYTES)
        batches = dict(_cifar_batches(content))
        splits = {"train": np.concatenate([batches[name] for name in CIFAR_TRAIN]), "test": batches[CIFAR_TEST]}
    except DataError:
        raise
    except Exception as error:  # tarfile raises many kinds on damaged files
        raise DataError(f"{path} cannot be read as the CIFAR-10 binary archive: {error!r}") from error
    return {name: np.ascontiguousarray(a.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)) for name, a in splits.items()}


def _cifar_batches(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pixels of the batches in a tar archive, uint8 [10000, 3072]."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            if not 0 <= member.size <= len(content):  # a negative one keeps tarfile in a loop (CVE-2025-8194)
                raise ValueError(f"{member.name} has {member.size} bytes")
            name = Path(member.name).name
            stream = archive.extractfile(member) if member.isreg() and name in (*CIFAR_TRAIN, CIFAR_TEST) else None
            if stream is not None:
                yield name, np.frombuffer(stream.read(), np.uint8).reshape(CIFAR_ROWS, 3073)[:, 1:]  # without labels


@contextlib.contextmanager
def _gunzip(path: Path) -> Iterator[gzip.GzipFile]:
    """What a gzip file holds, inflated as far as it is read."""
    try:
        with gzip.open(path) as stream:
            yield stream
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} cannot be read as a gzip file: {error}") from error


# Sizes and checksums are those in TensorFlow Datasets' own lists; nobody has published one for Frey Face.
_SVHN = "http://ufldl.stanford.edu/housenumbers/"
_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"

ORIGINALS = {
    "svhn": Original(
        remotes={
            "train_32x32.mat": Remote(
                _SVHN + "train_32x32.mat",
                182_040_794,
                "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
            ),
            "test_32x32.mat": Remote(
                _SVHN + "test_32x32.mat",
                64_275_384,
                "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
            ),
        },
        read=read_svhn,
        license="for non-commercial use only (Netzer et al. 2011)",
        tfds_name="svhn_cropped",
    ),
    "mnist": Original(
        remotes={
            "train-images-idx3-ubyte.gz": Remote(
                _MNIST + "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            "t10k-images-idx3-ubyte.gz": Remote(
                _MNIST + "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
        },
        read=read_mnist,
        license="CC BY-SA 3.0 (LeCun, Cortes and Burges)",
        tfds_name="mnist",
    ),
    "cifar10": Original(
        remotes={
            "cifar-10-binary.tar.gz": Remote(
                "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        },
        read=read_cifar10,
        license="research use (Krizhevsky 2009)",
        tfds_name="cifar10",
    ),
    "frey_face": Original(
        remotes={"frey_rawface.mat": Remote("https://cs.nyu.edu/~roweis/data/frey_rawface.mat")},
        read=read_frey_face,
        license="research use, no stated licence (Roweis)",
        tfds_name="frey_face",
    ),
}
