"""SVG's DCGAN encoder and decoder of 64×64 frames, the smaller ones."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.svg.layers import Conv, ConvBlock

WIDTHS = (1, 2, 4, 8)  # channels of the encoder's layers, times the first one's


class DCGANEncoder(nn.Module):
    """Frames to codes: four 4×4 convolutions of stride 2, a 4×4 one without, tanh.

    3,807,424 parameters for three channels.

    Attributes:
      code_dim: length of the code.
      features: channels of the first layer.
      dtype: of the computation; None for that of the input.
      axis_name: the mapped axis over which the batch is spread, if any.

    References:
      edenton/svg (3f19f0b), `models/dcgan_64.py`; Radford et al. 2016.
    """

    code_dim: int
    features: int = 64
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, running: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """[B, 64, 64, C] -> [B, code_dim], and the layers' outputs: 32×32, 16×16, 8×8, 4×4; or all with time before."""
        block = functools.partial(ConvBlock, kernel_size=4, dtype=self.dtype, axis_name=self.axis_name)
        h, skips = x, []
        for layer, width in enumerate(WIDTHS):
            h = block(width * self.features, stride=2, padding=1, name=f"layer_{layer}")(h, running)
            skips.append(h)
        code = block(self.code_dim, activation=jnp.tanh, name="code")(h, running)
        return code.reshape(*x.shape[:-3], self.code_dim), tuple(skips)


class DCGANDecoder(nn.Module):
    """Codes to frames: a 4×4 transposed convolution, four more of stride 2, each joined with a skip before.

    6,562,627 parameters for three channels.

    Attributes:
      output_channels: of the result, which is linear: the likelihood applies its own link.
      features: channels of the encoder's first layer.
      dtype, axis_name: as in `DCGANEncoder`.

    References:
      edenton/svg (3f19f0b), `models/dcgan_64.py`.
    """

    output_channels: int
    features: int = 64
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, code: jax.Array, skips: Sequence[jax.Array], running: bool = False) -> jax.Array:
        """[B, code_dim] and an encoder's skips -> [B, 64, 64, output_channels]."""
        block = functools.partial(ConvBlock, kernel_size=4, transpose=True, dtype=self.dtype, axis_name=self.axis_name)
        h = block(WIDTHS[-1] * self.features, name="code")(code[..., None, None, :], running)
        for layer, (width, skip) in enumerate(zip(WIDTHS[-2::-1], reversed(skips[1:]), strict=True)):
            h = jnp.concatenate([h, skip], axis=-1)
            h = block(width * self.features, stride=2, padding=1, name=f"layer_{layer}")(h, running)
        h = jnp.concatenate([h, skips[0]], axis=-1)
        return Conv(self.output_channels, 4, 2, 1, transpose=True, dtype=self.dtype, name="outputs")(h)
