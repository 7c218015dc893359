"""The hierarchical VAE: `spec` (sizes), `block`, `latent`, `stage`, `model`, upwards in this order."""

from calibrax.models.hvae.latent import Gaussian, Latent
from calibrax.models.hvae.model import HVAE
from calibrax.models.hvae.spec import CIFAR_STAGES, DENSE_STAGES, StageSpec

__all__ = ["CIFAR_STAGES", "DENSE_STAGES", "HVAE", "Gaussian", "Latent", "StageSpec"]
