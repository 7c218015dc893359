"""PSNR of reconstructions: how close E[x | z], with z from the posterior, comes to the test data."""

from collections.abc import Iterator

import jax
import numpy as np

from calibrax.evaluation.metric import Metric, NoOptions, Record, Subject, with_stderr
from calibrax.evaluation.metrics.frame_scores import psnr
from calibrax.evaluation.metrics.likelihood import mean_stderr
from calibrax.evaluation.trained import Trained, check_not_empty, example_batches
from calibrax.training.state import target


def reconstruction_psnr(trained: Trained, examples: np.ndarray, *, key: jax.Array, batch_size: int = 256) -> np.ndarray:
    """Peak signal-to-noise ratio of each example's reconstruction, 10 log10(1 / MSE).

    Examples are images [N, H, W, C] or videos [N, T, H, W, C], uint8 levels or floats in [0, 1]. The key is for the
    posterior samples, one per example; each example folds in its index.

    Returns:
      [N] float64, decibels; of a video the mean over the frames of the model's `target`. Infinite for a perfect one.

    Raises:
      ValueError: if there are no examples, or they are not images or videos.
    """
    check_not_empty(examples)
    ratios = []
    for x, keys in example_batches(examples, key, batch_size):
        decibels = psnr(target(trained.model, x), trained.mean(trained.outputs(x, keys)), per_channel=False)
        ratios.append(np.asarray(decibels, np.float64).reshape(len(x), -1).mean(axis=1))
    return np.concatenate(ratios)


def _measure(_: NoOptions, subject: Subject) -> Record:
    ratios = reconstruction_psnr(subject.trained, subject.examples, key=subject.key, batch_size=subject.batch_size)
    return {"psnr": float(ratios.mean()), "stderr": mean_stderr(ratios), subject.noun: len(ratios)}


def _lines(record: Record) -> Iterator[str]:
    noun = "videos" if "videos" in record else "images"
    counts = f"{record[noun]:,} {noun}, one posterior sample each, data range 1"
    yield f"reconstructions: PSNR {with_stderr(record['psnr'], record['stderr'], '{:.2f}')} dB ({counts})"


METRIC = Metric("reconstruction", _measure, _lines, progress=lambda options: "reconstructions")
