"""Flax Linen models of images and videos; `interface` says what each of them offers."""

from calibrax.models.conv_vae import ConvVAE
from calibrax.models.hvae import CIFAR_STAGES, DENSE_STAGES, HVAE, StageSpec
from calibrax.models.interface import Forward
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
