"""BAIR's robot-pushing videos (Ebert et al. 2017, arXiv 1710.05268), read one by one from TFDS's preparation.

A sequence has 30 frames of 64×64×3 from each of two cameras. As in SVG, only `image_aux1` is used. SVG trains on the
first 12 frames of a random sequence, without a random offset, and tests on all 30.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibrax.data.download import free_space
from calibrax.data.tfds_cache import examples_of, find_builder, image_of, split_names
from calibrax.data.transforms import View
from calibrax.data.types import Data, DataError, FramesError, Options, readable

NAME = "bair_robot_pushing_small"  # TFDS's, and that of runs and reports
NUM_SEQUENCES = {"train": 43_264, "test": 256}
NUM_FRAMES = 30
FRAME_SHAPE = (64, 64, 3)
CAMERA, OTHER_CAMERA = "image_aux1", "image_main"
SPACE = 81  # GiB that TFDS takes: 30.06 for the archive, as much for its content, 20.80 for the preparation


def load(options: Options) -> Data:
    """The sequences of TFDS's preparation in the data folder, as array_record or tfrecord.

    Raises:
      DataError: if the preparation is damaged, or is missing and not to be made (`options.prepare`).
      FramesError: if a number of frames is not in 1..30.
    """
    folder = options.data_dir
    builder = find_builder(NAME, folder, CAMERA)
    if builder is None and options.prepare:
        _prepare(folder)
        builder = find_builder(NAME, folder, CAMERA)
    if builder is None:
        raise DataError(
            f"{NAME} is not in {folder} as array_record or tfrecord. Ways to get it: `calibrax data bair`, which takes "
            f"TensorFlow (pip install '.[prepare]' in the checkout), a network and {SPACE} GiB "
            f"({free_space(folder) >> 30} GiB free); put TFDS's preparation from elsewhere there; or give your own "
            "videos as videos.npz"
        )
    where = str(builder.data_path)
    split_names(builder, required=NUM_SEQUENCES)
    for split, expected in NUM_SEQUENCES.items():
        num = builder.info.splits[split].num_examples
        if num != expected:
            raise DataError(f"{where} has {num:,} sequences for {split}; {NAME} has {expected:,}")
    frames = options.frames(NUM_FRAMES)
    return Data(
        name=NAME,
        **{split: sequences(builder, split, num) for split, num in frames.items()},
        license="see its source (Ebert et al. 2017)",
        origin=f"{where}, camera {CAMERA}",
    )


def sequences(builder, split: str, num_frames: int) -> View:
    """The first 1 to 30 frames of every sequence of a split, uint8 [T, 64, 64, 3] each, read on demand.

    The other frames are not decoded. DataError is raised if the preparation is damaged, or later on reading a damaged
    sequence; FramesError if the number of frames is out of its range.
    """
    if not 1 <= num_frames <= NUM_FRAMES:
        most = f"1 to {NUM_FRAMES}, the length of a sequence"
        raise FramesError(f"number of frames is {num_frames}; expected {most}", split)
    where, expected = f"{builder.data_path}: split '{split}'", (num_frames, *FRAME_SHAPE)
    with readable(where):
        decoders = {CAMERA: _FirstFrames(num_frames), OTHER_CAMERA: _FirstFrames(0)}
        records = examples_of(builder, split, decoders)

    def read(index: int) -> np.ndarray:
        with readable(f"{where}, sequence {index}"):
            video = image_of(records[index], CAMERA)
            if video.shape != expected or video.dtype != np.uint8:
                raise ValueError(f"it is {video.dtype} {video.shape}; expected uint8 {expected}")
        return video

    return View(range(len(records)), read)


class _FirstFrames:
    """A decoder for TFDS that decodes only the first frames of a sequence.

    TFDS's own decoders cannot skip frames of a sequence without TensorFlow. Decoding two cameras of 30 frames takes
    seven times as long as 12 frames of one.
    """

    def __init__(self, num: int):
        self._num = num

    def setup(self, *, feature) -> None:
        self._feature = feature

    def decode_batch_example_np(self, encoded: Sequence[bytes]) -> np.ndarray | None:
        frames = [self._feature.decode_example_np(frame) for frame in encoded[: self._num]]
        return np.stack(frames) if frames else None


def _prepare(folder: Path) -> None:
    """Download 30 GB and prepare them as array_record with TFDS, whose builder reads the originals with TensorFlow."""
    # A lack of TensorFlow or of disk space is found before the download.
    if importlib.util.find_spec("tensorflow") is None:
        raise DataError(f"{NAME} needs TensorFlow to be prepared: pip install '.[prepare]' in the checkout")
    free = free_space(folder) >> 30
    if free < SPACE:
        raise DataError(f"{folder} has {free} GiB free; preparing {NAME} takes {SPACE} GiB")
    import tensorflow_datasets as tfds

    try:
        folder.mkdir(parents=True, exist_ok=True)
        tfds.builder(NAME, data_dir=str(folder), file_format="array_record").download_and_prepare()
    except Exception as error:  # TFDS and the network raise many types of error
        raise DataError(f"{NAME} cannot be prepared in {folder}: {error}") from error
