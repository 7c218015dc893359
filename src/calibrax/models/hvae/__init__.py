"""The hierarchical VAE. `model` is made of `stage`s, a stage of `block`s and `latent` heads; `spec` holds the sizes."""

from calibrax.models.hvae.latent import Gaussian, Latent
from calibrax.models.hvae.model import HVAE
from calibrax.models.hvae.spec import CIFAR_STAGES, DENSE_STAGES, StageSpec

__all__ = ["CIFAR_STAGES", "DENSE_STAGES", "HVAE", "Gaussian", "Latent", "StageSpec"]
