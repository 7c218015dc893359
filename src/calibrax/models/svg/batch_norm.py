"""Batch normalisation with PyTorch's running averages, which `flax.linen.BatchNorm` does not have.

PyTorch normalises with the biased variance of the batch but averages the unbiased one; Flax averages the biased. The
running averages are the collection `batch_stats`. They are updated where it is mutable, and may be left out altogether
by a model that always normalises with the batch's own statistics.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from calibrax.models.hvae.noise import normal_init
from calibrax.models.svg.precision import at_least_float32

EPSILON = 1e-5  # added to the variance; PyTorch's default
MOMENTUM = 0.1  # weight of the newest batch in the running averages; PyTorch's default
SCALE_STD = 0.02  # of the initial scales about 1: edenton/svg, `utils.init_weights`


class BatchNorm(nn.Module):
    """(x - mean) / sqrt(variance + 1e-5) · scale + bias for each channel, over batch and space.

    With an axis of time before the batch each step has statistics of its own, and the running averages take them in one
    after another, as they would in a call for every step. Statistics are computed in float32 at least, whatever the
    dtype of x, which is that of the result too.

    Attributes:
      axis_name: the mapped axis over which the batch is spread, if any; `init` does not use it.

    Raises:
      ValueError: where a channel has one value alone and is to be normalised with its own statistics; where running
        averages are to be used and there are none.
    """

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, running: bool = False) -> jax.Array:
        """[B, H, W, C] or [T, B, H, W, C] -> the same shape.

        Args:
          x: the batch, with `axis_name` this device's part of it.
          running: normalise with the running averages instead of the batch's own statistics, which then stay as they
            are.
        """
        channels = (x.shape[-1],)
        scale = self.param("scale", lambda key, shape: 1 + normal_init(SCALE_STD)(key, shape), channels)
        bias = self.param("bias", nn.initializers.zeros, channels, jnp.float32)
        wide = x.astype(at_least_float32(x.dtype))
        averages = self._averages(channels)
        if running:
            if averages is None:
                raise ValueError("batch_stats is missing from the variables; expected the running averages of training")
            mean, variance = (average.value for average in averages)
        else:
            mean, variance, count = self._moments(wide)
            if averages is not None and self.is_mutable_collection("batch_stats") and not self.is_initializing():
                for average, now in zip(averages, (mean, variance * (count / (count - 1))), strict=True):
                    average.value = _taken_in(average.value, lax.stop_gradient(now))
        mean, variance = (value.astype(wide.dtype).reshape(-1, 1, 1, 1, channels[0]) for value in (mean, variance))
        if x.ndim == 4:
            mean, variance = mean[0], variance[0]
        scale, bias = (value.astype(wide.dtype).reshape([1] * (x.ndim - 1) + [-1]) for value in (scale, bias))
        return ((wide - mean) * (scale * lax.rsqrt(variance + EPSILON)) + bias).astype(x.dtype)

    def _averages(self, channels) -> tuple[Any, Any] | None:
        """The running mean and variance, where the variables have them or are to have them."""
        if not (self.has_variable("batch_stats", "mean") or self.is_mutable_collection("batch_stats")):
            return None
        return (
            self.variable("batch_stats", "mean", lambda: jnp.zeros(channels, jnp.float32)),
            self.variable("batch_stats", "var", lambda: jnp.ones(channels, jnp.float32)),
        )

    def _moments(self, x: jax.Array) -> tuple[jax.Array, jax.Array, int]:
        """Mean and biased variance of each channel, [C] or [T, C], over the global batch, and of how many values.

        The mean first and the squares about it second: their difference from raw moments would cost digits.
        """
        axis_name = None if self.is_initializing() else self.axis_name
        axes, count = (-4, -3, -2), math.prod(x.shape[-4:-1])
        mean = jnp.mean(x, axes, keepdims=True)
        if axis_name is not None:
            mean, count = lax.pmean(mean, axis_name), count * lax.axis_size(axis_name)
        if count == 1 and not self.is_initializing():
            raise ValueError(f"x has shape {x.shape}; expected several values of a channel, to normalise by their own")
        variance = jnp.mean(jnp.square(x - mean), axes)
        if axis_name is not None:
            variance = lax.pmean(variance, axis_name)
        return mean.reshape(variance.shape), variance, count


def _taken_in(average: jax.Array, now: jax.Array) -> jax.Array:
    """The running average [C] after these statistics, [C] or those of several steps [T, C]."""
    steps = jnp.atleast_2d(now).astype(average.dtype)
    age = jnp.arange(len(steps) - 1, -1, -1, dtype=average.dtype)
    weights = MOMENTUM * (1 - MOMENTUM) ** age
    return (1 - MOMENTUM) ** len(steps) * average + jnp.sum(weights[:, None] * steps, axis=0)
