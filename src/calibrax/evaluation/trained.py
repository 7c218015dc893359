"""A trained model as one value, and what is done with it: reconstruct, generate, calibrate."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calibrax.likelihoods import Likelihood, calibrate
from calibrax.likelihoods._base import NoMeanError
from calibrax.training.state import target, variables_of

PyTree = Any


class Trained(NamedTuple):
    """A trained model with its likelihood; the first argument of every function that evaluates one.

    Attributes:
      model: called as `model(x, keys) -> (outputs, kl)`, kl [B], or [B, L] for L layers.
      likelihood: of whole examples.
      params: `TrainState.eval_params`: {"model": ..., "likelihood": ...}, and perhaps "model_state".
      likelihood_state: the running average.
    """

    model: nn.Module
    likelihood: Likelihood
    params: PyTree
    likelihood_state: PyTree

    def outputs(self, x: jax.typing.ArrayLike, keys: jax.Array) -> jax.Array:
        """The decoder's outputs for one posterior sample of each example; `keys` holds one key per example."""
        return forward_function(self.model)(self.params, x, keys)

    def mean(self, outputs: jax.Array) -> jax.Array:
        """E[x | z] in the data's range."""
        return self.likelihood.mean(self.params["likelihood"], self.likelihood_state, outputs)

    def shown(self, outputs: jax.Array, key: jax.Array, *, noise: bool = False) -> np.ndarray:
        """E[x | z]; or, with `noise` or if p(x | z) has no mean, a draw from p(x | z)."""
        if not noise:
            with contextlib.suppress(NoMeanError):
                return np.asarray(self.mean(outputs))
        return np.asarray(self.likelihood.sample(key, self.params["likelihood"], self.likelihood_state, outputs))


def reconstruct(trained: Trained, examples: np.ndarray, *, key: jax.Array) -> np.ndarray:
    """E[x | z] for one posterior sample z of each example, float32 in the data's range; a draw if there is no mean.

    For a video model these are reconstructions of the model's `target`: all frames but the first.

    Args:
      trained: the model.
      examples: [N, ...] uint8 or float data.
      key: for the posterior samples.

    Returns:
      float32 [N, ...].

    Raises:
      ValueError: if there are no examples.
    """
    check_not_empty(examples)
    return trained.shown(trained.outputs(examples, jax.random.split(key, len(examples))), key)


def generate(
    trained: Trained, num: int, *, key: jax.Array, noise: bool = False, temperature: float = 1.0
) -> np.ndarray:
    """Images for draws z of the prior, float32 [num, ...] in the data's range.

    Args:
      trained: the model.
      num: how many images.
      key: for the latents and the noise.
      noise: draw from p(x | z) instead of taking its mean, which the paper's figures show. A distribution without a
        mean is drawn from in any case.
      temperature: multiplies the standard deviation of the prior's draws.

    Returns:
      float32 [num, ...], in the data's range.

    Raises:
      ValueError: if num is under 1, or the temperature is negative or not finite.
    """
    if not isinstance(num, int | np.integer) or num < 1:
        raise ValueError(f"num is {num!r}; expected an integer of at least 1")
    check_temperature(temperature)
    latent_key, noise_key = jax.random.split(key)
    outputs = _generate_function(trained.model, num)(trained.params, latent_key, temperature)
    return trained.shown(outputs, noise_key, noise=noise)


def calibrate_on(trained: Trained, examples: np.ndarray, *, key: jax.Array, batch_size: int = 256) -> PyTree:
    """The likelihood's state recomputed exactly in one pass over training examples, with the final parameters.

    Args:
      trained: the model.
      examples: [N, ...] uint8 or float data.
      key: for the posterior samples.
      batch_size: examples per batch, at most.

    Returns:
      A state for the likelihood, as of `calibrate`.
    """
    batches = example_batches(examples, key, batch_size)
    pairs = ((trained.outputs(x, keys), target(trained.model, jnp.asarray(x))) for x, keys in batches)
    return calibrate(trained.likelihood, trained.params["likelihood"], pairs)


def example_batches(examples: np.ndarray, key: jax.Array, batch_size: int) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """Batches of examples in order, with one key per example.

    There are as few batches as possible, and their sizes differ by at most one: where batch norm takes a batch's own
    statistics, a much smaller last batch would give other results. An example's key is `key` with its index folded in.

    Raises:
      ValueError: with the first batch, if batch_size is under 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    count = -(-len(examples) // batch_size)
    for index in range(count):
        start, stop = (len(examples) * edge // count for edge in (index, index + 1))
        yield examples[start:stop], fold(key, jnp.arange(start, stop))


def check_temperature(temperature: Any) -> None:
    """Raise ValueError for a number that is negative or not finite; arrays pass, as they may be traced."""
    if isinstance(temperature, int | float | np.floating) and not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a number from 0")


def check_not_empty(examples: np.ndarray) -> None:
    """Raise ValueError if there are no examples."""
    if len(examples) == 0:
        raise ValueError("examples is empty; expected at least one")


@functools.lru_cache(maxsize=8)
def forward_function(model: nn.Module) -> Callable[..., jax.Array]:
    """`(params, x, keys) -> outputs`, compiled once per model."""
    return jax.jit(lambda params, x, keys: model.apply(variables_of(params), x, keys)[0])


@functools.lru_cache(maxsize=8)
def _generate_function(model: nn.Module, num: int) -> Callable[..., jax.Array]:
    def call(params, key, temperature):
        return model.apply(variables_of(params), key, num, temperature, method="generate")

    return jax.jit(call)
