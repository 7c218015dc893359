"""SVG-LP, the video model: `batch_norm`, `layers`, `vgg` and `dcgan`, `lstm`, `dynamics`, `steps`, `model`, upwards."""

from calibrax.models.svg.model import SVG

__all__ = ["SVG"]
