"""Batch normalisation with PyTorch's running averages, which `flax.linen.BatchNorm` does not have.

PyTorch normalises with the biased variance of the batch but averages the unbiased one, while Flax averages the biased
one. The running averages are the collection `batch_stats`. They are updated if it is mutable, and may be missing from
the variables of a model that always normalises with the batch's own statistics.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from calibrax.models.layers import moments, normal_init

EPSILON = 1e-5  # added to the variance; PyTorch's default
MOMENTUM = 0.1  # weight of the newest batch in the running averages; PyTorch's default
SCALE_STD = 0.02  # of the initial scales, about 1: edenton/svg, `utils.init_weights`


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) · scale + bias for each channel, over batch and space.

    If an axis of time comes before the batch, each step has statistics of its own, and the running averages are updated
    with one step after another, as if each step were a call. Statistics are computed in float32 or wider. The result
    has the dtype of x.

    Attributes:
      axis_name: the mapped axis over which the batch is spread, if any; `init` does not use it.

    Raises:
      ValueError: if a channel with a single value would be normalised with its own statistics, or if running averages
        are asked for and the variables have none.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, running: bool = False) -> jax.Array:
        """[B, H, W, C] or [T, B, H, W, C] -> the same shape.

        Args:
          x: the batch; under `axis_name`, this device's part of it.
          running: normalise with the running averages, which then stay unchanged, not with the batch's own statistics.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", lambda key, shape: 1 + normal_init(SCALE_STD)(key, shape), channels)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        wide = x.astype(np.promote_types(x.dtype, np.float32))
        averages = self._averages(channels)
        if running:
            if averages is None:
                raise ValueError("batch_stats is missing from the variables; expected the running averages of training")
            mean, variance = (average.value for average in averages)
        else:
            axis_name = None if self.is_initializing() else self.axis_name
            mean, variance, count = moments(wide, (-4, -3, -2), axis_name)
            if count == 1 and not self.is_initializing():
                raise ValueError(
                    f"x has shape {x.shape}; expected several values of a channel, to normalise by their own"
                )
            if averages is not None and self.is_mutable_collection("batch_stats") and not self.is_initializing():
                for average, now in zip(averages, (mean, variance * (count / (count - 1))), strict=True):
                    average.value = _updated(average.value, lax.stop_gradient(now))
        mean, variance = (value.astype(wide.dtype).reshape(-1, 1, 1, 1, channels[0]) for value in (mean, variance))
        if x.ndim == 4:
            mean, variance = mean[0], variance[0]
        scale, bias = (value.astype(wide.dtype).reshape([1] * (x.ndim - 1) + [-1]) for value in (scale, bias))
        return ((wide - mean) * (scale * lax.rsqrt(variance + EPSILON)) + bias).astype(x.dtype)

    def _averages(self, channels) -> tuple[Any, Any] | None:
        """The running mean and variance if the variables have them or are about to; else None."""
        if not (self.has_variable("batch_stats", "mean") or self.is_mutable_collection("batch_stats")):
            return None
        return (
            self.variable("batch_stats", "mean", lambda: jnp.zeros(channels, jnp.float32)),
            self.variable("batch_stats", "var", lambda: jnp.ones(channels, jnp.float32)),
        )


def _updated(average: jax.Array, now: jax.Array) -> jax.Array:
    """The running average [C] after the statistics of one step [C], or of several steps [T, C] in turn."""
    steps = jnp.atleast_2d(now).astype(average.dtype)
    age = jnp.arange(len(steps) - 1, -1, -1, dtype=average.dtype)
    weights = MOMENTUM * (1 - MOMENTUM) ** age
    return (1 - MOMENTUM) ** len(steps) * average + jnp.sum(weights[:, None] * steps, axis=0)
