"""The importance-weighted bound of a linear Gaussian model, whose log p(x) is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy import stats as sps

import calibrax as cx
from calibrax.evaluation import Trained
from calibrax.evaluation.metrics.importance import importance_bounds

D, LATENTS, SIGMA = 6, 2, 0.5
WEIGHTS = np.random.default_rng(0).normal(size=(LATENTS, D))
X = (np.random.default_rng(1).normal(size=(40, LATENTS)) @ WEIGHTS).astype(np.float32)
PRECISION = np.eye(LATENTS) + WEIGHTS @ WEIGHTS.T / SIGMA**2


class Linear(nn.Module):
    """Decodes linearly; encodes with the true posterior's mean, and its variance stretched by exp(`stretch`)."""

    stretch: float = 0.0

    def encode(self, x):
        weights, precision = jnp.asarray(ROTATED, jnp.float32), jnp.asarray(DIAGONAL, jnp.float32)
        mean = x @ weights.T / (SIGMA**2 * precision)[None]
        return mean, jnp.broadcast_to(self.stretch - jnp.log(precision)[None], mean.shape)

    def decode(self, z):
        return z @ jnp.asarray(ROTATED, jnp.float32)


# Latents turned so that the posterior is diagonal, as the encoder's is.
DIAGONAL, TURN = np.linalg.eigh(PRECISION)
ROTATED = TURN.T @ WEIGHTS


def bounds(model, num_samples, **options):
    likelihood = cx.gaussian(SIGMA, link="identity")
    params = {"model": {}, "likelihood": {}}
    trained = Trained(model, likelihood, params, {})
    return importance_bounds(trained, X, key=jax.random.key(0), num_samples=num_samples, **options)


class Drawn(nn.Module):
    """The same model, but it returns only the KL of its draw."""

    def setup(self):
        self.linear = Linear()

    def __call__(self, x, keys, train=False):
        mean, log_var = self.linear.encode(x)
        noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(keys)
        z = mean + jnp.exp(0.5 * log_var) * noise
        kl = 0.5 * (jnp.square(z) - jnp.square(noise) - log_var)
        return self.linear.decode(z), kl  # a layer a dimension


def log_density():
    return sps.multivariate_normal(np.zeros(D), WEIGHTS.T @ WEIGHTS + SIGMA**2 * np.eye(D)).logpdf(X)


def test_with_the_true_posterior_every_sample_gives_log_p():
    for model in (Linear(), Drawn()):
        for num_samples in (1, 7):
            np.testing.assert_allclose(bounds(model, num_samples), log_density(), rtol=1e-4, atol=1e-4)


def test_more_samples_are_tighter_and_approach_log_p():
    means = [bounds(Linear(1.0), k).mean() for k in (1, 8, 512)]
    assert means[0] < means[1] < means[2]
    assert abs(means[2] - log_density().mean()) < 0.02


def test_batches_do_not_matter():
    np.testing.assert_allclose(bounds(Linear(1.0), 5, batch_size=7), bounds(Linear(1.0), 5), rtol=1e-5)


def test_mistakes():
    with pytest.raises(ValueError, match="num_samples is 0; expected at least 1"):
        bounds(Linear(), 0)
