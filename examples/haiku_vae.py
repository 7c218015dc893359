"""A VAE in Haiku. The likelihood's running average is a part of Haiku's state, as those of `hk.BatchNorm` are.

    python examples/haiku_vae.py --data street-digits --steps 300

Writes the parameters and the state to `haiku_vae.pickle`.
"""

import argparse
import pickle
from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax

import calibrax as cx
from calibrax import data
from calibrax.objectives import gaussian_kl

FILE = Path("haiku_vae.pickle")
BATCH_SIZE, LATENTS, WIDTH = 64, 32, 256
OPTIMIZER = optax.adam(1e-3)


class Decode(hk.Module):
    """A likelihood without trained parameters, as the last layer of a decoder."""

    def __init__(self, likelihood, name=None):
        super().__init__(name)
        self.likelihood = likelihood

    def __call__(self, outputs, x, is_training):
        params, initial = self.likelihood.init(x.shape[1:])
        state = hk.get_state("average", (), init=lambda *_: initial)
        nll, stats = self.likelihood.nll(params, state, outputs, x, train=is_training)
        if is_training:
            hk.set_state("average", self.likelihood.update(state, stats))
        return nll, stats


@hk.transform_with_state
def vae(x, is_training):
    """-ELBO of images [B, H, W, C], uint8, in nats per image, and the stats of the likelihood with the outputs."""
    x = x / 255
    h = jax.nn.relu(hk.Linear(WIDTH)(hk.Flatten()(x)))
    mean, log_var = jnp.split(hk.Linear(2 * LATENTS)(h), 2, axis=-1)
    z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(hk.next_rng_key(), mean.shape)
    h = jax.nn.relu(hk.Linear(WIDTH)(z))
    outputs = hk.Reshape(x.shape[1:])(hk.Linear(x[0].size)(h))
    nll, stats = Decode(cx.optimal_sigma())(outputs, x, is_training)
    return jnp.mean(nll + gaussian_kl(mean, log_var)), {**stats, "outputs": outputs}


@jax.jit
def train_step(params, state, opt_state, key, x):
    def loss(params):
        (value, stats), new_state = vae.apply(params, state, key, x, is_training=True)
        return value, (stats, new_state)

    (value, (stats, state)), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = OPTIMIZER.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), state, opt_state, value, jnp.exp(stats["log_sigma"])


@jax.jit
def evaluate(params, state, key, x):
    return vae.apply(params, state, key, x, is_training=False)[0][0]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="street-digits")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)
    images = data.load(args.data)
    params, state = vae.init(jax.random.key(0), images.train[:BATCH_SIZE], is_training=False)
    opt_state = OPTIMIZER.init(params)

    order = np.random.default_rng(0)
    for step in range(1, args.steps + 1):
        batch = images.train[order.integers(len(images.train), size=BATCH_SIZE)]
        key = jax.random.fold_in(jax.random.key(1), step)
        params, state, opt_state, value, sigma = train_step(params, state, opt_state, key, batch)
        if step % 50 == 0 or step == args.steps:
            print(f"step {step}: -ELBO {value:.1f} nats per image, sigma {sigma:.4f}")

    print(f"test: -ELBO {evaluate(params, state, jax.random.key(2), images.test[:1000]):.1f} nats per image")
    FILE.write_bytes(pickle.dumps(jax.device_get((params, state))))
    return params, state


if __name__ == "__main__":
    main()
