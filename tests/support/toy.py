"""A linear VAE small enough to train in a test."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from calibrax import objectives
from calibrax.training import create_train_state, train_step


class LinearVAE(nn.Module):
    """A linear Gaussian encoder with one variance per latent and a linear decoder, for any event shape."""

    event_shape: tuple[int, ...]
    output_channels: int
    latent_dim: int = 2

    @nn.compact
    def __call__(self, x, key, train=False):
        x = x.reshape(x.shape[0], -1)
        mean = nn.Dense(self.latent_dim, name="mean")(x)
        log_var = jnp.broadcast_to(
            self.param("log_var", nn.initializers.zeros, (1, self.latent_dim)), (x.shape[0], self.latent_dim)
        )
        keys = key if jnp.ndim(key) else jax.random.split(key, x.shape[0])
        noise = jax.vmap(lambda k: jax.random.normal(k, (self.latent_dim,)))(keys)
        z = mean + jnp.exp(0.5 * log_var) * noise
        out_shape = (*self.event_shape[:-1], self.output_channels)
        size = 1
        for n in out_shape:
            size *= n
        outputs = nn.Dense(size, name="decoder")(z)
        return outputs.reshape(-1, *out_shape), objectives.gaussian_kl(mean, log_var)


def replaced(tree, path, value):
    """The tree with one leaf filled with a value."""
    if not path:
        return jnp.full_like(tree, value)
    return {**tree, path[0]: replaced(tree[path[0]], path[1:], value)}


def fit_linear_vae(x, likelihood, num_latents, num_steps):
    """Train `LinearVAE` on all of x [N, D] at each step, by Adam with a falling rate; the state and all metrics."""
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, num_steps))
    model, key = LinearVAE(x.shape[1:], x.shape[1], num_latents), jax.random.key(0)
    parts = {"model": model, "likelihood": likelihood, "optimizer": optimizer}

    @jax.jit
    def fit(x):
        state = create_train_state(key, x[:1], **parts)
        return lax.scan(lambda state, _: train_step(state, x, key, **parts), state, length=num_steps)

    with jax.numpy_dtype_promotion("standard"):  # optax's Adam and schedules promote
        return fit(jnp.asarray(x))
