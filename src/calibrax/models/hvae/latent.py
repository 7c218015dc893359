"""A layer of latents: diagonal Gaussians, draws from them, and the KL of a draw."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.hvae.weight_norm import WeightNormConv, WeightNormDense

# Functions from a head's raw output to the log variance.
LOG_VAR = {"softplus": nn.softplus, "tanh": jnp.tanh, "none": lambda raw: raw}


class Gaussian(NamedTuple):
    """A diagonal Gaussian over one layer's latents."""

    mean: jax.Array  # [B, H, W, N] or [B, N], float32
    log_var: jax.Array  # the same


class Latent(NamedTuple):
    """A draw from one layer's posterior: z = mean + exp(log_var / 2)·noise."""

    z: jax.Array  # [B, H, W, N] or [B, N], float32
    noise: jax.Array  # the same, standard normal
    mean: jax.Array
    log_var: jax.Array


def draw(gaussian: Gaussian, noise: jax.Array) -> Latent:
    """The draw that this standard normal noise makes."""
    return Latent(gaussian.mean + jnp.exp(0.5 * gaussian.log_var) * noise, noise, *gaussian)


def sampled_kl(latent: Latent, prior: Gaussian) -> jax.Array:
    """log q(z) - log p(z) of the one draw z ~ q, summed over the latents of each example: [B], nats.

    With z = μ_q + σ_q·ε and δ = (z - μ_p)/σ_p - ε = (μ_q - μ_p)/σ_p + (σ_q/σ_p - 1)·ε, a dimension contributes
    δ·(ε + δ/2) - log(σ_q/σ_p). This has no difference of squares, and so stays exact if the posterior is close to the
    prior.
    """
    log_ratio = 0.5 * (latent.log_var - prior.log_var)
    shift = (latent.mean - prior.mean) * jnp.exp(-0.5 * prior.log_var) + jnp.expm1(log_ratio) * latent.noise
    kl = shift * (latent.noise + 0.5 * shift) - log_ratio
    return jnp.sum(kl, axis=tuple(range(1, kl.ndim)))


class GaussianHead(nn.Module):
    """From features to a Gaussian over a layer's latents.

    The Gaussian is float32, whatever the dtype of the computation.
    """

    latents: int  # channels N of a latent map, or length N of a latent vector
    kernel_size: int | None  # of the convolution to a latent map; None for a linear layer to a latent vector
    log_var: str = "softplus"  # a key of `LOG_VAR`
    dtype: Any = None
    axis_name: str | None = None  # as in `WeightNormConv`

    @nn.compact
    def __call__(self, h: jax.Array) -> Gaussian:
        options: Any = {"dtype": self.dtype, "axis_name": self.axis_name, "name": "parameters"}
        h = nn.elu(h)
        if self.kernel_size is None:
            raw = WeightNormDense(2 * self.latents, **options)(h.reshape(h.shape[0], -1))
        else:
            raw = WeightNormConv(2 * self.latents, self.kernel_size, **options)(h)
        mean, raw = jnp.split(raw.astype(jnp.float32), 2, axis=-1)
        return Gaussian(mean, LOG_VAR[self.log_var](raw))
