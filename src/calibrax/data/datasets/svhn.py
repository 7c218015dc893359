"""SVHN's cropped digits (Netzer et al. 2011), 32×32×3: 73,257 for training, 26,032 for testing."""

from pathlib import Path

import numpy as np

from calibrax.data.download import Remote
from calibrax.data.matlab import read_uint8
from calibrax.data.original import Original

URL = "http://ufldl.stanford.edu/housenumbers/"


def read(folder: Path) -> dict[str, np.ndarray]:
    """Both splits from the MATLAB files, uint8 [N, 32, 32, 3]."""
    paths = {split: folder / f"{split}_32x32.mat" for split in ("train", "test")}
    return {
        split: np.ascontiguousarray(np.moveaxis(read_uint8(path, "X", (32, 32, 3, None)), 3, 0))
        for split, path in paths.items()
    }


ORIGINAL = Original(
    name="svhn",
    remotes={  # sizes and checksums as in TFDS's list
        "train_32x32.mat": Remote(
            URL + "train_32x32.mat", 182_040_794, "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8"
        ),
        "test_32x32.mat": Remote(
            URL + "test_32x32.mat", 64_275_384, "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b"
        ),
    },
    read=read,
    license="for non-commercial use only (Netzer et al. 2011)",
    tfds_name="svhn_cropped",
)
load = ORIGINAL.load
