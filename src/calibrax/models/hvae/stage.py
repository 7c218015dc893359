"""One layer of latents, with the blocks that lead to its posterior and those that lead from it to the data."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.hvae.block import GatedBlock
from calibrax.models.hvae.latent import Gaussian, GaussianHead
from calibrax.models.hvae.noise import dropout_masks
from calibrax.models.hvae.spec import StageSpec, latent_shape
from calibrax.models.hvae.weight_norm import WeightNormDense


class Stage(nn.Module):
    """The Gaussians q(z_l | z_{l-1}, h_{l-1}) and p(z_l | d_{l+1}), and the blocks that give h_l and d_l.

    The last six attributes are as in `HVAE`.
    """

    spec: StageSpec
    layer: int  # l, which is 0 at the bottom; the first inference block there reads the image and is not residual
    features: tuple[int, int, int]  # (height, width, filters) of this stage's features h_l
    features_below: tuple[int, int, int] | None = None  # the same of the stage below; unused at the bottom
    num_blocks: int = 3
    log_var: str = "softplus"
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = None
    axis_name: str | None = None

    def setup(self):
        spec, options = self.spec, {"dtype": self.dtype, "axis_name": self.axis_name}
        block: Any = nn.remat(GatedBlock) if self.remat else GatedBlock
        sizes = (spec.filters, spec.kernel_size)
        strides = (self.num_blocks - 1) * [1] + [spec.stride]
        self.inference = [
            block(*sizes, stride, residual=(self.layer, j) != (0, 0), dropout=self.dropout, **options)
            for j, stride in enumerate(strides)
        ]
        self.generative = [
            block(*sizes, stride, transpose=True, residual=j > 0, **options) for j, stride in enumerate(strides[::-1])
        ]
        self.posterior_head = GaussianHead(spec.latents, spec.latent_kernel, self.log_var, **options)
        self.prior_head = GaussianHead(spec.latents, spec.latent_kernel, self.log_var, **options)
        # Called only if the latents are vectors.
        self.features_of_latent = WeightNormDense(math.prod(self.features), **options)
        self.features_of_latent_below = WeightNormDense(math.prod(self.features_below or ()), **options)

    def infer(
        self, below: jax.Array, skip: jax.Array | None = None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, Gaussian]:
        """h_l [B, *features] and the posterior of z_l, from the image or z_{l-1} below and the skip h_{l-1}, if any.

        Every block reads the skip. The keys [B] of the examples are for dropout; None for no dropout.
        """
        h = below
        if h.ndim == 2:
            h = self.features_of_latent_below(h).reshape(-1, *(self.features_below or ()))
        masks = self.num_blocks * [None]
        if keys is not None and self.dropout > 0:  # drawn for all blocks at once; dropout acts before the stride
            shape = (self.num_blocks, *h.shape[1:3], self.spec.filters)
            masks = list(dropout_masks(keys, self.layer, shape, self.dropout).swapaxes(0, 1))
        for block, mask in zip(self.inference, masks, strict=True):
            h = block(h, skip, mask)
        return h, self.posterior_head(h)

    def prior(self, above: jax.Array | None, batch_size: int) -> Gaussian:
        """The prior of z_l given `above`, which is d_{l+1}; N(0, I) at the top, where `above` is None."""
        if above is not None:
            return self.prior_head(above)
        zeros = jnp.zeros((batch_size, *latent_shape(self.spec, self.features)))
        return Gaussian(zeros, zeros)

    def generate(self, z: jax.Array, skips: Sequence[jax.Array] | None = None) -> list[jax.Array]:
        """The outputs of all blocks for z_l, each of the size of the features below; the last one is d_l.

        Block j reads the j-th of the skips, the outputs of the stage above, if there are any.
        """
        d = z if z.ndim == 4 else self.features_of_latent(z).reshape(-1, *self.features)
        outputs = []
        for j, block in enumerate(self.generative):
            d = block(d, None if skips is None else skips[j])
            outputs.append(d)
        return outputs
