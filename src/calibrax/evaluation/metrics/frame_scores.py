"""How close predicted frames come to the true ones: PSNR and SSIM by time step, and the best of many samples.

SSIM is written out here because no JAX library computes it with windows of equal weight, as the video papers do.
"""

import functools
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from calibrax.evaluation.metrics.likelihood import mean_stderr
from calibrax.likelihoods._base import as_unit

WINDOW = 7  # pixels, height and width
K1, K2 = 0.01, 0.03  # Wang et al. 2004, section III.C


def psnr(
    truth: jax.typing.ArrayLike, prediction: jax.typing.ArrayLike, data_range: float = 1.0, *, per_channel: bool = True
) -> jax.Array:
    """Peak signal-to-noise ratio of each image, 10 log10(data_range² / MSE).

    Args:
      truth: [..., H, W, C], uint8 levels (read as level / 255) or floats.
      prediction: the same shape.
      data_range: between the largest and the smallest value that data may have.
      per_channel: average the ratios of the channels, as SVG's evaluation does (edenton/svg, `utils.py`, `eval_seq`);
        otherwise one ratio from the mean over all channels, which is never larger.

    Returns:
      [...] float32, decibels; infinite if the image, or per channel one of its channels, equals the true one.

    Raises:
      ValueError: if the shapes differ or are not those of images, or if the range is not positive.
    """
    x, y = _images(truth, prediction, data_range)
    axes = (-3, -2) if per_channel else (-3, -2, -1)
    mse = jnp.mean(jnp.square(x - y), axes)
    decibels = 20 * math.log10(data_range) - 10 * jnp.log10(mse)
    return jnp.mean(decibels, -1) if per_channel else decibels


def ssim(truth: jax.typing.ArrayLike, prediction: jax.typing.ArrayLike, data_range: float = 1.0) -> jax.Array:
    """Structural similarity of each image, averaged over windows of 7×7 pixels and over channels.

    (2 μx μy + C1)(2 σxy + C2) / ((μx² + μy² + C1)(σx² + σy² + C2)), C1 = (0.01 L)², C2 = (0.03 L)² with L the range,
    over the windows that lie within the image, with pixels of equal weight and sample variances (n - 1). It equals
    scikit-image's `structural_similarity(truth, prediction, data_range=L, channel_axis=-1)` with its defaults.

    SVG's evaluation used a release of scikit-image that took L = 2 for floats, from -1 to 1, although images lie in
    [0, 1]. `data_range=2` gives such numbers, which are larger. Only numbers of the same range can be compared.

    Args:
      truth: [..., H, W, C], H and W at least 7, uint8 levels (read as level / 255) or floats.
      prediction: the same shape.
      data_range: between the largest and the smallest value that data may have.

    Returns:
      [...] float32, at most 1.

    Raises:
      ValueError: if the shapes differ, are not those of images or smaller than a window, or the range is not positive.

    References:
      Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity", equation 13.
    """
    x, y = _images(truth, prediction, data_range)
    if min(x.shape[-3:-1]) < WINDOW:
        raise ValueError(f"images have shape {x.shape}; expected at least {WINDOW}x{WINDOW} pixels")
    return _similarity(x, y, data_range)


class BestOf(NamedTuple):
    """The best of K samples for each clip."""

    videos: jax.Array  # [B, T, H, W, C], as the samples came
    psnr: jax.Array  # [B, T - past] float32, of the frames that were predicted
    ssim: jax.Array  # [B, T - past] float32


def best_of(truth: jax.typing.ArrayLike, samples: Iterable[jax.typing.ArrayLike], *, past: int = 0) -> BestOf:
    """For each clip, the sample with the highest mean SSIM over the predicted frames, as in SVG's evaluation.

    PSNR and SSIM have a data range of 1. Each sample is scored before the next is drawn, so memory does not depend on
    K.

    Args:
      truth: [B, T, H, W, C], uint8 levels or floats, as `ssim` takes them.
      samples: K arrays like `truth`; an iterator that draws them, or one array [K, B, T, H, W, C].
      past: number of given frames at the front, which are not scored.

    Returns:
      The best sample, the first if several are equally good; a sample with NaN counts as the worst.

    Raises:
      ValueError: if there is no sample, a shape differs, or no frame is left to score.
    """
    if np.ndim(truth) != 5 or not 0 <= past < np.shape(truth)[1]:
        raise ValueError(f"truth has shape {np.shape(truth)}, past is {past}; expected [B, T, H, W, C], 0 <= past < T")
    best, truth = None, jnp.asarray(truth)
    for index, sample in enumerate(samples):
        if np.shape(sample) != np.shape(truth):
            raise ValueError(f"sample {index} has shape {np.shape(sample)}; expected {np.shape(truth)}, as truth has")
        scored = _score(truth, sample, past)
        # Wait here: samples that are drawn before they can be scored take memory.
        best = jax.block_until_ready(scored if best is None else _better(best, scored))
    if best is None:
        raise ValueError("samples is empty; expected at least one")
    return best


class FrameScores(NamedTuple):
    """Scores by time step: mean and standard error over clips."""

    psnr: np.ndarray  # [T] float64, decibels
    psnr_stderr: np.ndarray  # [T] float64, NaN for one clip
    ssim: np.ndarray  # [T] float64
    ssim_stderr: np.ndarray  # [T] float64
    num_clips: int
    first: int  # the first time step, from 0: the number of given frames


def frame_scores(psnr: np.ndarray, ssim: np.ndarray, *, past: int = 0) -> FrameScores:
    """Scores of many clips averaged at each time step, of which `past` is the first.

    PSNR (decibels) and SSIM are [N, T], for example all batches' `BestOf.psnr`, one after another.

    Raises:
      ValueError: if the shapes differ or are empty.
    """
    if np.shape(psnr) != np.shape(ssim) or np.ndim(psnr) != 2 or 0 in np.shape(psnr):
        raise ValueError(f"psnr has shape {np.shape(psnr)}, ssim {np.shape(ssim)}; expected [N, T] both, not empty")
    psnr, ssim = np.asarray(psnr, np.float64), np.asarray(ssim, np.float64)
    with np.errstate(invalid="ignore"):  # a perfect frame has an infinite PSNR
        columns = psnr.mean(axis=0), mean_stderr(psnr), ssim.mean(axis=0), mean_stderr(ssim)
    return FrameScores(*columns, num_clips=len(psnr), first=past)


def _images(
    truth: jax.typing.ArrayLike, prediction: jax.typing.ArrayLike, data_range: float
) -> tuple[jax.Array, jax.Array]:
    """Both as float32 [..., H, W, C]."""
    if np.shape(truth) != np.shape(prediction) or np.ndim(truth) < 3:
        shapes = f"{np.shape(truth)}, prediction {np.shape(prediction)}"
        raise ValueError(f"truth has shape {shapes}; expected [..., H, W, C] both")
    if not data_range > 0:
        raise ValueError(f"data_range is {data_range}; expected more than 0")
    return as_unit(truth, jnp.float32), as_unit(prediction, jnp.float32)


@jax.jit
def _similarity(x: jax.Array, y: jax.Array, data_range: float) -> jax.Array:
    """SSIM of float32 images [..., H, W, C], averaged over all but the leading axes."""
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    # Variances are differences of squares. Subtracting each image's mean first reduces rounding errors.
    mean_x, mean_y = (jnp.mean(image, (-3, -2), keepdims=True) for image in (x, y))
    x, y = x - mean_x, y - mean_y
    local_x, local_y = _window_mean(x), _window_mean(y)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    variances = unbiased * (_window_mean(x * x + y * y) - local_x * local_x - local_y * local_y)
    covariance = unbiased * (_window_mean(x * y) - local_x * local_y)
    mu_x, mu_y = local_x + mean_x, local_y + mean_y
    luminance = (2 * mu_x * mu_y + c1) / (mu_x * mu_x + mu_y * mu_y + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    return jnp.mean(luminance * structure, (-3, -2, -1))


def _window_mean(images: jax.Array) -> jax.Array:
    """Means over all windows within [..., H, W, C], by additions, which no device rounds to fewer bits."""
    height, width = (images.shape[axis] - WINDOW + 1 for axis in (-3, -2))
    rows = functools.reduce(jnp.add, (images[..., shift : shift + height, :, :] for shift in range(WINDOW)))
    return functools.reduce(jnp.add, (rows[..., shift : shift + width, :] for shift in range(WINDOW))) / WINDOW**2


@functools.partial(jax.jit, static_argnums=2)
def _score(truth: jax.Array, sample: jax.Array, past: int) -> BestOf:
    frames = truth[:, past:], sample[:, past:]
    return BestOf(sample, psnr(*frames), ssim(*frames))


@jax.jit
def _better(best: BestOf, other: BestOf) -> BestOf:
    """Clip by clip the one with the higher mean SSIM."""
    score, challenge = (jnp.mean(of.ssim, 1) for of in (best, other))
    wins = (challenge > score) | (jnp.isnan(score) & ~jnp.isnan(challenge))
    return jax.tree.map(lambda a, b: jnp.where(wins.reshape(-1, *[1] * (a.ndim - 1)), b, a), best, other)
