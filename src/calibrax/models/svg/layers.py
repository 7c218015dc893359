"""Layers of SVG, with weights from N(0, 0.02²) and zero biases, as `utils.init_weights` of edenton/svg draws them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from calibrax.models import layers
from calibrax.models.layers import normal_init
from calibrax.models.svg.batch_norm import BatchNorm

WEIGHT_STD = 0.02


def _initializers(fan_in: int) -> tuple[layers.Initializer, layers.Initializer]:
    del fan_in
    return normal_init(WEIGHT_STD), nn.initializers.zeros


Conv = functools.partial(layers.Conv, initializers=_initializers)
Dense = functools.partial(layers.Dense, initializers=_initializers)


class ConvBlock(nn.Module):
    """A convolution, batch normalisation and an activation, with the attributes of `Conv` and `BatchNorm`."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    transpose: bool = False
    activation: Callable[[jax.Array], jax.Array] = functools.partial(nn.leaky_relu, negative_slope=0.2)
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, running: bool = False) -> jax.Array:
        """[B, H, W, in] -> [B, H', W', features], or both with an axis of time first; `running` as in `BatchNorm`."""
        conv = Conv(self.features, self.kernel_size, self.stride, self.padding, self.transpose, self.dtype, name="conv")
        return self.activation(BatchNorm(self.axis_name, name="norm")(conv(x), running))
