"""The importance-weighted bound on log p(x), by many posterior samples of each image (Burda et al. 2016)."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from calibrax.evaluation.metric import Metric, Record, Subject, with_stderr
from calibrax.evaluation.metrics.likelihood import mean_stderr
from calibrax.evaluation.trained import PyTree, Trained, check_not_empty, example_batches
from calibrax.likelihoods import Likelihood

# The examples' keys -> the decoder's outputs for one draw z of the posterior, and log p(z) - log q(z | x) [B].
Draw = Callable[[jax.Array], tuple[Any, jax.Array]]


def importance_bounds(
    trained: Trained, images: np.ndarray, *, key: jax.Array, num_samples: int = 64, batch_size: int = 256
) -> np.ndarray:
    """log (1/K) sum_k p(x, z_k) / q(z_k | x) of each image, z_k from the posterior.

    A lower bound on log p(x) in expectation, tighter as K grows. With K = 1 it is the one-sample ELBO with a sampled
    KL. A batch decodes one sample at a time, so memory does not depend on K.

    Args:
      trained: its model has methods `encode(x) -> (mean, log_var)` and `decode(z) -> outputs`; or its
        `model(x, keys) -> (outputs, kl)` gives the KL of the draw, log q(z | x) - log p(z), as `HVAE` does.
      images: [N, ...] uint8 or float data.
      key: for the samples; each image folds in its index.
      num_samples: K, at least 1.
      batch_size: images per batch.

    Returns:
      [N] float64, nats.

    Raises:
      ValueError: if there are no images or num_samples is under 1.

    References:
      Burda et al. 2016, equation 8; `objectives.importance_bound` is the formula.
    """
    check_not_empty(images)
    if not isinstance(num_samples, int | np.integer) or num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1, a whole number")
    bound = _bound_function(trained.model, trained.likelihood, num_samples)
    batches = example_batches(images, key, batch_size)
    args = (trained.params, trained.likelihood_state)
    return np.concatenate([np.asarray(bound(*args, batch, keys), np.float64) for batch, keys in batches])


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
    """Draws from a Gaussian posterior, which is encoded once for all samples."""
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
    """Draws from a model with several layers, whose upper latents depend on the draws below."""

    def draw(keys):
        forward: Any = model.apply(variables, x, keys)
        outputs, kl = forward
        return outputs, -jnp.sum(kl.reshape(kl.shape[0], -1), axis=1)

    return draw


@dataclasses.dataclass(frozen=True)
class ImportanceOptions:
    """Importance-weighted bound of images."""

    importance_samples: int = 64
    """Posterior samples of the importance-weighted bound; 0: none."""

    def __post_init__(self):
        if self.importance_samples < 0:
            raise ValueError(f"--importance-samples is {self.importance_samples}; expected 0 or more")


def _measure(options: ImportanceOptions, subject: Subject) -> Record:
    num = options.importance_samples
    bounds = importance_bounds(subject.trained, subject.examples, key=subject.key, num_samples=num)
    return {"neg_log_p": float(-bounds.mean()), "stderr": mean_stderr(bounds), "samples": num, "images": len(bounds)}


def _lines(record: Record) -> Iterator[str]:
    bound = with_stderr(record["neg_log_p"], record["stderr"], "{:.1f}")
    yield f"-log p, {record['samples']} importance samples: {bound} nats"


METRIC = Metric(
    "importance",
    _measure,
    _lines,
    progress=lambda options: f"importance-weighted bound, {options.importance_samples} samples",
    options=ImportanceOptions,
    noun="images",
    applies=lambda options, subject: options.importance_samples > 0,
)
