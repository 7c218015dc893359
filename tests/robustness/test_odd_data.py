"""Training of every decoder on degenerate data: constant images, one repeated image, noise, one example, one pixel."""

import functools
import math
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract import has_mean
from decoders import NAMED

from calibrax.likelihoods._base import as_unit
from calibrax.objectives import gaussian_kl
from calibrax.training import create_train_state, train_step

STEPS, LATENTS = 1000, 2
KEY = jax.random.key(1)


class TinyVAE(nn.Module):
    """A linear VAE with uniform noise, made of the bits of the keys, which costs nothing to compile."""

    output_channels: int

    @nn.compact
    def __call__(self, x, key, train=False):
        keys = key if jnp.ndim(key) else jax.random.split(key, len(x))
        noise = jax.random.key_data(keys).astype(jnp.float32) / 2.0**31 - 1
        dense = functools.partial(nn.Dense, kernel_init=drawn)
        mean = dense(LATENTS)(as_unit(x, jnp.float32).reshape(len(x), -1))
        log_var = jnp.broadcast_to(self.param("log_var", nn.initializers.zeros, (1, LATENTS)), mean.shape)
        shape = (*x.shape[1:-1], self.output_channels)
        outputs = dense(math.prod(shape))(mean + math.sqrt(3) * jnp.exp(0.5 * log_var) * noise)
        return outputs.reshape(-1, *shape), gaussian_kl(mean, log_var)


def drawn(key, shape, dtype):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape) / math.sqrt(shape[0]), dtype)


def setting_of(name, channels=3):
    likelihood = NAMED[name].likelihood
    return {
        "model": TinyVAE(likelihood.output_channels(channels)),
        "likelihood": likelihood,
        "optimizer": optax.adam(optax.cosine_decay_schedule(0.03, STEPS)),
    }


@functools.cache
def trainer(name):
    """A function of [STEPS, B, ...] batches that trains on them and evaluates the last one. Compiled once per shape."""

    @jax.jit
    def run(batches):
        setting = setting_of(name, batches.shape[-1])
        likelihood = setting["likelihood"]
        state = create_train_state(jax.random.key(0), batches[0], **setting)
        state, history = jax.lax.scan(lambda state, x: train_step(state, x, KEY, **setting), state, batches)
        outputs, _ = setting["model"].apply({"params": state.params["model"]}, batches[-1], jax.random.key(2))
        args = state.params["likelihood"], state.likelihood_state, outputs
        nll, stats = likelihood.nll(*args, batches[-1], train=False)
        draws = likelihood.sample(jax.random.key(3), *args)
        mean = likelihood.mean(*args) if has_mean(likelihood) else None
        return {"state": state, "history": history, "nll": nll, "stats": stats, "mean": mean, "draws": draws}

    def trained(batches) -> dict[str, Any]:
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
            return jax.device_get(run(batches))

    return trained


SHAPES = {"batch size 1": (1, 2, 2, 3), "1x1 images": (4, 1, 1, 3)}
DATA = ("black", "white", "grey", "one image", "noise")


def batches_of(data, shape):
    """[STEPS, B, H, W, C], levels."""
    noise = np.random.default_rng(0).integers(0, 256, (STEPS, *shape), dtype=np.uint8)
    level = {"black": 0, "white": 255, "grey": 128, "one image": noise[0, 0], "noise": noise}[data]
    return np.broadcast_to(np.asarray(level, np.uint8), noise.shape)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMED)
def test_training_stays_finite_and_fits_what_does_not_change(name, shape, data):
    decoder, batches = NAMED[name], batches_of(data, SHAPES[shape])
    run = trainer(name)(batches)
    history, mean, draws = run["history"], run["mean"], run["draws"]
    chex.assert_tree_all_finite(run)
    assert history["skipped"].sum() == 0
    assert run["state"].step == STEPS
    assert mean is None or 0 <= mean.min() <= mean.max() <= 1
    assert not decoder.draws_in_unit_range or 0 <= draws.min() <= draws.max() <= 1
    if data != "noise":
        image, first, last = batches[0, 0], history["distortion"][0], run["nll"].mean()
        assert history["loss"][-1] < history["loss"][0]
        if decoder.bound is not None:
            least = np.sum(np.broadcast_to(decoder.bound(image / 255.0), image.shape))
            assert min(last, history["distortion"].min()) > least - 1e-4
            assert last < (first - image.size if least == -math.inf else least + 0.25 * (first - least))
