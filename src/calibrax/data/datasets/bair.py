"""BAIR's robot-pushing videos (Ebert et al. 2017, arXiv 1710.05268), read one by one from TFDS's preparation.

A sequence is 30 frames of 64×64×3; of its two cameras `image_aux1` is used, as by SVG, which trains on the first 12
frames of a random sequence, without a random offset, and tests on all 30.
"""

import importlib.util
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.data.tfds_cache import find_builder, readable, split_names
from calibrax.data.types import DataError, FramesError

ROBOT_PUSHING = "bair_robot_pushing_small"  # TFDS's name
LICENSE = "see its source (Ebert et al. 2017)"
NUM_SEQUENCES = {"train": 43_264, "test": 256}
NUM_FRAMES = 30
FRAME_SHAPE = (64, 64, 3)
CAMERA, OTHER_CAMERA = "image_aux1", "image_main"
SPACE = 81  # GiB that TFDS takes: 30.06 the archive, as much its content, 20.80 the preparation


class RobotPushing:
    """The first frames of every sequence of a split, each read when it is asked for: a random-access source for Grain.

    Args:
      builder: TFDS's.
      split: train or test.
      num_frames: T, 1 to 30; the other frames are not decoded.

    Raises:
      DataError: in one line, where the preparation is damaged or another.
    """

    def __init__(self, builder, split: str, num_frames: int = NUM_FRAMES):
        if not 1 <= num_frames <= NUM_FRAMES:
            most = f"1 to {NUM_FRAMES}, the length of a sequence"
            raise FramesError(f"number of frames is {num_frames}; expected {most}", split)
        self._where = f"{builder.data_path}: split '{split}'"
        self._num_frames = num_frames
        decoders = {CAMERA: _FirstFrames(num_frames), OTHER_CAMERA: _FirstFrames(0)}
        with readable(self._where):
            self._records: Sequence[Any] = builder.as_data_source(split, decoders=decoders)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> np.ndarray:
        """Frames 0..T-1 of one sequence, uint8 [T, 64, 64, 3].

        Raises:
          IndexError: for an index that is not in 0..N-1.
          DataError: in one line, where the record cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index is {index}; expected 0 to {len(self) - 1}")
        where, expected = f"{self._where}, sequence {index}", (self._num_frames, *FRAME_SHAPE)
        with readable(where):
            video = self._records[index][CAMERA]
            if video is None:
                raise ValueError("empty record, as in a file cut short")
        if video.shape != expected or video.dtype != np.uint8:
            raise DataError(f"{where} is {video.dtype} {video.shape}; expected uint8 {expected}")
        return video


class _FirstFrames:
    """Decodes no more of a sequence of images than its beginning; what TFDS takes for a decoder.

    Two cameras of 30 frames take seven times as long as 12 frames of one, and TFDS's own decoders cannot leave out any
    in a sequence without TensorFlow.
    """

    def __init__(self, num: int):
        self._num = num

    def setup(self, *, feature) -> None:
        self._feature = feature

    def decode_batch_example_np(self, encoded: Sequence[bytes]) -> np.ndarray | None:
        frames = [self._feature.decode_example_np(frame) for frame in encoded[: self._num]]
        return np.stack(frames) if frames else None


def load_robot_pushing(
    data_dir: Path, num_frames: int, num_test_frames: int, *, prepare: bool = False
) -> tuple[dict[str, RobotPushing], str]:
    """The sequences of both splits, and the folder they are in.

    Args:
      data_dir: where TFDS's `bair_robot_pushing_small` lies, prepared as array_record.
      num_frames: of a training sequence, 1 to 30.
      num_test_frames: the same for testing.
      prepare: download and prepare it if it is not there (`prepare_robot_pushing`).

    Returns:
      {"train": RobotPushing, "test": RobotPushing}, and the folder's name.

    Raises:
      DataError: in one line, with the ways to get it where it is not there.
    """
    builder = find_builder(ROBOT_PUSHING, data_dir, CAMERA)
    if builder is None and prepare:
        prepare_robot_pushing(data_dir)
        builder = find_builder(ROBOT_PUSHING, data_dir, CAMERA)
    if builder is None:
        raise DataError(
            f"{ROBOT_PUSHING} is not in {data_dir} as array_record. Ways to get it: `calibrax data bair`, which takes "
            f"TensorFlow (pip install 'calibrax[prepare]'), a network and {SPACE} GiB ({_free(data_dir)} GiB free); "
            f"put TFDS's preparation from elsewhere there; or give your own videos as videos.npz"
        )
    where = str(builder.data_path)
    for split, num in NUM_SEQUENCES.items():
        if split not in split_names(builder):
            raise DataError(f"{where} has no split '{split}'")
        if builder.info.splits[split].num_examples != num:
            found = builder.info.splits[split].num_examples
            raise DataError(f"{where} has {found:,} sequences for {split}; {ROBOT_PUSHING} has {num:,}")
    frames = {"train": num_frames, "test": num_test_frames}
    return {split: RobotPushing(builder, split, num) for split, num in frames.items()}, where


def prepare_robot_pushing(data_dir: Path) -> None:
    """Download 30 GB and prepare them as array_record through TFDS, whose builder reads the originals by TensorFlow.

    Raises:
      DataError: in one line, before anything is fetched where TensorFlow or disk space is missing.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(f"{ROBOT_PUSHING} needs TensorFlow to be prepared: pip install 'calibrax[prepare]'")
    if _free(data_dir) < SPACE:
        raise DataError(f"{data_dir} has {_free(data_dir)} GiB free; preparing {ROBOT_PUSHING} takes {SPACE} GiB")
    import tensorflow_datasets as tfds

    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        builder = tfds.builder(ROBOT_PUSHING, data_dir=str(data_dir), file_format="array_record")
        builder.download_and_prepare()
    except Exception as error:  # TFDS and the network raise many kinds
        raise DataError(f"{ROBOT_PUSHING} cannot be prepared in {data_dir}: {error}") from error


def _free(folder: Path) -> int:
    """GiB free on the disk that the folder is, or would be, on."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free >> 30
