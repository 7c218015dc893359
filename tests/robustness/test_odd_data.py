"""Every decoder on data that says next to nothing: constant images, a single one, noise, one example, one pixel."""

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
from scipy.optimize import minimize_scalar
from scipy.special import entr

from calibrax.likelihoods._base import as_unit
from calibrax.likelihoods._logistic_mixture import MIN_LOG_SCALE
from calibrax.objectives import gaussian_kl
from calibrax.runs import LikelihoodSettings
from calibrax.runs.presets import LIKELIHOODS
from calibrax.training import create_train_state, train_step

STEPS, LATENTS = 1000, 2
KEY = jax.random.key(1)
DISCRETE = {"bernoulli", "categorical", "bitwise-categorical", "logistic-mixture"} | {
    name for name in LIKELIHOODS if name.startswith(("discretized", "continuous"))
}


class TinyVAE(nn.Module):
    """Linear, its noise uniform: bits of the keys themselves, which costs nothing to compile."""

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


def likelihood_of(name):
    return LikelihoodSettings(name, decay=0.9).make()


def setting_of(name, channels=3):
    likelihood = likelihood_of(name)
    return {
        "model": TinyVAE(likelihood.output_channels(channels)),
        "likelihood": likelihood,
        "optimizer": optax.adam(optax.cosine_decay_schedule(0.03, STEPS)),
    }


@functools.cache
def trainer(name):
    """Trains on [STEPS, B, ...] batches; then the test-time nll, mean and samples of the last. Compiled per shape."""

    @jax.jit
    def run(batches):
        setting = setting_of(name, batches.shape[-1])
        likelihood = setting["likelihood"]
        state = create_train_state(jax.random.key(0), batches[0], **setting)
        state, history = jax.lax.scan(lambda state, x: train_step(state, x, KEY, **setting), state, batches)
        outputs, _ = setting["model"].apply({"params": state.params["model"]}, batches[-1], jax.random.key(2))
        args = state.params["likelihood"], state.likelihood_state, outputs
        nll, stats = likelihood.nll(*args, batches[-1], train=False)
        draws = likelihood.mean(*args), likelihood.sample(jax.random.key(3), *args)
        return {"state": state, "history": history, "nll": nll, "stats": stats, "draws": draws}

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


def bound(name, levels):
    """What the nll of an image of these levels tends to, nats: its infimum, but where a comment says otherwise."""
    x, ends = levels / 255.0, (levels == 0) | (levels == 255)
    floor = 0.5 * math.log(2 * math.pi) - 6  # a Gaussian of the least log σ
    each = {
        "gaussian": 0.5 * math.log(2 * math.pi),
        "beta-gaussian": 0.5 * math.log(math.pi),  # σ² = β/2 = 1/2
        "shared-sigma": -math.inf,
        "pixel-sigma": floor,
        "student-t": floor,  # as the degrees of freedom grow
        "laplace": -math.inf,
        "optimal-laplace": math.log(2) - 6,
        "bernoulli": entr(x) + entr(1 - x),
        "continuous-bernoulli": np.where(ends, -math.inf, np.vectorize(continuous_bernoulli_bound)(x)),
        "categorical": 0.0,
        "bitwise-categorical": 0.0,
        # The least scale leaves some of a bin's mass outside, though not of an open bin's.
        "logistic-mixture": np.where(ends, 0.0, -math.log(math.tanh(math.exp(-MIN_LOG_SCALE) / 255 / 4))),
        # No infimum: from σ = 1 the mass of an open bin, which lies on one side of the mean, grows with σ to a half.
        "discretized-gaussian": np.where(ends, math.log(2), 0.0),
        "discretized-logistic": np.where(ends, math.log(2), 0.0),
    }
    return np.sum(np.broadcast_to(each.get(name, floor), levels.shape))


def continuous_bernoulli_bound(x):
    def nll(logit):
        return logit * (0.5 - x) + math.log(math.sinh(logit / 2) / (logit / 2))

    return minimize_scalar(nll, bounds=(-500, 500), method="bounded", options={"xatol": 1e-6}).fun


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_training_stays_finite_and_fits_what_does_not_change(name, shape, data):
    batches = batches_of(data, SHAPES[shape])
    run = trainer(name)(batches)
    history, (mean, draws) = run["history"], run["draws"]
    chex.assert_tree_all_finite(run)
    assert history["skipped"].sum() == 0
    assert run["state"].step == STEPS
    assert 0 <= mean.min() <= mean.max() <= 1
    assert name not in DISCRETE or 0 <= draws.min() <= draws.max() <= 1
    if data != "noise":
        image, first, last = batches[0, 0], history["distortion"][0], run["nll"].mean()
        least = bound(name, image)
        assert history["loss"][-1] < history["loss"][0]
        assert min(last, history["distortion"].min()) > least - 1e-4
        assert last < (first - image.size if least == -math.inf else least + 0.25 * (first - least))
