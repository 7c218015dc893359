"""MNIST (LeCun, Cortes and Burges), 28×28×1: 60,000 images for training, 10,000 for testing."""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from calibrax.data.download import Remote
from calibrax.data.original import MAX_BYTES, Original
from calibrax.data.types import DataError, readable

URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"


def read(folder: Path) -> dict[str, np.ndarray]:
    """Both splits from the idx files, uint8 [N, 28, 28, 1]."""
    return {split: _read_idx(folder / name) for split, name in (("train", TRAIN), ("test", TEST))}


def _read_idx(path: Path) -> np.ndarray:
    with readable(path, "as a gzip file"), gzip.open(path) as stream:
        magic, *shape = struct.unpack(">4i", stream.read(16))
        size = math.prod(shape)
        if magic != 2051 or min(shape) < 1 or size > MAX_BYTES:
            raise DataError(f"{path} is not an idx file of images")
        content = stream.read(size + 1)
    if len(content) != size:
        raise DataError(f"{path} is not a whole idx file of images")
    return np.frombuffer(content, np.uint8).reshape(*shape, 1)


ORIGINAL = Original(
    name="mnist",
    remotes={  # sizes and checksums as in TFDS's list
        TRAIN: Remote(URL + TRAIN, 9_912_422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
        TEST: Remote(URL + TEST, 1_648_877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
    },
    read=read,
    license="CC BY-SA 3.0 (LeCun, Cortes and Burges)",
    tfds_name="mnist",
)
load = ORIGINAL.load
