"""CIFAR-10 (Krizhevsky 2009), 32×32×3: 50,000 images for training, 10,000 for testing."""

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calibrax.data.download import Remote
from calibrax.data.original import MAX_BYTES, Original
from calibrax.data.types import readable

ARCHIVE = "cifar-10-binary.tar.gz"
TRAIN, TEST = tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"
ROWS = 10_000  # images per file


def read(folder: Path) -> dict[str, np.ndarray]:
    """Both splits from the binary archive, uint8 [N, 32, 32, 3]."""
    path = folder / ARCHIVE
    with readable(path, "as a gzip file"), gzip.open(path) as stream:
        content = stream.read(MAX_BYTES)
    with readable(path, "as the CIFAR-10 binary archive"):
        files = dict(_files(content))
        if len(files) < len(TRAIN) + 1:
            raise ValueError(f"it has {len(files)} of the files {', '.join((*TRAIN, TEST))}")
    splits = {"train": np.concatenate([files[name] for name in TRAIN]), "test": files[TEST]}
    return {name: np.ascontiguousarray(a.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)) for name, a in splits.items()}


def _files(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The names and pixels of the files in a tar archive, uint8 [10000, 3072] each."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for member in archive:
            if not 0 <= member.size <= len(content):  # a negative size keeps tarfile in a loop (CVE-2025-8194)
                raise ValueError(f"{member.name} has {member.size} bytes")
            name = Path(member.name).name
            stream = archive.extractfile(member) if member.isreg() and name in (*TRAIN, TEST) else None
            if stream is not None:
                yield name, np.frombuffer(stream.read(), np.uint8).reshape(ROWS, 3073)[:, 1:]  # without the labels


ORIGINAL = Original(
    name="cifar10",
    remotes={  # size and checksum as in TFDS's list
        ARCHIVE: Remote(
            f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",
            170_052_171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        )
    },
    read=read,
    license="research use (Krizhevsky 2009)",
    tfds_name="cifar10",
)
load = ORIGINAL.load
