"""The VAE objective in nats: KL, ELBO, importance bound, and the exchange rate between beta and sigma."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from calibrax.likelihoods._checks import check_number, shown

Convention = Literal["sse", "half_sse"]
NUMBERS = int | float | np.integer | np.floating  # their values are known; those of traced arrays are not


def gaussian_kl(mean: Float[Array, "B ..."], log_var: Float[Array, "B ..."]) -> Float[Array, " B"]:
    """KL(N(mean, exp(log_var)) || N(0, I)) in nats, summed over the latent dimensions of each example.

    Each dimension contributes (mean² + exp(log_var) - 1 - log_var) / 2. This is exact also for a dimension close to the
    prior, where the terms cancel: 2.5e-9 at a log variance of 1e-4.

    Args:
      mean: [B, ...] posterior means.
      log_var: [B, ...] posterior log variances, same shape.

    Returns:
      [B], at least float32, non-negative.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> float(gaussian_kl(jnp.ones((1, 4)), jnp.zeros((1, 4)))[0])
      2.0

    References:
      Kingma and Welling 2014, appendix B.
    """
    if mean.shape != log_var.shape:
        raise ValueError(f"log_var has shape {log_var.shape}; expected {mean.shape}, the shape of mean")
    dtype = jnp.float64 if jnp.float64 in (mean.dtype, log_var.dtype) else jnp.float32
    mean, log_var = mean.astype(dtype), log_var.astype(dtype)
    return 0.5 * jnp.sum(jnp.square(mean) + _exp_beyond_linear(log_var), axis=tuple(range(1, mean.ndim)))


def _exp_beyond_linear(x: jax.Array) -> jax.Array:
    """exp(x) - 1 - x, from its power series where the terms cancel."""
    small = jnp.abs(x) < 0.5
    near, far = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
    series = jnp.zeros_like(near)
    for n in range(16, 1, -1):  # what is left out is under 1e-19
        series = near * series + 1 / math.factorial(n)
    return jnp.where(small, jnp.square(near) * series, jnp.expm1(far) - far)


def elbo(nll: Float[Array, " B"], kl: Float[Array, " B"]) -> Float[Array, " B"]:
    """The evidence lower bound -(nll + kl) of each example, nats; positive or negative for a density (eq. 3).

    Args:
      nll: [B] nats, as of `likelihood.nll`.
      kl: [B] nats.

    Returns:
      [B] nats.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> float(elbo(jnp.array([90.0]), jnp.array([10.0]))[0])
      -100.0
    """
    if nll.shape != kl.shape:
        raise ValueError(f"kl has shape {kl.shape}; expected {nll.shape}, the shape of nll")
    return -(nll + kl)


def free_bits(kl: Float[Array, "B L"], minimum: float) -> Float[Array, "B L"]:
    """max(kl, minimum) of each example and layer, nats: below the minimum, the KL of a layer has no gradient.

    Use it in the loss only; a reported ELBO takes the KL as it is.

    Args:
      kl: KL of each example and latent layer.
      minimum: nats per layer and example, 0 or more; 0 turns it off and leaves a sampled KL below 0 unchanged.

    Returns:
      An array of the shape of `kl`, nats.

    Raises:
      ValueError: if the minimum is a number that is negative or not finite.

    Example:
      >>> free_bits(jnp.array([[0.5, 3.0]]), 2.0).tolist()
      [[2.0, 3.0]]

    References:
      Kingma et al. 2016, "Improved variational inference with inverse autoregressive flow", appendix C.8; by layer and
      example in Maaløe et al. 2019.
    """
    if isinstance(minimum, NUMBERS) and not 0 <= minimum < math.inf:
        raise ValueError(f"minimum is {minimum}; expected a finite number from 0")
    return jnp.maximum(kl, minimum) if minimum else kl


def importance_bound(log_weights: Float[Array, "..."], axis: int = 0) -> Float[Array, "..."]:
    """The importance-weighted bound log((1/K) sum_k w_k) on log p(x), nats (Burda et al. 2016, eq. 8).

    Args:
      log_weights: log p(x, z_k) - log q(z_k | x), usually [K, B].
      axis: the axis of the K samples.

    Returns:
      `log_weights` without that axis; with K = 1 the one-sample ELBO.

    Raises:
      ValueError: if there is no such axis, or it holds no sample.

    Example:
      >>> float(importance_bound(jnp.zeros((64, 1)))[0])
      0.0
    """
    if not -log_weights.ndim <= axis < log_weights.ndim:
        raise ValueError(f"axis is {axis}; expected one of log_weights, whose shape is {log_weights.shape}")
    if log_weights.shape[axis] == 0:
        raise ValueError(f"log_weights has shape {log_weights.shape}; expected at least one sample along axis {axis}")
    return jax.nn.logsumexp(log_weights, axis=axis) - math.log(log_weights.shape[axis])


def bits_per_dim(nats: jax.typing.ArrayLike, event_shape: Sequence[int], bin_width: float | None = None) -> jax.Array:
    """Nats per example as bits per dimension: nats / (D ln 2), where D is the number of values in `event_shape`.

    Args:
      nats: an nll or negative ELBO per example, of any shape.
      event_shape: of one example, such as (28, 28, 3); () for a single number.
      bin_width: of a density, the width of the bins that the data are rounded to, in the data's units: a bin has about
        the probability density·width, which adds -log2(width) bits. It is 1/255 for images in [0, 1] and 2/255 for
        images in [-1, 1]. None if the nats are of probabilities, such as those of a `discretized_nll`.

    Returns:
      Bits per dimension, of the shape of `nats`.

    Raises:
      ValueError: if `event_shape` is not a shape, or one without values; if the bin width is not a positive number.

    Example:
      >>> round(float(bits_per_dim(9760.9, (28, 28, 3))), 3)
      5.987
    """
    known = isinstance(event_shape, Sequence) and all(isinstance(n, int | np.integer) and n > 0 for n in event_shape)
    if not known:
        raise ValueError(f"event_shape is {shown(event_shape)}; expected positive ints: at least one value")
    bits = jnp.asarray(nats) / (math.prod(event_shape) * math.log(2))
    if bin_width is None:
        return bits
    check_number("bin_width", bin_width, low=0)
    return bits - math.log2(bin_width)


def effective_beta(log_sigma: jax.typing.ArrayLike, convention: Convention = "sse") -> jax.Array:
    """The beta whose objective is equivalent to a decoder with this sigma.

    Args:
      log_sigma: log standard deviation.
      convention: `"sse"` is the objective SSE + beta·KL of the paper's tables, beta = 2σ²; `"half_sse"` is eq. (4)
        as printed, (D/2)·MSE + beta·KL, beta = σ².

    Returns:
      An array of the shape of `log_sigma`.

    Raises:
      ValueError: if the convention is unknown.

    Example:
      >>> float(effective_beta(0.0)), float(effective_beta(0.0, "half_sse"))
      (2.0, 1.0)
    """
    return _scale(convention) * jnp.exp(2 * jnp.asarray(log_sigma))


def beta_to_sigma(beta: jax.typing.ArrayLike, convention: Convention = "sse") -> jax.Array:
    """The constant standard deviation equivalent to a beta; the inverse of `effective_beta`.

    Args:
      beta: weight on the KL, positive.
      convention: `"sse"` gives sqrt(beta / 2), as in section 3.1; `"half_sse"` gives sqrt(beta).

    Returns:
      An array of the shape of `beta`, in the units of the data.

    Raises:
      ValueError: if the convention is unknown, or beta is a number that is not positive and finite.

    Example:
      >>> float(beta_to_sigma(2.0))
      1.0
    """
    if isinstance(beta, NUMBERS) and not 0 < beta < math.inf:
        raise ValueError(f"beta is {beta}; expected a positive finite number")
    return jnp.sqrt(jnp.asarray(beta) / _scale(convention))


def _scale(convention: str) -> float:
    scales = {"sse": 2.0, "half_sse": 1.0}
    if not isinstance(convention, str) or convention not in scales:
        raise ValueError(f"convention is {shown(convention)}; expected 'sse' or 'half_sse'")
    return scales[convention]
