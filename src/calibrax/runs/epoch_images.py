"""The pictures that a run writes at each evaluation: samples and reconstructions, or predictions of videos."""

from pathlib import Path

import jax
import numpy as np

from calibrax.evaluation import Trained, generate, reconstruct
from calibrax.evaluation.figures.images import save_grid, save_reconstructions
from calibrax.evaluation.figures.video import save_prediction, save_scores_over_time
from calibrax.evaluation.metrics.prediction import measure_predictions

NUM_IMAGES = 64
NUM_CLIPS, NUM_FUTURES = 16, 8  # SVG's own evaluation, at the end of a run, takes 256 and 100


def save_epoch_images(
    folder: Path, name: str, caption: str, trained: Trained, test: np.ndarray, *, past: int | None, key: jax.Array
) -> dict[str, float]:
    """Write the pictures of one evaluation into subfolders of the run's folder; `name` is the files', without a suffix.

    For images: a grid of samples and one of reconstructions. For videos, of which the model is given the `past` first
    frames: a film strip and an animation of one test video, and the scores of some test videos by time step.

    Returns:
      What was measured on the way: for videos, mean PSNR (dB) and SSIM of the best sample, one sample and a copy of
      the last given frame.
    """
    if past is None:
        samples = generate(trained, NUM_IMAGES, key=key)
        save_grid(folder / "samples" / f"{name}.png", samples, title=f"Samples: {caption}")
        originals = test[: NUM_IMAGES // 2]
        path, shown = folder / "reconstructions" / f"{name}.png", reconstruct(trained, originals, key=key)
        save_reconstructions(path, originals, shown, title=f"Reconstructions: {caption}")
        return {}
    clips = test[:NUM_CLIPS]
    found = measure_predictions(trained, clips, past=past, num_samples=NUM_FUTURES, key=key)
    save_prediction(folder / "predictions" / name, found.film, past, title=caption)
    title = f"{caption}: {len(clips)} test videos"
    save_scores_over_time(folder / "scores" / f"{name}.png", found.by_name(), title=title)
    return {
        f"{score}_{of}": float(getattr(getattr(found, of), score).mean())
        for score in ("psnr", "ssim")
        for of in ("best", "random", "copied")
    }
