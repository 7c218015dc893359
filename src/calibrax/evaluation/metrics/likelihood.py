"""Held-out likelihood of a trained model: one-sample ELBO, rate, distortion, bits per dimension."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calibrax.likelihoods import Likelihood, calibrate
from calibrax.objectives import bits_per_dim, effective_beta
from calibrax.training.state import target, variables_of

PyTree = Any


class Evaluation(NamedTuple):
    """What one pass over a data set gives; nats are means over examples, of one posterior sample each."""

    neg_elbo: float  # nats: rate + distortion
    neg_elbo_stderr: float  # nats, standard error of that mean over examples
    rate: float  # nats: mean KL(q(z|x) || p(z))
    distortion: float  # nats: mean -log p(x|z)
    mse: float  # mean squared error of E[x|z], per value
    discretized_neg_elbo: float | None  # nats: rate - log P of 256 levels; None where the decoder has none
    bits_per_dim: float | None  # the same in bits, per value
    sigma: float | None  # the decoder's σ (geometric mean where it has several); None where it has none
    effective_beta: float | None  # 2σ², the tables' convention
    num_examples: int
    layer_kls: list[float] | None = None  # nats: the rate's parts, bottom layer first; None where there is one layer

    def metrics(self) -> dict[str, float]:
        """As a row of `metrics.jsonl` has them: what there is, the layers' KLs as `kl/1`, `kl/2`, ..."""
        scalars = {name: value for name, value in self._asdict().items() if value is not None and name != "layer_kls"}
        return scalars | {f"kl/{layer + 1}": value for layer, value in enumerate(self.layer_kls or [])}


class Trained(NamedTuple):
    """A trained model, in the order in which `evaluate_likelihood`, `generate` and their like take it."""

    model: nn.Module
    likelihood: Likelihood
    params: PyTree  # `TrainState.eval_params`: {"model": ..., "likelihood": ...}, maybe "model_state"
    likelihood_state: PyTree


def evaluate_likelihood(
    model: nn.Module,
    likelihood: Likelihood,
    params: PyTree,
    likelihood_state: PyTree,
    images: np.ndarray,
    *,
    key: jax.Array,
    batch_size: int = 256,
) -> Evaluation:
    """Score held-out images with the test-time likelihood (`train=False`: the running average).

    Args:
      model: called as `model(x, keys) -> (outputs, kl)`, kl [B], or [B, L] of L layers.
      likelihood: the decoder's distribution; scores `outputs` against the images, or the model's `target` of them.
      params: `{"model": ..., "likelihood": ...}`, and "model_state" where the model reads other collections.
      likelihood_state: its running average.
      images: [N, ...] uint8 or float data.
      key: for the posterior samples; one a data set, each example folds in its index.
      batch_size: examples at once, at most.

    Raises:
      ValueError: if there are no images.
    """
    if len(images) == 0:
        raise ValueError("images is empty; expected at least one example")
    score = _score_function(model, likelihood)
    batches = [
        jax.device_get(score(params, likelihood_state, batch, keys))
        for batch, keys in example_batches(images, key, batch_size)
    ]
    columns = {name: np.concatenate([np.asarray(b[name], np.float64) for b in batches]) for name in batches[0]}
    scored_shape = jax.eval_shape(functools.partial(target, model), images[:1]).shape[1:]
    neg_elbo = columns["rate"] + columns["distortion"]
    log_sigma = float(columns["log_sigma"].mean()) if "log_sigma" in columns else None
    discretized = None
    if "discretized" in columns:
        discretized = float((columns["rate"] + columns["discretized"]).mean())
    return Evaluation(
        neg_elbo=float(neg_elbo.mean()),
        neg_elbo_stderr=float(neg_elbo.std(ddof=1) / math.sqrt(len(images))) if len(images) > 1 else math.nan,
        rate=float(columns["rate"].mean()),
        distortion=float(columns["distortion"].mean()),
        mse=float(columns["sq_error"].mean()),
        discretized_neg_elbo=discretized,
        bits_per_dim=None if discretized is None else float(bits_per_dim(discretized, scored_shape)),
        sigma=None if log_sigma is None else math.exp(log_sigma),
        effective_beta=None if log_sigma is None else float(effective_beta(log_sigma)),
        num_examples=len(images),
        layer_kls=columns["layer_kls"].mean(0).tolist() if "layer_kls" in columns else None,
    )


def calibrate_on(
    model: nn.Module,
    likelihood: Likelihood,
    params: PyTree,
    images: np.ndarray,
    *,
    key: jax.Array,
    batch_size: int = 256,
) -> PyTree:
    """The likelihood's state recomputed exactly in one pass over training images, with the final parameters."""
    forward = forward_function(model)
    pairs = (
        (forward(params, batch, keys), target(model, jnp.asarray(batch)))
        for batch, keys in example_batches(images, key, batch_size)
    )
    return calibrate(likelihood, params["likelihood"], pairs)


def reconstruct(model: nn.Module, likelihood: Likelihood, params, likelihood_state, images, *, key) -> np.ndarray:
    """E[x | z] for one posterior sample z of each image, float32 in the data's range; of its `target`, for videos."""
    if len(images) == 0:
        raise ValueError("images is empty; expected at least one example")
    keys = jax.random.split(key, len(images))
    outputs = forward_function(model)(params, images, keys)
    return np.asarray(likelihood.mean(params["likelihood"], likelihood_state, outputs))


def generate(
    model: nn.Module,
    likelihood: Likelihood,
    params,
    likelihood_state,
    num: int,
    *,
    key,
    noise: bool = False,
    temperature: float = 1.0,
) -> np.ndarray:
    """Images for draws z of the prior, float32 in the data's range.

    E[x | z], as in the paper's figures; with `noise`, a draw from p(x | z). The temperature multiplies the standard
    deviation of the draws of z.

    Raises:
      ValueError: if num is under 1, or the temperature a number that is negative or not finite.
    """
    if not isinstance(num, int | np.integer) or num < 1:
        raise ValueError(f"num is {num!r}; expected an integer of at least 1")
    if isinstance(temperature, int | float | np.floating) and not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a number from 0")
    latent_key, noise_key = jax.random.split(key)
    outputs = _generate_function(model, num)(params, latent_key, temperature)
    args = (params["likelihood"], likelihood_state, outputs)
    return np.asarray(likelihood.sample(noise_key, *args) if noise else likelihood.mean(*args))


def example_batches(images: np.ndarray, key: jax.Array, batch_size: int) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """As few batches as there must be, in order, of sizes that differ by one at most.

    The key of an example depends on its index alone. Where batch norm takes a batch's own statistics, results depend on
    the batch, and none is much smaller than the others.

    Raises:
      ValueError: with the first batch, if batch_size is under 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected at least 1")
    fold = jax.vmap(jax.random.fold_in, (None, 0))
    count = -(-len(images) // batch_size)
    for part in range(count):
        start, stop = (len(images) * edge // count for edge in (part, part + 1))
        yield images[start:stop], fold(key, jnp.arange(start, stop))


@functools.lru_cache(maxsize=8)
def _score_function(model: nn.Module, likelihood: Likelihood) -> Callable[..., dict[str, jax.Array]]:
    @jax.jit
    def score(params, state, x, keys):
        forward: Any = model.apply(variables_of(params), x, keys)
        (outputs, kl), x = forward, target(model, x)
        args = (params["likelihood"], state, outputs)
        nll, stats = likelihood.nll(*args, x, train=False)
        unit = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
        sq_error = jnp.square(likelihood.mean(*args) - unit)
        rate = jnp.sum(kl.reshape(kl.shape[0], -1), axis=1)
        columns = {"rate": rate, "distortion": nll, "sq_error": jnp.mean(sq_error, tuple(range(1, x.ndim)))}
        if kl.ndim > 1:
            columns["layer_kls"] = kl
        if "log_sigma" in stats:
            columns["log_sigma"] = jnp.broadcast_to(jnp.mean(stats["log_sigma"]), rate.shape)
        if likelihood.discretized_nll is not None:
            columns["discretized"] = likelihood.discretized_nll(*args, x)
        return columns

    return score


@functools.lru_cache(maxsize=8)
def forward_function(model: nn.Module) -> Callable[..., jax.Array]:
    """`(params, x, keys) -> outputs`, compiled once for each model."""
    return jax.jit(lambda params, x, keys: model.apply(variables_of(params), x, keys)[0])


@functools.lru_cache(maxsize=8)
def _generate_function(model: nn.Module, num: int) -> Callable[..., jax.Array]:
    def call(params, key, temperature):
        return model.apply(variables_of(params), key, num, temperature, method="generate")

    return jax.jit(call)
