"""Published data sets from their original files: where these are, how they are read, under what terms."""

import gzip
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calibrax.data.download import Remote
from calibrax.data.types import DataError

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
    from scipy.io import loadmat

    try:
        array = loadmat(path, variable_names=[key])[key]
    except KeyError as error:
        raise DataError(f"{path} has no variable '{key}'") from error
    except Exception as error:  # SciPy raises many kinds on damaged files
        raise DataError(f"{path} cannot be read as a MATLAB file: {error}".replace("\n", " ")) from error
    if array.dtype != np.uint8:
        raise DataError(f"{path}: '{key}' has dtype {array.dtype}; expected uint8")
    return array


def read_mnist(folder: Path) -> Splits:
    """MNIST, 28×28×1: 60,000 for training, 10,000 for testing."""
    names = {"train": "train-images-idx3-ubyte.gz", "test": "t10k-images-idx3-ubyte.gz"}
    return {split: _read_idx(folder / name) for split, name in names.items()}


def _read_idx(path: Path) -> np.ndarray:
    try:
        with gzip.open(path) as stream:
            magic, num, height, width = struct.unpack(">4i", stream.read(16))
            content = stream.read(num * height * width + 1) if magic == 2051 else b""
    except (OSError, EOFError, struct.error, ValueError) as error:
        raise DataError(f"{path} cannot be read as a gzipped idx file: {error}") from error
    if magic != 2051 or len(content) != num * height * width:
        raise DataError(f"{path} is not a whole idx file of images")
    return np.frombuffer(content, np.uint8).reshape(num, height, width, 1)


def read_cifar10(folder: Path) -> Splits:
    """CIFAR-10, 32×32×3: 50,000 for training, 10,000 for testing."""
    path, batches = folder / "cifar-10-binary.tar.gz", {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if (member.isfile() and name.endswith("_batch.bin")) or name.startswith("data_batch"):
                    stream = archive.extractfile(member)
                    batches[name] = np.frombuffer(stream.read() if stream else b"", np.uint8)
        rows = {name: flat.reshape(10_000, 3073)[:, 1:] for name, flat in batches.items()}
        train = np.concatenate([rows[f"data_batch_{i}.bin"] for i in range(1, 6)])
        splits = {"train": train, "test": rows["test_batch.bin"]}
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read as the CIFAR-10 binary archive: {error!r}") from error
    return {name: np.ascontiguousarray(a.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)) for name, a in splits.items()}


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
