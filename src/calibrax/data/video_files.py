"""The user's own videos in an `.npz` file."""

from pathlib import Path

import numpy as np

from calibrax.data.npz import num_axes, read_npz
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
    return num_axes(path, "train") == AXES
