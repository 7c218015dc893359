"""Frey Face (Roweis), 28×20×1: 1,965 frames of one film.

There is no official split. Here 1,565 frames are for training, 200 for validation and 200 for testing, after a fixed
shuffle, since the frames of the film are in order.
"""

from pathlib import Path

import numpy as np

from calibrax.data.download import Remote
from calibrax.data.matlab import read_uint8
from calibrax.data.original import Original

FILE = "frey_rawface.mat"


def read(folder: Path) -> dict[str, np.ndarray]:
    """The three splits from the MATLAB file, uint8 [N, 28, 20, 1]."""
    frames = read_uint8(folder / FILE, "ff", (560, 1965))
    images = frames.T.reshape(1965, 28, 20, 1)[np.random.default_rng(0).permutation(1965)]
    return {"train": images[:1565], "validation": images[1565:1765], "test": images[1765:]}


ORIGINAL = Original(
    name="frey_face",
    remotes={FILE: Remote(f"https://cs.nyu.edu/~roweis/data/{FILE}")},  # nobody has published a checksum
    read=read,
    license="research use, no stated licence (Roweis)",
    tfds_name="frey_face",
)
load = ORIGINAL.load
