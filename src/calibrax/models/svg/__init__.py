"""SVG-LP, the video model: `model` joins a `backbone` (encoder and decoder) with `dynamics` (LSTMs) over `steps`."""

from calibrax.models.svg.model import SVG, Memory
from calibrax.models.svg.steps import step_noise

__all__ = ["SVG", "Memory", "step_noise"]
