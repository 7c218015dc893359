"""SVG-LP, the video model: `batch_norm`, `layers`, `vgg` and `dcgan`, `lstm`, `dynamics`, `steps`, `model`, upwards."""

from calibrax.models.svg.model import SVG, Memory
from calibrax.models.svg.steps import step_noise

__all__ = ["SVG", "Memory", "step_noise"]
