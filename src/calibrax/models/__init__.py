"""Flax Linen models with one interface: `model(x, key) -> (outputs, kl)` and `generate(key, num) -> outputs`."""

from calibrax.models.conv_vae import ConvVAE, Forward
from calibrax.models.layers import Conv, ConvTranspose, Dense, conv, conv_transpose

__all__ = ["Conv", "ConvTranspose", "ConvVAE", "Dense", "Forward", "conv", "conv_transpose"]
