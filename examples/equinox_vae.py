"""A VAE in Equinox. The likelihood's running average is an argument and a result of the training step.

    python examples/equinox_vae.py --data street-digits --steps 300

Writes the model and the average to `equinox_vae.eqx`.
"""

import argparse

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import calibrax as cx
from calibrax import data
from calibrax.objectives import gaussian_kl

FILE = "equinox_vae.eqx"
BATCH_SIZE, LATENTS, WIDTH = 64, 32, 256
LIKELIHOOD = cx.optimal_sigma()
OPTIMIZER = optax.adam(1e-3)


class VAE(eqx.Module):
    """For one image [H, W, C]; `jax.vmap` makes it one for a batch."""

    encoder: eqx.nn.MLP
    decoder: eqx.nn.MLP

    def __init__(self, size, *, key):
        keys = jax.random.split(key)
        self.encoder = eqx.nn.MLP(size, 2 * LATENTS, WIDTH, depth=1, key=keys[0])
        self.decoder = eqx.nn.MLP(LATENTS, LIKELIHOOD.output_channels(size), WIDTH, depth=1, key=keys[1])

    def __call__(self, x, key):
        mean, log_var = jnp.split(self.encoder(x.reshape(-1)), 2)
        z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
        return self.decoder(z).reshape(x.shape), mean, log_var


def neg_elbo(model, state, x, key, train):
    """-ELBO of a batch of images [B, H, W, C], uint8, in nats per image, and the stats of the likelihood."""
    x = x / 255
    outputs, mean, log_var = jax.vmap(model)(x, jax.random.split(key, len(x)))
    nll, stats = LIKELIHOOD.nll({}, state, outputs, x, train=train)  # outside of `vmap`: one sigma for the batch
    return jnp.mean(nll + gaussian_kl(mean, log_var)), stats


@eqx.filter_jit
def train_step(model, state, opt_state, x, key):
    params, static = eqx.partition(model, eqx.is_inexact_array)

    def loss(params):
        return neg_elbo(eqx.combine(params, static), state, x, key, train=True)

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
    model = eqx.apply_updates(model, updates)
    return model, LIKELIHOOD.update(state, stats), opt_state, value, jnp.exp(stats["log_sigma"])


def create(image_shape):
    """A new model, and the likelihood's state before the first step."""
    _, state = LIKELIHOOD.init(image_shape)
    return VAE(int(np.prod(image_shape)), key=jax.random.key(0)), state


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="street-digits")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)
    images = data.load(args.data)
    model, state = create(images.train.shape[1:])
    opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_inexact_array))

    order = np.random.default_rng(0)
    for step in range(1, args.steps + 1):
        batch = images.train[order.integers(len(images.train), size=BATCH_SIZE)]
        key = jax.random.fold_in(jax.random.key(1), step)
        model, state, opt_state, value, sigma = train_step(model, state, opt_state, batch, key)
        if step % 50 == 0 or step == args.steps:
            print(f"step {step}: -ELBO {value:.1f} nats per image, sigma {sigma:.4f}")

    value, _ = eqx.filter_jit(neg_elbo)(model, state, images.test[:1000], jax.random.key(2), train=False)
    print(f"test: -ELBO {value:.1f} nats per image")
    eqx.tree_serialise_leaves(FILE, (model, state))
    return model, state


if __name__ == "__main__":
    main()
