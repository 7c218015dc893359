"""One training step as a pure function; `devices` decides where it runs."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from calibrax.likelihoods import Likelihood
from calibrax.objectives import free_bits
from calibrax.training.state import TrainState, target

Metrics = dict[str, jax.Array]
PyTree = Any


class StepOptions(NamedTuple):
    """What a step does besides descending -ELBO; with the defaults, nothing.

    Attributes:
      free_bits: nats of KL per layer and example that the loss charges in any case, see `objectives.free_bits`.
      kl_warmup: number of steps over which the weight of the KL in the loss rises linearly to 1.
      ema_decay: decay of the moving average of the parameters in `TrainState.ema`; None if there is none. At step t,
        counted from 0, the decay is at most (1 + t)/(10 + t), so that a short run does not evaluate its initial
        parameters.
      skip_grad_norm: a step whose gradient has a larger norm is discarded, like a step that is not finite.
      accumulate: number of parts of a batch that are differentiated one after another, to save memory. An optimal σ
        is then that of a part, and its running average gets one update per part.
    """

    free_bits: float = 0.0
    kl_warmup: int = 0
    ema_decay: float | None = None
    skip_grad_norm: float = math.inf
    accumulate: int = 1


PLAIN = StepOptions()


def train_step(
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    *,
    model: nn.Module,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
    options: StepOptions = PLAIN,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the batch mean of -ELBO (eq. 3), and one update of the likelihood's running average.

    If the loss or the gradient is not finite, or the gradient is too large, the parameters, the optimizer and all
    averages stay as they are. The step still counts, so the next one has other data and other noise.

    Args:
      state: the state so far; not mutated.
      batch: [B, ...] data, this device's part of the batch; a pytree of such if the likelihood takes one (`joint`).
      key: the run's key, the same at every step.
      model: a Linen module called as `model(x, keys, train=True) -> (outputs, kl)`, with one key per example; kl is
        [B], or [B, L] for L layers. Its other collections, such as those of batch norm, are kept in
        `state.model_state`. If it has an attribute `axis_name`, that is set to the axis. For a model in NNX, a
        `calibrax.nnx.Functional`.
      likelihood: scores `outputs` against `batch`, or against `model.target(batch)` if the model has a target.
      optimizer: the transformation that made `state.opt_state`.
      options: see `StepOptions`.
      axis_name: the mapped axis (`shard_map`, `pmap`) over which the batch is spread, if any.

    Returns:
      The new state and the batch's scalars: `loss`, which is minimised; `neg_elbo`, `rate` (mean KL) and `distortion`
      (mean nll) in nats; `kl/1`, `kl/2`, ..., bottom layer first, if there are several layers; the mean of each of the
      likelihood's stats; `grad_norm`; and `skipped`, 1 if the step was discarded, else 0.
    """
    keys = example_keys(key, state.step, jax.tree.leaves(batch)[0].shape[0], axis_name)
    weight = jnp.minimum(1.0, jnp.float32(state.step + 1) / options.kl_warmup) if options.kl_warmup else 1.0

    if axis_name is not None and hasattr(model, "axis_name"):
        model = model.clone(axis_name=axis_name)  # batch norm over the global batch

    def loss_fn(params, averages, x, keys):
        likelihood_state, model_state = averages
        variables = {"params": params["model"], **(model_state or {})}
        (outputs, kl), new_state = model.apply(variables, x, keys, train=True, mutable=list(model_state or {}))
        x = target(model, x)
        nll, stats = likelihood.nll(params["likelihood"], likelihood_state, outputs, x, train=True, axis_name=axis_name)
        if nll.shape != kl.shape[:1]:
            raise ValueError(f"nll has shape {nll.shape}; expected {kl.shape[:1]}, one per example; see framewise")
        layers = kl.reshape(kl.shape[0], -1)
        loss = jnp.mean(nll + weight * jnp.sum(free_bits(layers, options.free_bits), axis=1))
        rate, distortion = jnp.mean(jnp.sum(layers, axis=1)), jnp.mean(nll)
        metrics = {"loss": loss, "neg_elbo": rate + distortion, "rate": rate, "distortion": distortion}
        metrics |= layer_metrics(jnp.mean(layers, axis=0)) | jax.tree.map(jnp.mean, stats)
        if axis_name is not None:  # not after the gradient: `shard_map` adds up what each device differentiates
            metrics = lax.pmean(metrics, axis_name)
        return metrics["loss"], (metrics, (likelihood.update(likelihood_state, stats), dict(new_state) or None))

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    averages = state.likelihood_state, state.model_state
    if options.accumulate == 1:
        (_, (metrics, averages)), grads = value_and_grad(state.params, averages, batch, keys)
    else:
        grads, metrics, averages = _accumulated(value_and_grad, state, (batch, keys), options.accumulate)
    if axis_name is not None:
        grads = lax.pmean(grads, axis_name)  # under `pmap`; under `shard_map` they are the same everywhere already
    grad_norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    ema: Any = state.ema
    if options.ema_decay is not None:
        steps = jnp.float32(state.step)
        decay = jnp.minimum(options.ema_decay, (1 + steps) / (10 + steps))
        ema = optax.incremental_update(params, ema, 1 - decay)
    new = TrainState(state.step, params, opt_state, averages[0], ema, averages[1])
    good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm) & (grad_norm <= options.skip_grad_norm)
    new = jax.tree.map(functools.partial(jnp.where, good), new, state)
    metrics |= {"grad_norm": grad_norm, "skipped": jnp.where(good, 0.0, 1.0)}
    return new._replace(step=state.step + 1), metrics


def layer_metrics(kl: jax.Array) -> Metrics:
    """`kl/1`, `kl/2`, ... of [L] values, bottom layer first; empty for a single layer, whose KL is the rate."""
    return {f"kl/{layer + 1}": kl[layer] for layer in range(len(kl))} if len(kl) > 1 else {}


def _accumulated(value_and_grad, state: TrainState, data: PyTree, parts: int) -> tuple[PyTree, Metrics, PyTree]:
    """Mean gradients and metrics over the parts of a batch, and the averages after the last part."""
    size = len(data[1])
    if size % parts:
        raise ValueError(f"accumulate is {parts}; expected a divisor of {size}, the examples on a device")

    def add_part(carry, part):
        averages, total = carry
        (_, (metrics, averages)), grads = value_and_grad(state.params, averages, *part)
        return (averages, jax.tree.map(jnp.add, total, (grads, metrics))), None

    # Each part takes every parts-th example, so that no example of a sharded batch moves to another device.
    stacked = jax.tree.map(lambda leaf: leaf.reshape(size // parts, parts, *leaf.shape[1:]).swapaxes(0, 1), data)
    first = jax.tree.map(lambda leaf: leaf[0], stacked)
    averages = state.likelihood_state, state.model_state
    shapes = jax.eval_shape(value_and_grad, state.params, averages, *first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (shapes[1], shapes[0][1][0]))
    (averages, total), _ = lax.scan(add_part, (averages, zeros), stacked)
    grads, metrics = jax.tree.map(lambda leaf: leaf / parts, total)
    return grads, metrics, averages


def example_keys(key: jax.Array, step: jax.Array, num_examples: int, axis_name: str | None = None) -> jax.Array:
    """One key per example of this device's part of the batch, from the step and the index in the global batch.

    The noise of an example therefore depends on neither the number of devices nor the kind of parallelism.

    Args:
      key: the run's key.
      step: [], the step's number.
      num_examples: B, the examples on this device.
      axis_name: the mapped axis over which the batch is spread, if any.

    Returns:
      [B] keys.
    """
    first = 0 if axis_name is None else lax.axis_index(axis_name) * num_examples
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), first + jnp.arange(num_examples))
