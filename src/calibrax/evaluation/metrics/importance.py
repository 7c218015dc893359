"""The importance-weighted bound on log p(x), by many posterior samples of each image (Burda et al. 2016)."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from calibrax.evaluation.metrics.likelihood import example_batches
from calibrax.likelihoods import Likelihood

PyTree = Any
# The examples' keys -> the decoder's outputs for one draw z of the posterior, and log p(z) - log q(z | x) [B].
Draw = Callable[[jax.Array], tuple[Any, jax.Array]]


def importance_bounds(
    model: nn.Module,
    likelihood: Likelihood,
    params: PyTree,
    likelihood_state: PyTree,
    images: np.ndarray,
    *,
    key: jax.Array,
    num_samples: int = 64,
    batch_size: int = 256,
) -> np.ndarray:
    """log (1/K) sum_k p(x, z_k) / q(z_k | x) of each image, z_k from the posterior.

    A lower bound on log p(x) in expectation, tighter as K grows; with K = 1 the one-sample ELBO whose KL is sampled
    too. One sample of a batch is decoded at a time, so memory does not depend on K.

    Args:
      model: a Linen module with methods `encode(x) -> (mean, log_var)` and `decode(z) -> outputs`; or one whose
        `model(x, keys) -> (outputs, kl)` gives the KL of the draw, log q(z | x) - log p(z), as `HVAE` does.
      likelihood: the decoder's distribution.
      params: `{"model": ..., "likelihood": ...}`.
      likelihood_state: its running average.
      images: [N, ...] uint8 or float data.
      key: for the samples; each image folds in its index.
      num_samples: K, at least 1.
      batch_size: images at once.

    Returns:
      [N] float64, nats.

    Raises:
      ValueError: if there are no images or num_samples is under 1.

    References:
      Burda et al. 2016, equation 8; `objectives.importance_bound` is the formula.
    """
    if len(images) == 0:
        raise ValueError("images is empty; expected at least one example")
    if not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1, a whole number")
    bound = _bound_function(model, likelihood, num_samples)
    batches = example_batches(images, key, batch_size)
    values = [np.asarray(bound(params, likelihood_state, batch, keys), np.float64) for batch, keys in batches]
    return np.concatenate(values)


@functools.lru_cache(maxsize=8)
def _bound_function(model: nn.Module, likelihood: Likelihood, num_samples: int) -> Callable[..., jax.Array]:
    weights_of = _one_gaussian if hasattr(model, "encode") else _of_the_draw

    @jax.jit
    def bound(params, state, x, keys):
        draw = weights_of(model, {"params": params["model"]}, x)

        def add_sample(log_sum, k):
            outputs, log_ratio = draw(jax.vmap(jax.random.fold_in, (0, None))(keys, k))
            nll, _ = likelihood.nll(params["likelihood"], state, outputs, x, train=False)
            return jnp.logaddexp(log_sum, log_ratio - nll), None

        start = jnp.full(x.shape[0], -jnp.inf, jnp.float32)
        log_sum, _ = lax.scan(add_sample, start, jnp.arange(num_samples))
        return log_sum - math.log(num_samples)

    return bound


def _one_gaussian(model: nn.Module, variables: PyTree, x: jax.Array) -> Draw:
    """Encodes once for all samples."""
    encoded: Any = model.apply(variables, x, method="encode")
    mean, log_var = encoded

    def draw(keys):
        noise = jax.vmap(lambda one: jax.random.normal(one, mean.shape[1:]))(keys)
        z = mean + jnp.exp(0.5 * log_var) * noise
        # log p(z) - log q(z | x): the constants cancel.
        log_ratio = 0.5 * jnp.sum(jnp.square(noise) + log_var - jnp.square(z), tuple(range(1, z.ndim)))
        return model.apply(variables, z, method="decode"), log_ratio

    return draw


def _of_the_draw(model: nn.Module, variables: PyTree, x: jax.Array) -> Draw:
    """Of a model with several layers, where the latents above depend on the draws below."""

    def draw(keys):
        forward: Any = model.apply(variables, x, keys)
        outputs, kl = forward
        return outputs, -jnp.sum(kl.reshape(kl.shape[0], -1), axis=1)

    return draw
