"""The gated residual block, of which both the inference and the generative path are made."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from calibrax.models.hvae.weight_norm import WeightNormConv


class GatedBlock(nn.Module):
    """y = a·sigmoid(b) + shortcut(x), with (a, b) = conv(dropout(ELU(conv(ELU(x)) + aux_conv(ELU(aux))))).

    The shortcut is x itself. If the block has a stride, x first passes a 3×3 average pool, which counts padding as
    zeros; if x has more channels than the block, it is cut to the block's. There is no shortcut if x has fewer
    channels, or if the block enlarges the image. The auxiliary input passes a 1×1 convolution. If it is larger or
    smaller than x, that convolution has the block's kernel size and the stride or transposed stride that makes it fit.

    References:
      vlievin/biva-pytorch (ba37aca), `biva/layers/block.py`; Maaløe et al. 2019, appendix.
    """

    features: int  # output channels
    kernel_size: int  # of both convolutions
    stride: int = 1  # of the second convolution
    transpose: bool = False  # whether the stride enlarges the image instead of reducing it
    residual: bool = True  # False leaves out the ELU on x and the shortcut, for inputs that are images or latents
    dropout: float = 0.0  # the rate with which the mask of a call was drawn
    dtype: Any = None  # this and the axis as in `WeightNormConv`
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, aux: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
        """[B, H, W, in] -> [B, H', W', features].

        Args:
          x: the block's input.
          aux: [B, H'', W'', any], the auxiliary input, its sides a whole multiple or fraction of H and W; or None.
          mask: [B, H, W, features], False where dropout sets a zero; None for no dropout.

        Raises:
          ValueError: if the auxiliary input does not fit.
        """
        x = x.astype(self.dtype or x.dtype)
        y = self._conv(self.features, self.kernel_size, name="conv_1")(nn.elu(x) if self.residual else x)
        if aux is not None:
            y = y + self._aux_conv(aux.shape, x.shape)(nn.elu(aux.astype(x.dtype)))
        y = nn.elu(y)
        if mask is not None:
            y = jnp.where(mask, y / (1 - self.dropout), 0.0)
        enlarges = self.transpose and self.stride > 1
        y = self._conv(2 * self.features, self.kernel_size, self.stride, enlarges, name="conv_2")(y)
        value, gate = jnp.split(y, 2, axis=-1)
        y = value * nn.sigmoid(gate)
        if not self.residual or enlarges or x.shape[-1] < self.features:
            return y
        shortcut = x[..., : self.features]
        if self.stride > 1:
            shortcut = nn.pooling.pool(shortcut, 0.0, lax.add, (3, 3), (self.stride, self.stride), "SAME") / 9
        return y + shortcut

    def _conv(self, features, kernel_size, stride=1, transpose=False, *, name):
        return WeightNormConv(
            features, kernel_size, stride, transpose, dtype=self.dtype, axis_name=self.axis_name, name=name
        )

    def _aux_conv(self, aux_shape, shape):
        """The convolution that brings the auxiliary input to the size of x."""
        sizes, aux_sizes = shape[1:3], aux_shape[1:3]
        if aux_sizes == sizes:
            return self._conv(self.features, 1, name="conv_aux")
        larger = aux_sizes > sizes
        big, small = (aux_sizes, sizes) if larger else (sizes, aux_sizes)
        stride = big[0] // small[0]
        if tuple(n * stride for n in small) != tuple(big):
            raise ValueError(f"aux has shape {aux_shape}; expected a whole multiple or fraction of x's {sizes}")
        return self._conv(self.features, self.kernel_size, stride, not larger, name="conv_aux")
