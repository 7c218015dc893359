"""Fréchet distance and kernel distance between two sets of images, on Inception features.

Only 2048 features give FID and KID. Fewer features give numbers of another size, which are named FID-768 and so on.
All is computed by NumPy in float64, as the distance is a small difference of large traces.
"""

import math
from typing import NamedTuple

import numpy as np

FULL_FEATURE = 2048  # what the names FID and KID stand for without a number


class Moments(NamedTuple):
    """Mean and covariance of the features of a set of images."""

    mean: np.ndarray  # [D] float64
    covariance: np.ndarray  # [D, D] float64, divided by num - 1
    num: int  # images
    feature: int  # D


class Fid(NamedTuple):
    """A squared Fréchet distance, lower is better."""

    value: float
    name: str  # "FID" for 2048 features, otherwise such as "FID-768"
    num_a: int
    num_b: int
    note: str | None  # a caveat to read before quoting the number


class Kid(NamedTuple):
    """A squared maximum mean discrepancy, lower is better; its estimate may be negative."""

    mean: float
    stderr: float  # over images, by the jackknife
    name: str  # "KID" for 2048 features, otherwise such as "KID-768"
    num_a: int
    num_b: int
    subsets: int
    subset_size: int
    note: str | None


def metric_name(feature: int, metric: str = "FID") -> str:
    """FID for 2048 features, otherwise FID-768 and so on."""
    return metric if feature == FULL_FEATURE else f"{metric}-{feature}"


def moments(features: np.ndarray) -> Moments:
    """Mean and covariance of features [N, D], in float64.

    Args:
      features: [N, D], N at least 2.

    Returns:
      Mean [D], covariance [D, D] divided by N - 1, N, and D.

    Raises:
      ValueError: if there are fewer than two rows, or a value is not finite.
    """
    rows = _finite_rows(features)
    if len(rows) < 2:
        raise ValueError(f"features have {len(rows)} rows; expected at least two images")
    mean = rows.mean(axis=0)
    centred = rows - mean
    return Moments(mean, centred.T @ centred / (len(rows) - 1), *rows.shape)


def frechet_distance(a: Moments, b: Moments) -> Fid:
    """|mean_a - mean_b|² + tr S_a + tr S_b - 2 tr (S_a S_b)^½.

    Args:
      a, b: of the same features, from the same weights.

    Returns:
      The distance with its name, both counts, and a note if a covariance is singular.

    Raises:
      ValueError: if the features differ.

    Example:
      >>> fid = frechet_distance(moments(real_features), moments(generated_features)).value

    References:
      Heusel et al. 2017, "GANs trained by a two time-scale update rule", equation 6; mseitzer/pytorch-fid.
    """
    if a.feature != b.feature:
        raise ValueError(f"features are {a.feature} and {b.feature}; expected the same on both sides")
    mean_term = np.sum(np.square(a.mean - b.mean))
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    value = mean_term + traces - 2 * trace_sqrt_product(a.covariance, b.covariance)
    name, num, note = metric_name(a.feature), min(a.num, b.num), None
    if num <= a.feature:
        note = (
            f"{num} images for {a.feature} features: the covariance is singular and {name} far too large to compare "
            f"with others; prefer {metric_name(a.feature, 'KID')}"
        )
    return Fid(max(float(value), 0.0), name, a.num, b.num, note)


def trace_sqrt_product(a: np.ndarray, b: np.ndarray) -> float:
    """tr (A B)^½ of two positive semidefinite matrices: the sum of the singular values of A^½ B^½.

    The singular values are the roots of the eigenvalues of A^½ B A^½. Computed directly, a zero has a rounding error of
    1e-16; the root of a rounded eigenvalue would have 1e-8, for each dimension that a small sample does not span.
    """
    (a_values, a_vectors), (b_values, b_vectors) = np.linalg.eigh(a), np.linalg.eigh(b)
    a_root, b_root = np.sqrt(np.maximum(a_values, 0)), np.sqrt(np.maximum(b_values, 0))
    product = a_root[:, None] * (a_vectors.T @ b_vectors) * b_root
    return float(np.sum(np.linalg.svd(product, compute_uv=False)))


def kid(
    features_a: np.ndarray, features_b: np.ndarray, *, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> Kid:
    """Unbiased MMD² with the kernel (x·y / D + 1)³, averaged over random subsets of both sets.

    Its expectation does not depend on the number of images, so that small sets can be compared. It is written out here
    since libraries give no standard error over images. Let s be the deviation between subsets of m images out of the n
    of the smaller set. The standard error is s·sqrt(m / (n - m) + 1 / subsets): the delete-d jackknife, and the effect
    of the finite number of subsets. The usual s / sqrt(subsets) treats overlapping subsets as independent.

    Args:
      features_a, features_b: [N, D].
      subsets: how many, at least two.
      subset_size: images of each side in a subset; half of the smaller set if that has no more than this.
      seed: of the subsets.

    Returns:
      The mean over subsets, its standard error over images, and the name of the measure, which says how many features.

    Raises:
      ValueError: if there are fewer than four images or two subsets, widths differ or a value is not finite.

    References:
      Bińkowski et al. 2018, "Demystifying MMD GANs", section 4; Shao and Wu 1989, "A general theory for jackknife
      variance estimation".
    """
    a, b = _finite_rows(features_a), _finite_rows(features_b)
    smaller, feature, note = min(len(a), len(b)), a.shape[1], None
    if feature != b.shape[1]:
        raise ValueError(f"features are {feature} and {b.shape[1]}; expected the same on both sides")
    if smaller < 4 or subsets < 2 or subset_size < 2:
        sizes = f"{smaller}, {subsets} and {subset_size}"
        raise ValueError(f"images, subsets and subset_size are {sizes}; expected at least 4, 2 and 2")
    if subset_size >= smaller:
        note = f"subsets of {smaller // 2} in place of {subset_size} images: the smaller set has {smaller}"
        subset_size = smaller // 2
    rng = np.random.default_rng(seed)
    values = [
        squared_mmd(*(side[rng.choice(len(side), subset_size, replace=False)] for side in (a, b)))
        for _ in range(subsets)
    ]
    stderr = np.std(values, ddof=1) * math.sqrt(subset_size / (smaller - subset_size) + 1 / subsets)
    name = metric_name(feature, "KID")
    return Kid(float(np.mean(values)), float(stderr), name, len(a), len(b), subsets, subset_size, note)


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate from two sets of rows, which compares no row with itself."""

    def kernel(p, q):
        return (p @ q.T / p.shape[1] + 1) ** 3

    def within(p):
        values = kernel(p, p)
        return (values.sum() - np.trace(values)) / (len(p) * (len(p) - 1))

    return float(within(x) + within(y) - 2 * kernel(x, y).mean())


def _finite_rows(features: np.ndarray) -> np.ndarray:
    rows = np.asarray(features, np.float64)
    if rows.ndim != 2:
        raise ValueError(f"features has shape {rows.shape}; expected [N, D]")
    if not np.isfinite(rows).all():
        raise ValueError("features holds values that are not finite")
    return rows
