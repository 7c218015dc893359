"""Everything that is measured of one trained model, as one record and as lines for people (`calibrax evaluate`)."""

import functools
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calibrax.evaluation.figures.calibration import save_calibration_figure
from calibrax.evaluation.figures.video import save_prediction, save_scores_over_time
from calibrax.evaluation.metrics import feature_cache, fid, inception, inception_weights
from calibrax.evaluation.metrics.calibration import Calibration, evaluate_model_calibration
from calibrax.evaluation.metrics.importance import importance_bounds
from calibrax.evaluation.metrics.information import MIN_EXAMPLES, Information, encode_all, measure_information
from calibrax.evaluation.metrics.likelihood import Trained, generate
from calibrax.evaluation.metrics.prediction import Predictions, measure_predictions, predicted_frames

MIN_IMAGES_FID = 4
MIN_IMAGES_INFORMATION = MIN_EXAMPLES


def measure_importance(trained: Trained, images: np.ndarray, *, key: jax.Array, num_samples: int) -> dict[str, Any]:
    """-log p(x) by the importance-weighted bound, nats."""
    bounds = importance_bounds(*trained, images, key=key, num_samples=num_samples)
    return {
        "neg_log_p": float(-bounds.mean()),
        "stderr": float(bounds.std(ddof=1) / math.sqrt(len(bounds))) if len(bounds) > 1 else math.nan,
        "samples": num_samples,
        "images": len(images),
    }


def measure_calibration(
    trained: Trained, images: np.ndarray, path: Path, *, key: jax.Array, num_draws: int, name: str, title: str
) -> dict[str, Any]:
    """Coverage, probability integral transform and predicted against actual σ; also as a figure at `path`."""
    result = evaluate_model_calibration(*trained, images, key=key, num_draws=num_draws)
    save_calibration_figure(path, {name: result}, title=title)
    return calibration_record(result)


def measure_fid(
    trained: Trained, images: np.ndarray, *, key: jax.Array, weights: str, cache: Path | None = None
) -> dict[str, Any]:
    """FID and KID of as many samples, decoder means, as there are images; on 2048 features, or on the 768 there are.

    Args:
      trained: what to draw from.
      images: [N, H, W, C] uint8, at least `MIN_IMAGES_FID`.
      key: for the samples.
      weights: the file of Inception's weights.
      cache: where the images' features are kept for the next time; by default `feature_cache.cache_folder()`.
    """
    return _fid_of(images, lambda: _samples(trained, len(images), key), weights, cache)


def measure_video_fid(
    trained: Trained,
    videos: np.ndarray,
    *,
    past: int,
    key: jax.Array,
    weights: str,
    batch_size: int,
    cache: Path | None = None,
) -> dict[str, Any]:
    """FID and KID of predicted frames, as images that stand alone: one sample a clip, all frames after the given ones.

    Args:
      trained: a video model.
      videos: [N, T, H, W, C] uint8.
      past: frames that are given.
      key: for the samples.
      weights, cache: as in `measure_fid`.
      batch_size: clips at once.
    """
    true, predicted = predicted_frames(trained, videos, past=past, key=key, batch_size=batch_size)
    num, time = videos.shape[:2]
    frames = f"frames {past + 1} to {time} of {num:,} clips, one sample each"
    return _fid_of(true, lambda: predicted, weights, cache) | {"frames": frames, "clips": num}


def measure_prediction(
    trained: Trained, videos: np.ndarray, folder: Path, *, past: int, num_samples: int, title: str, **options: Any
) -> dict[str, Any]:
    """PSNR and SSIM by time step, of the best of K samples and of one, beside copying; a plot, a film strip, a GIF."""
    found = measure_predictions(trained, videos, past=past, num_samples=num_samples, **options)
    save_scores_over_time(folder / "prediction.png", found.by_name(), title=title)
    save_prediction(folder / "film", found.films[0], past, title=title)
    return prediction_record(found)


def prediction_record(found: Predictions) -> dict[str, Any]:
    """Numbers alone, arrays as lists."""
    scores = {name: getattr(found, name) for name in ("best", "random", "copied")}
    columns = ("psnr", "psnr_stderr", "ssim", "ssim_stderr")
    record: dict[str, Any] = {
        name: {column: getattr(score, column).tolist() for column in columns}
        | {"mean_psnr": float(score.psnr.mean()), "mean_ssim": float(score.ssim.mean())}
        for name, score in scores.items()
    }
    return record | {"samples": found.num_samples, "clips": found.best.num_clips, "past": found.best.first}


def _fid_of(images: np.ndarray, make: Callable[[], np.ndarray], weights: str, cache: Path | None) -> dict[str, Any]:
    """FID and KID of two sets of images, of which the first one's features are cached."""
    feature = feature_of(weights)
    params = inception_weights.load_weights(weights, feature)
    digest = inception_weights.weights_digest(params)
    identity = feature_cache.features_identity(images, feature=feature, weights=digest)
    network = functools.partial(inception.features, params, feature=feature)
    real, note = feature_cache.cached_features(cache or feature_cache.cache_folder(), identity, lambda: network(images))
    made = network(make())
    distance, kernel = fid.frechet_distance(fid.moments(real), fid.moments(made)), fid.kid(real, made)
    return {"fid": distance._asdict(), "kid": kernel._asdict(), "weights": digest, "note": note}


def _samples(trained: Trained, num: int, key: jax.Array) -> np.ndarray:
    """Decoder means for draws of the prior, uint8 [num, H, W, C]."""
    parts = [
        generate(*trained, min(500, num - start), key=jax.random.fold_in(key, start)) for start in range(0, num, 500)
    ]
    return inception.to_uint8(np.concatenate(parts))


def feature_of(weights: str) -> int:
    """2048, or 768 of folded arrays, which end there."""
    return 768 if Path(weights).suffix == ".npz" else 2048


def check_weights(weights: str) -> None:
    """Read the weights and let them go; raises InceptionWeightsError where that fails."""
    inception_weights.load_weights(weights, feature_of(weights))


def calibration_record(result: Calibration) -> dict[str, Any]:
    return {
        "coverage": {str(level): coverage._asdict() for level, coverage in result.coverage.items()},
        "pit_counts": result.pit_counts.tolist(),
        "sigma_ratio": result.sigma_ratio,
        "sigma_bins": {name: values.tolist() for name, values in result.sigma_bins._asdict().items()},
        "draws": result.num_draws,
        "images": result.num_examples,
    }


def information_record(result: Information) -> dict[str, Any]:
    """Numbers alone, arrays as lists."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            fields: Any = value
            return {name: plain(part) for name, part in fields._asdict().items()}
        return value.tolist() if isinstance(value, np.ndarray | np.generic) else value

    return plain(result)


def measure_information_of(trained: Trained, images: np.ndarray, *, key: jax.Array) -> dict[str, Any]:
    """Rate, mutual information and marginal KL, active units (Figure 4)."""
    return information_record(measure_information(*encode_all(trained.model, trained.params, images), key=key))


def lines(record: dict[str, Any]) -> Iterator[str]:
    """The record's further measurements for people, a line each."""
    if "importance" in record:
        bound = record["importance"]
        yield f"-log p, {bound['samples']} importance samples: {bound['neg_log_p']:.1f} ± {bound['stderr']:.1f} nats"
    if "calibration" in record:
        result = record["calibration"]
        cells = [
            f"{float(level):.0%} holds {100 * coverage['observed']:.1f} ± {100 * coverage['stderr_by_example']:.1f} %"
            for level, coverage in result["coverage"].items()
        ]
        yield f"coverage of central intervals: {', '.join(cells)}"
        yield f"actual error / predicted σ: {result['sigma_ratio']:.3f} (1 if calibrated)"
    if "information" in record:
        info = record["information"]
        plain, least = info["plain"], min(
            (info[name] for name in ("dimension_wise", "moment_matched", "held_out")),
            key=lambda part: part["mutual_information"],
        )  # fmt: skip
        information = f"{plain['mutual_information']:.1f} to {least['mutual_information']:.1f}"
        marginal = f"{least['marginal_kl']:.1f} to {plain['marginal_kl']:.1f}"
        draws = f"N = {info['num_examples']:,}, M = {info['num_draws']:,}, cap ln N = {info['cap']:.1f}"
        yield (
            f"rate {info['rate']:.1f} nats; mutual information {information}, marginal KL {marginal} "
            f"(plain Monte Carlo, {draws}, and the tightest bound from the other side); "
            f"{info['num_active']} active units"
        )
    if "prediction" in record:
        found = record["prediction"]
        of = {name: found[name] for name in ("best", "random", "copied")}
        psnr = ", ".join(f"{name} {scores['mean_psnr']:.2f}" for name, scores in of.items())
        ssim = ", ".join(f"{name} {scores['mean_ssim']:.4f}" for name, scores in of.items())
        counts = f"{found['clips']} clips, {found['samples']} samples, data range 1"
        yield f"predicted frames ({counts}): PSNR {psnr} dB; SSIM {ssim}"
    if "fid" in record:
        distance, kernel = record["fid"]["fid"], record["fid"]["kid"]
        counts = f"{distance['num_a']:,} images, {distance['num_b']:,} samples"
        mmd = f"{kernel['name']} {kernel['mean']:.5f} ± {kernel['stderr']:.5f}"
        counts = f"{counts}: {record['fid']['frames']}" if "frames" in record["fid"] else counts
        yield f"{distance['name']} {distance['value']:.2f}, {mmd} ({counts})"
        yield from (f"  note: {note}" for note in (distance["note"], kernel["note"], record["fid"]["note"]) if note)


@contextmanager
def announced(what: str) -> Iterator[None]:
    """Say on stderr what is being measured, and how long it took."""
    begin = time.monotonic()
    print(f"{what} ...", end=" ", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print(file=sys.stderr)
        raise
    print(f"{time.monotonic() - begin:.0f} s", file=sys.stderr)
