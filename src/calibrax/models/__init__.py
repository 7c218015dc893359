"""Flax Linen models with one interface: `model(x, key) -> (outputs, kl)` and `generate(key, num) -> outputs`."""

from calibrax.models.conv_vae import ConvVAE, Forward
from calibrax.models.hvae import CIFAR_STAGES, DENSE_STAGES, HVAE, StageSpec
from calibrax.models.layers import Conv, ConvTranspose, Dense, conv, conv_transpose

__all__ = [
    "CIFAR_STAGES",
    "DENSE_STAGES",
    "HVAE",
    "Conv",
    "ConvTranspose",
    "ConvVAE",
    "Dense",
    "Forward",
    "StageSpec",
    "conv",
    "conv_transpose",
]
