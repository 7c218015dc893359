"""A mixture of Gaussians with full covariances, fitted by EM: a density to evaluate on draws that it has not seen."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

LOG_2PI = math.log(2 * math.pi)
NUM_STEPS = 60  # of EM
BLOCK_SIZE = 1024  # draws whose densities are in memory together


class Mixture(NamedTuple):
    """K Gaussians in D dimensions."""

    log_weight: jax.Array  # [K]
    mean: jax.Array  # [K, D]
    inverse: jax.Array  # [K, D, D], of the Cholesky factors of the covariances


def fit_mixture(key: jax.Array, y: np.ndarray, num_fit: int, count: int) -> Mixture:
    """EM on the first `num_fit` of the draws y [n, D], from `count` of them as means, and from unit covariances."""
    size = y.shape[1]
    starts = np.asarray(jax.random.choice(key, num_fit, (count,), replace=False))
    identities = np.tile(np.eye(size, dtype=np.float32), (count, 1, 1))
    start = Mixture(jnp.full((count,), -math.log(count), jnp.float32), jnp.asarray(y[starts]), jnp.asarray(identities))
    seen = (np.arange(len(y)) < num_fit).astype(np.float32)  # as weights, so that all fits share one compiled shape
    return _expectation_maximization(start, blocks(y, BLOCK_SIZE), blocks(seen, BLOCK_SIZE))


@jax.jit
def _expectation_maximization(start: Mixture, y: jax.Array, seen: jax.Array) -> Mixture:
    count, size = start.mean.shape
    identity = start.inverse
    prior_scale = identity / count ** (2 / size)  # of Fraley and Raftery 2007, for draws of unit covariance
    prior_count = size + 2

    def step(mixture, _):
        def add_block(sums, block):
            y, seen = block
            share = jax.nn.softmax(_log_joint(mixture, y), axis=1) * seen[:, None]
            outer = jnp.einsum("nk,nd,ne->kde", share, y, y, precision="highest")
            moments = (jnp.sum(share, axis=0), jnp.matmul(share.T, y, precision="highest"), outer)
            return jax.tree.map(jnp.add, sums, moments), None

        empty = jax.tree.map(jnp.zeros_like, (mixture.log_weight, mixture.mean, mixture.inverse))
        (number, total, outer), _ = lax.scan(add_block, empty, (y, seen))
        number = number + 1e-6  # a component without draws keeps a small weight
        mean = total / number[:, None]
        scatter = outer - mean[:, :, None] * total[:, None, :] + prior_scale
        factor = jnp.linalg.cholesky(scatter / (number + prior_count + size + 2)[:, None, None])
        inverse = jax.scipy.linalg.solve_triangular(factor, identity, lower=True)
        return Mixture(jnp.log(number / jnp.sum(number)), mean, inverse), None

    return lax.scan(step, start, length=NUM_STEPS)[0]


def _log_joint(mixture: Mixture, y: jax.Array) -> jax.Array:
    """log weight_k + log N(y; mean_k, covariance_k), [n, K]."""
    error = jnp.einsum("kde,nke->nkd", mixture.inverse, y[:, None] - mixture.mean[None], precision="highest")
    log_det = jnp.sum(jnp.log(jnp.diagonal(mixture.inverse, axis1=1, axis2=2)), axis=1)
    constant = mixture.log_weight + log_det - 0.5 * y.shape[1] * LOG_2PI
    return constant[None] - 0.5 * jnp.sum(jnp.square(error), axis=2)


@jax.jit
def _log_density_of_blocks(mixture: Mixture, y: jax.Array) -> jax.Array:
    return lax.map(lambda block: jax.nn.logsumexp(_log_joint(mixture, block), axis=1), y)


def log_density(mixture: Mixture, y: np.ndarray) -> np.ndarray:
    """log g(y), [n], float64."""
    log_density = _log_density_of_blocks(mixture, blocks(y, BLOCK_SIZE))
    return np.asarray(log_density, np.float64).reshape(-1)[: len(y)]


def blocks(array: np.ndarray, size: int, fill: int = 0) -> np.ndarray:
    """[N, ...] as [N / size, size, ...], padded with `fill`."""
    missing = -len(array) % size
    padded = np.pad(array, [(0, missing)] + [(0, 0)] * (array.ndim - 1), constant_values=fill)
    return padded.reshape(-1, size, *array.shape[1:])
