"""A convolutional VAE in Flax NNX whose last layer is `calibrax.nnx.Decode`: trained, saved, restored, sampled.

    python examples/nnx_vae.py --data street-digits --steps 300

Writes the checkpoint `nnx_vae/checkpoint` and the picture `nnx_vae/samples.png`.
"""

import argparse
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

import calibrax as cx
from calibrax import data
from calibrax.evaluation.figures.images import save_grid
from calibrax.nnx import Decode
from calibrax.objectives import gaussian_kl

FOLDER = Path("nnx_vae")
BATCH_SIZE, LATENTS, WIDTH = 64, 32, 32


class VAE(nnx.Module):
    """Images [B, H, W, C], uint8, whose sides are multiples of 4."""

    def __init__(self, image_shape, *, rngs: nnx.Rngs):
        height, width, channels = image_shape
        self.grid = grid = height // 4, width // 4, 2 * WIDTH
        conv = {"kernel_size": (4, 4), "strides": 2, "rngs": rngs}
        self.down = nnx.List([nnx.Conv(channels, WIDTH, **conv), nnx.Conv(WIDTH, 2 * WIDTH, **conv)])
        self.latent = nnx.Linear(math.prod(grid), 2 * LATENTS, rngs=rngs)
        self.grow = nnx.Linear(LATENTS, math.prod(grid), rngs=rngs)
        self.up = nnx.List([nnx.ConvTranspose(2 * WIDTH, WIDTH, **conv), nnx.ConvTranspose(WIDTH, channels, **conv)])
        self.decode = Decode(cx.optimal_sigma(), image_shape)
        self.rngs = rngs

    def __call__(self, x):
        """-ELBO of each image, [B] nats, and the stats of the likelihood."""
        h = nnx.relu(self.down[1](nnx.relu(self.down[0](x / 255))))
        mean, log_var = jnp.split(self.latent(h.reshape(len(x), -1)), 2, axis=-1)
        z = mean + jnp.exp(0.5 * log_var) * self.rngs.normal(mean.shape)
        nll, stats = self.decode(self.outputs(z), x)  # no sigmoid before it: Decode applies its own
        return nll + gaussian_kl(mean, log_var), stats

    def outputs(self, z):
        h = nnx.relu(self.grow(z)).reshape(len(z), *self.grid)
        return self.up[1](nnx.relu(self.up[0](h)))

    def sample(self, num):
        """Means of p(x | z) for z from the prior, [num, H, W, C] in [0, 1]."""
        return self.decode.mean(self.outputs(self.rngs.normal((num, LATENTS))))


@nnx.jit
def train_step(model, optimizer, x):
    def loss(model):
        neg_elbo, stats = model(x)
        return jnp.mean(neg_elbo), stats

    (neg_elbo, stats), grads = nnx.value_and_grad(loss, has_aux=True)(model)
    optimizer.update(model, grads)
    return neg_elbo, jnp.exp(stats["log_sigma"])


def save(path, model):
    """All but the random streams, as a dict of arrays."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngState))))


def restore(path, model):
    with ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(path.absolute())
    state = nnx.state(model, nnx.Not(nnx.RngState))
    nnx.replace_by_pure_dict(state, arrays)
    nnx.update(model, state)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="street-digits")
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args(argv)
    images = data.load(args.data)
    model = VAE(images.train.shape[1:], rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)

    model.train()
    order = np.random.default_rng(0)
    for step in range(1, args.steps + 1):
        batch = images.train[order.integers(len(images.train), size=BATCH_SIZE)]
        neg_elbo, sigma = train_step(model, optimizer, batch)
        if step % 50 == 0 or step == args.steps:
            print(f"step {step}: -ELBO {neg_elbo:.1f} nats per image, sigma {sigma:.4f}")

    model.eval()  # from here on, sigma is the running average
    neg_elbo, _ = nnx.jit(VAE.__call__)(model, images.test[:1000])
    print(f"test: -ELBO {neg_elbo.mean():.1f} nats per image")
    shutil.rmtree(FOLDER, ignore_errors=True)
    save(FOLDER / "checkpoint", model)
    save_grid(FOLDER / "samples.png", jax.device_get(model.sample(64)))
    return model


if __name__ == "__main__":
    main()
