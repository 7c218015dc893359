"""SVG's VGG encoder and decoder of 64×64 frames."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.svg.layers import Conv, ConvBlock, max_pool, upsample

DEPTHS = (2, 2, 3, 3)  # convolutions of each group of the encoder, with 1, 2, 4 and 8 times the channels
WIDTHS = ((8, 8, 4), (4, 4, 2), (2, 1), (1,))  # channels of each group of the decoder, times the first group's


class VGGEncoder(nn.Module):
    """Frames to codes: four groups of 3×3 convolutions, 2×2 max-pools after each, a 4×4 convolution, tanh.

    8,689,600 parameters for three channels.

    Attributes:
      code_dim: length of the code.
      features: channels of the first group.
      dtype: of the computation; None for that of the input.
      axis_name: the mapped axis over which the batch is spread, if any.

    References:
      edenton/svg (3f19f0b), `models/vgg_64.py`.
    """

    code_dim: int
    features: int = 64
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, running: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """[B, 64, 64, C] -> [B, code_dim], and the groups' outputs before their pools: 64×64, 32×32, 16×16, 8×8.

        All may have an axis of time before.
        """
        block = functools.partial(ConvBlock, dtype=self.dtype, axis_name=self.axis_name)
        h, skips = x, []
        for group, depth in enumerate(DEPTHS):
            for layer in range(depth):
                h = block(self.features << group, 3, padding=1, name=f"group_{group}_{layer}")(h, running)
            skips.append(h)
            h = max_pool(h)
        code = block(self.code_dim, 4, activation=jnp.tanh, name="code")(h, running)
        return code.reshape(*x.shape[:-3], self.code_dim), tuple(skips)


class VGGDecoder(nn.Module):
    """Codes to frames: a 4×4 transposed convolution, then doubled in size, joined with a skip and convolved four times.

    11,822,659 parameters for three channels.

    Attributes:
      output_channels: of the result, which is linear: the likelihood applies its own link.
      features: channels of the encoder's first group.
      dtype, axis_name: as in `VGGEncoder`.

    References:
      edenton/svg (3f19f0b), `models/vgg_64.py`.
    """

    output_channels: int
    features: int = 64
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, code: jax.Array, skips: Sequence[jax.Array], running: bool = False) -> jax.Array:
        """[B, code_dim] and an encoder's skips -> [B, 64, 64, output_channels]."""
        block = functools.partial(ConvBlock, dtype=self.dtype, axis_name=self.axis_name)
        h = block(8 * self.features, 4, transpose=True, name="code")(code[..., None, None, :], running)
        for group, (widths, skip) in enumerate(zip(WIDTHS, reversed(skips), strict=True)):
            h = jnp.concatenate([upsample(h), skip], axis=-1)
            for layer, width in enumerate(widths):
                h = block(width * self.features, 3, padding=1, name=f"group_{group}_{layer}")(h, running)
        return Conv(self.output_channels, 3, padding=1, transpose=True, dtype=self.dtype, name="outputs")(h)
