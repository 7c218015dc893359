"""Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), 28×28×1: 60,000 images for training, 10,000 for testing.

The files have the names of MNIST's, so they are looked for in the folder `fashion-mnist` inside the data folder.
"""

from pathlib import Path

import numpy as np

from calibrax.data.datasets import mnist
from calibrax.data.download import Remote
from calibrax.data.original import Original

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FOLDER = "fashion-mnist"


def read(folder: Path) -> dict[str, np.ndarray]:
    """Both splits from the idx files, uint8 [N, 28, 28, 1]."""
    return mnist.read(folder / FOLDER)


ORIGINAL = Original(
    name="fashion_mnist",
    remotes={  # sizes and checksums as in TFDS's list
        f"{FOLDER}/{mnist.TRAIN}": Remote(
            URL + mnist.TRAIN, 26_421_880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        f"{FOLDER}/{mnist.TEST}": Remote(
            URL + mnist.TEST, 4_422_102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
    },
    read=read,
    license="MIT (Zalando SE)",
    tfds_name="fashion_mnist",
)
load = ORIGINAL.load
