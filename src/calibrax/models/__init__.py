"""Flax Linen models: `model(x, key, train) -> (outputs, kl)` and `generate(key, num, temperature) -> outputs`.

`kl` is [B], or [B, L] of a model of L latent layers. A model whose posterior is one Gaussian has `encode(x)` and
`decode(z)` besides; without these, `kl` is that of the one draw, log q(z | x) - log p(z).
"""

from calibrax.models.conv_vae import ConvVAE, Forward
from calibrax.models.hvae import CIFAR_STAGES, DENSE_STAGES, HVAE, StageSpec
from calibrax.models.layers import Conv, ConvTranspose, Dense, conv, conv_transpose
from calibrax.models.svg import SVG

__all__ = [
    "CIFAR_STAGES",
    "DENSE_STAGES",
    "HVAE",
    "SVG",
    "Conv",
    "ConvTranspose",
    "ConvVAE",
    "Dense",
    "Forward",
    "StageSpec",
    "conv",
    "conv_transpose",
]
