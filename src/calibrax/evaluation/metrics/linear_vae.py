"""What the optimal linear VAE encodes, from the eigenvalues of the data's covariance; nothing is trained.

With a Gaussian decoder of constant σ, the optimal linear VAE is probabilistic PCA. Along the principal axis of variance
λ, it encodes ½ log(λ/σ²) nats where λ > σ², and nothing elsewhere.
"""

import math

import numpy as np

from calibrax.evaluation.trained import check_not_empty


def collapse_sigma(examples: np.ndarray) -> float:
    """The σ of a Gaussian decoder from which on the optimal linear VAE encodes nothing.

    This is the root of the largest eigenvalue of the examples' covariance. The sum over the pixels of an image makes it
    much larger than the standard deviation of a pixel: 8.7 for 9,000 images of SVHN at 28×28. A β-VAE is there at
    β = 2σ². In a network too, a collapsed posterior is stable under small changes from this σ on.

    Args:
      examples: [N, ...] uint8, which stand for 0 to 1, or floats.

    Returns:
      σ in units of the data, which for uint8 are those of [0, 1]; 0 if all examples are equal.

    Raises:
      ValueError: if there are no examples, or a value is not finite.

    Example:
      >>> examples = np.array([[0.0, 0.0], [3.0, 4.0]])  # 2.5 on either side of their mean
      >>> round(collapse_sigma(examples), 6)
      2.5

    References:
      Tipping and Bishop 1999, eq. (7); Lucas et al. 2019, "Don't Blame the ELBO! A Linear VAE Perspective on Posterior
      Collapse"; for networks arXiv:2510.01621, "Posterior Collapse as a Phase Transition in Variational Autoencoders".
    """
    return math.sqrt(principal_variances(examples, 1)[0])


def principal_variances(examples: np.ndarray, num: int) -> np.ndarray:
    """The largest eigenvalues of the covariance (divided by N) of examples, in falling order.

    They are found by Lanczos iterations on the centred examples, which are kept as one float32 array. The covariance
    itself, D×D, is never formed.

    Args:
      examples: [N, ...] as for `collapse_sigma`, of D values each.
      num: how many, at least 1.

    Returns:
      float64 [num], or [min(N, D)] if that is less.

    Raises:
      ValueError: as `collapse_sigma`.
    """
    from scipy.sparse.linalg import svds  # here, because it takes longer to import than this module

    examples = np.asarray(examples)
    check_not_empty(examples)
    if not np.isfinite(examples).all():
        raise ValueError("examples has values that are not finite; expected finite numbers")
    rows = examples.reshape(len(examples), -1)
    centred = np.subtract(rows, rows.mean(axis=0, dtype=np.float64), dtype=np.float32)
    if num < min(centred.shape) and centred.any():
        start = np.random.default_rng(0).standard_normal(min(centred.shape), np.float32)  # the same result each time
        singular = np.asarray(svds(centred, k=num, v0=start, return_singular_vectors=False))
    else:  # Lanczos iterations find fewer than all, and none of zeros
        singular = np.linalg.svd(centred, compute_uv=False)[:num]
    unit = 255 if examples.dtype == np.uint8 else 1
    return np.sort(singular.astype(np.float64) / unit)[::-1] ** 2 / len(examples)
