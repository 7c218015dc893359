"""SVG's encoders and decoders of 64×64 frames: the VGG and the smaller DCGAN."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.svg.layers import Conv, ConvBlock

SIZE = 64  # of frames: four halvings bring it to the 4×4 of the encoder's last convolution


class Backbone(NamedTuple):
    """The sizes of an encoder and its decoder: four groups of convolutions each.

    Group g of the encoder has 2^g times the first group's channels. Its output is a skip, which the decoder's group of
    the same size reads. With stride 1, max-pools follow the encoder's groups, and the decoder doubles its images before
    each group. With stride 2, the convolutions themselves halve and double.
    """

    depths: tuple[int, ...]  # convolutions of each group of the encoder
    widths: tuple[tuple[int, ...], ...]  # channels of the decoder's convolutions by group, times `features`
    kernel_size: int
    stride: int
    layer_name: str  # of group and layer, both from 0: the names of the parameters in checkpoints


BACKBONES = {
    "vgg": Backbone((2, 2, 3, 3), ((8, 8, 4), (4, 4, 2), (2, 1), (1,)), 3, 1, "group_{}_{}"),
    "dcgan": Backbone((1, 1, 1, 1), ((4,), (2,), (1,), ()), 4, 2, "layer_{}"),
}


class Encoder(nn.Module):
    """From frames to codes in ±1: groups of convolutions, a 4×4 convolution without padding, tanh.

    8,689,600 parameters with the VGG and 3,807,424 with the DCGAN, for three channels.

    References:
      edenton/svg (3f19f0b), `models/vgg_64.py` and `models/dcgan_64.py`; Radford et al. 2016.
    """

    backbone: str  # a key of `BACKBONES`
    code_dim: int
    features: int = 64  # channels of the first group
    dtype: Any = None  # of the computation; None for that of the input
    axis_name: str | None = None  # the mapped axis over which the batch is spread, if any

    @nn.compact
    def __call__(self, x: jax.Array, running: bool = False) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """[B, 64, 64, C] -> the codes [B, code_dim] and the skips, one per group, largest first.

        The VGG's skips are 64×64, 32×32, 16×16 and 8×8, the DCGAN's half as large. All may have an axis of time first.
        """
        depths, _, kernel_size, stride, layer_name = BACKBONES[self.backbone]
        block = functools.partial(ConvBlock, dtype=self.dtype, axis_name=self.axis_name)
        h, skips = x, []
        for group, depth in enumerate(depths):
            for layer in range(depth):
                name = layer_name.format(group, layer)
                h = block(self.features << group, kernel_size, stride, padding=1, name=name)(h, running)
            skips.append(h)
            if stride == 1:
                h = _max_pool(h)
        code = block(self.code_dim, 4, activation=jnp.tanh, name="code")(h, running)
        return code.reshape(*x.shape[:-3], self.code_dim), tuple(skips)


class Decoder(nn.Module):
    """From codes to frames: a 4×4 transposed convolution, groups of convolutions that read a skip each, and a last one.

    11,822,659 parameters with the VGG and 6,562,627 with the DCGAN, for three channels. The result is linear, as the
    likelihood applies its own link. The other attributes are as in `Encoder`.
    """

    backbone: str
    output_channels: int
    features: int = 64
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, code: jax.Array, skips: Sequence[jax.Array], running: bool = False) -> jax.Array:
        """[B, code_dim] and an encoder's skips -> [B, 64, 64, output_channels]."""
        _, widths, kernel_size, stride, layer_name = BACKBONES[self.backbone]
        block = functools.partial(ConvBlock, dtype=self.dtype, axis_name=self.axis_name)
        h = block(8 * self.features, 4, transpose=True, name="code")(code[..., None, None, :], running)
        for group, skip in enumerate(reversed(skips)):
            if stride == 1:
                h = jnp.repeat(jnp.repeat(h, 2, axis=-3), 2, axis=-2)
            h = jnp.concatenate([h, skip], axis=-1)
            for layer, width in enumerate(widths[group]):
                name, channels = layer_name.format(group, layer), width * self.features
                h = block(channels, kernel_size, stride, padding=1, transpose=stride > 1, name=name)(h, running)
        outputs = Conv(self.output_channels, kernel_size, stride, 1, transpose=True, dtype=self.dtype, name="outputs")
        return outputs(h)


def _max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 2×2 pixels: [..., H, W, C] -> [..., H/2, W/2, C].

    On a CPU the gradient of `nn.max_pool` takes 5 to 14 times as long.
    """
    *lead, height, width, channels = x.shape
    return jnp.max(x.reshape(*lead, height // 2, 2, width // 2, 2, channels), axis=(-4, -2))
