"""Held-out likelihood of a trained model: one-sample ELBO, rate, distortion, bits per dimension."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from calibrax.evaluation.trained import Trained, check_not_empty, example_batches
from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import NoMeanError
from calibrax.objectives import bits_per_dim, effective_beta
from calibrax.training.state import target, variables_of


class Evaluation(NamedTuple):
    """What one pass over a data set gives; nats are means over examples, with one posterior sample each.

    Attributes:
      neg_elbo: nats: rate + distortion.
      neg_elbo_stderr: nats, standard error of that mean over examples.
      rate: nats: mean KL(q(z|x) || p(z)).
      distortion: nats: mean -log p(x|z).
      mse: mean squared error of E[x|z], per value; None where p(x|z) has no mean.
      discretized_neg_elbo: nats: rate - log P of 256 levels; None where the decoder has none.
      bits_per_dim: the same in bits, per value.
      sigma: the decoder's σ (geometric mean where it has several); None where it has none.
      effective_beta: 2σ², the tables' convention.
      num_examples: how many.
      layer_kls: nats: the rate of each layer, bottom first; None for a single layer.
    """

    neg_elbo: float
    neg_elbo_stderr: float
    rate: float
    distortion: float
    mse: float | None
    discretized_neg_elbo: float | None
    bits_per_dim: float | None
    sigma: float | None
    effective_beta: float | None
    num_examples: int
    layer_kls: list[float] | None = None

    def metrics(self) -> dict[str, float]:
        """As a row of `metrics.jsonl`: the numbers that exist, the layers' KLs as `kl/1`, `kl/2`, ..."""
        scalars = {name: value for name, value in self._asdict().items() if value is not None and name != "layer_kls"}
        return scalars | {f"kl/{layer + 1}": value for layer, value in enumerate(self.layer_kls or [])}


def evaluate_likelihood(trained: Trained, examples: np.ndarray, *, key: jax.Array, batch_size: int = 256) -> Evaluation:
    """Score held-out examples with the test-time likelihood (`train=False`: the running average).

    Args:
      trained: the model; its outputs are scored against the examples, or against the model's `target` of them.
      examples: [N, ...] uint8 or float data.
      key: for the posterior samples. Use one key per data set; each example folds in its index.
      batch_size: examples per batch, at most.

    Returns:
      An `Evaluation`: means over the examples, and their standard error.

    Raises:
      ValueError: if there are no examples.
    """
    check_not_empty(examples)
    score = _score_function(trained.model, trained.likelihood)
    batches = [
        jax.device_get(score(trained.params, trained.likelihood_state, batch, keys))
        for batch, keys in example_batches(examples, key, batch_size)
    ]
    columns = {name: np.concatenate([np.asarray(b[name], np.float64) for b in batches]) for name in batches[0]}
    scored_shape = jax.eval_shape(functools.partial(target, trained.model), examples[:1]).shape[1:]
    neg_elbo = columns["rate"] + columns["distortion"]
    log_sigma = float(columns["log_sigma"].mean()) if "log_sigma" in columns else None
    discretized = float((columns["rate"] + columns["discretized"]).mean()) if "discretized" in columns else None
    return Evaluation(
        neg_elbo=float(neg_elbo.mean()),
        neg_elbo_stderr=mean_stderr(neg_elbo),
        rate=float(columns["rate"].mean()),
        distortion=float(columns["distortion"].mean()),
        mse=float(columns["sq_error"].mean()) if "sq_error" in columns else None,
        discretized_neg_elbo=discretized,
        bits_per_dim=None if discretized is None else float(bits_per_dim(discretized, scored_shape)),
        sigma=None if log_sigma is None else math.exp(log_sigma),
        effective_beta=None if log_sigma is None else float(effective_beta(log_sigma)),
        num_examples=len(examples),
        layer_kls=columns["layer_kls"].mean(0).tolist() if "layer_kls" in columns else None,
    )


def mean_stderr(values: np.ndarray) -> Any:
    """Standard error of the mean of independent values, over the first axis; NaN for a single one."""
    num = len(values)
    return values.std(axis=0, ddof=1) / math.sqrt(num) if num > 1 else np.full(values.shape[1:], math.nan)[()]


@functools.lru_cache(maxsize=8)
def _score_function(model: nn.Module, likelihood: Likelihood) -> Callable[..., dict[str, jax.Array]]:
    @jax.jit
    def score(params, state, x, keys):
        forward: Any = model.apply(variables_of(params), x, keys)
        (outputs, kl), x = forward, target(model, x)
        args = (params["likelihood"], state, outputs)
        nll, stats = likelihood.nll(*args, x, train=False)
        unit = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
        rate = jnp.sum(kl.reshape(kl.shape[0], -1), axis=1)
        columns = {"rate": rate, "distortion": nll}
        with contextlib.suppress(NoMeanError):
            sq_error = jnp.square(likelihood.mean(*args) - unit)
            columns["sq_error"] = jnp.mean(sq_error, tuple(range(1, x.ndim)))
        if kl.ndim > 1:
            columns["layer_kls"] = kl
        if "log_sigma" in stats:
            columns["log_sigma"] = jnp.broadcast_to(jnp.mean(stats["log_sigma"]), rate.shape)
        if likelihood.discretized_nll is not None:
            columns["discretized"] = likelihood.discretized_nll(*args, x)
        return columns

    return score
