"""The user's own videos in an `.npz` file."""

import zipfile
from pathlib import Path

import numpy as np

from calibrax.data.files import read_npz
from calibrax.data.types import DataError

AXES = 5  # [N, T, H, W, C]


def read_video_npz(path: Path) -> dict[str, np.ndarray]:
    """Videos from an `.npz` with uint8 arrays `train`, `test` and optionally `validation`, each [N, T, H, W, C].

    Splits may differ in T, not in the shape of a frame.

    Raises:
      DataError: in one line.
    """
    splits = read_npz(path, "[N, T, H, W, C]")
    for name, videos in splits.items():
        if 0 in videos.shape:
            raise DataError(f"{path}: '{name}' is empty, {videos.shape}; expected at least one video")
    if len({videos.shape[2:] for videos in splits.values()}) > 1:
        listed = ", ".join(f"'{name}' {videos.shape[2:]}" for name, videos in splits.items())
        raise DataError(f"{path}: frames differ in shape between splits: {listed}")
    return splits


def holds_videos(path: Path) -> bool:
    """Whether the array `train` of an `.npz` file has five axes, by its header; False where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("train.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return len(read(stream)[0]) == AXES
    except Exception:  # zipfile and NumPy raise many kinds on damaged files; whoever loads it says which
        return False
