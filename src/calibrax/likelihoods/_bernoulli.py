"""Bernoulli decoders: intensities taken as probabilities."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import (
    Likelihood,
    Stats,
    apply_link,
    as_unit,
    check_event_shape,
    check_shape,
    compute_dtype,
    data_shape,
    sum_event,
)


def bernoulli_nll(x: Num[Array, "B ..."], logits: Float[Array, "B ..."]) -> tuple[Float[Array, " B"], Stats]:
    """Binary cross-entropy -x log p - (1 - x) log(1 - p) with p = sigmoid(logits), summed over the event.

    Both terms are taken from non-negative soft-plus values, so nothing cancels where the fit is good. For x strictly
    between 0 and 1 this is a cross-entropy, not the negative log of a normalised density.

    Args:
      x: [B, ...] floats in [0, 1], or uint8 read as x / 255.
      logits: [B, ...], same shape.

    Returns:
      nll [B], nats, at least float32; no stats.

    Raises:
      ValueError: if shapes differ or x is neither uint8 nor float.

    References:
      Gulrajani et al. 2017, the "Bernoulli VAE" of Table 2.
    """
    dtype = compute_dtype(x, logits)
    check_shape("x", x, logits.shape)
    x, logits = as_unit(x, dtype), jnp.asarray(logits, dtype)
    return sum_event(x * jax.nn.softplus(-logits) + (1 - x) * jax.nn.softplus(logits)), {}


def bernoulli() -> Likelihood:
    """Independent Bernoulli variables, for binary data or for intensities in [0, 1] taken as probabilities.

    Returns:
      A `Likelihood` with one output a channel, its logit, without params or state. `sample` draws 0 or 1.

    References:
      The "Bernoulli VAE" of Tables 2, 3 and 4.
    """

    def init(event_shape):
        check_event_shape(event_shape)
        return {}, {}

    def nll(params, state, outputs, x, train=True, axis_name=None):
        del params, state, train, axis_name  # nothing here depends on the batch
        check_shape("x", x, data_shape(outputs, 1))
        return bernoulli_nll(x, outputs)

    def sample(key, params, state, outputs):
        prob = apply_link("sigmoid", outputs)
        return jax.random.bernoulli(key, prob).astype(prob.dtype)

    return Likelihood(
        init=init,
        nll=nll,
        update=lambda state, stats: state,
        mean=lambda params, state, outputs: apply_link("sigmoid", outputs),
        sample=sample,
        output_channels=lambda channels: channels,
    )
