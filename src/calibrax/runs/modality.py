"""What a run does in one way with images and in another with videos: loading, and the pictures of an evaluation."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from calibrax import data
from calibrax.data import Data, DataError, FramesError
from calibrax.evaluation import Trained, generate, reconstruct
from calibrax.evaluation.figures.images import save_grid, save_reconstructions
from calibrax.evaluation.figures.video import save_prediction, save_scores_over_time
from calibrax.evaluation.metrics.prediction import measure_predictions
from calibrax.runs.config import ConfigError, TrainConfig

NUM_PICTURES = 64  # images
NUM_TRAIN_VIDEOS = 256  # to calibrate and to score on: a pass over all of them takes as long as an epoch
NUM_CLIPS, NUM_FUTURES = 16, 8  # at every evaluation; SVG's own, at the end, takes 256 and 100


class Modality(NamedTuple):
    """Images or videos."""

    noun: str
    unit: str  # in the progress bar
    load: Callable[[TrainConfig], Data]
    batches: Callable[..., Iterator[np.ndarray]]  # (training examples, batch size, seed=, start_step=)
    to_score: Callable[[Any], np.ndarray]  # of training examples, those to calibrate and score on
    batch_size: Callable[[TrainConfig], int]  # of an evaluation
    pictures: Callable[..., dict[str, float]]  # of a state, into the run's folder; what was measured for them


def modality(config: TrainConfig) -> "Modality":
    """That of the run's model."""
    return VIDEOS if config.is_video else IMAGES


def _load_images(config: TrainConfig) -> Data:
    if data.is_video_source(config.data):
        raise ConfigError(f"--model {config.model} is of images, and --data {config.data} are videos; try --model svg")
    images = data.load(config.data, data_dir=config.data_dir, image_size=config.image_size)
    return data.take_fraction(images, config.fraction)


def _load_videos(config: TrainConfig) -> Data:
    images = f"--model {config.model} is of videos, and --data {config.data} are images; try --model conv-vae"
    if data.is_video_source(config.data) is False:
        raise ConfigError(images)
    length = config.n_past + config.n_future
    try:
        videos = data.load(
            config.data,
            data_dir=config.data_dir,
            num_frames=length,
            num_test_frames=config.n_eval,
            image_size=config.image_size,
        )
    except FramesError as error:
        added = f"--n-past {config.n_past} and --n-future {config.n_future} add up to {length}"
        raise ConfigError(f"{added if error.split == 'train' else f'--n-eval is {config.n_eval}'}: {error}") from error
    if not videos.is_video:
        raise ConfigError(images)
    shortest = videos.test[0].shape[0]
    if shortest <= config.n_past:
        more = f"more than the {config.n_past} that are given, --n-past"
        raise DataError(f"{videos.name}: test videos have {shortest} frames; expected {more}")
    if len(videos.test) < 2 and not config.running_batch_norm:
        one = "a batch of one has no statistics for batch norm"
        raise DataError(f"{videos.name}: there is one test video; expected two or more ({one})")
    return data.take_fraction(videos, config.fraction)


def _image_pictures(
    folder: Path, name: str, caption: str, trained: Trained, test: np.ndarray, config: TrainConfig, key: jax.Array
) -> dict[str, float]:
    """A grid of samples and one of reconstructions."""
    samples = generate(*trained, NUM_PICTURES, key=key)
    save_grid(folder / "samples" / f"{name}.png", samples, title=f"Samples: {caption}")
    originals = test[: NUM_PICTURES // 2]
    save_reconstructions(
        folder / "reconstructions" / f"{name}.png",
        originals,
        reconstruct(*trained, originals, key=key),
        title=f"Reconstructions: {caption}",
    )
    return {}


def _video_pictures(
    folder: Path, name: str, caption: str, trained: Trained, test: np.ndarray, config: TrainConfig, key: jax.Array
) -> dict[str, float]:
    """A film strip and an animation of one test video, and the scores of some by time step."""
    clips, past = test[:NUM_CLIPS], config.n_past
    found = measure_predictions(trained, clips, past=past, num_samples=NUM_FUTURES, key=key)
    save_prediction(folder / "predictions" / name, found.films[0], past, title=caption)
    title = f"{caption}: {len(clips)} test videos"
    save_scores_over_time(folder / "scores" / f"{name}.png", found.by_name(), title=title)
    of = {"best": found.best, "random": found.random, "copied": found.copied}
    return {
        f"{score}_{name}": float(getattr(scores, score).mean())
        for score in ("psnr", "ssim")
        for name, scores in of.items()
    }


IMAGES = Modality(
    noun="images",
    unit="img",
    load=_load_images,
    batches=data.batches,
    to_score=lambda images: images,
    batch_size=lambda config: 256,
    pictures=_image_pictures,
)
VIDEOS = Modality(
    noun="videos",
    unit="video",
    load=_load_videos,
    batches=data.batches,
    to_score=lambda videos: data.first(videos, NUM_TRAIN_VIDEOS),
    # As in training: batch norm takes a batch's own statistics. With 3 at most `example_batches` leaves none alone.
    batch_size=lambda config: max(3, config.batch_size),
    pictures=_video_pictures,
)
