"""Many training steps per call, on batches from the host or on a data set in the device's memory."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from calibrax.training.devices import compiler_options
from calibrax.training.state import TrainState
from calibrax.training.step import PLAIN, Metrics, StepOptions, train_step


def looped_steps(
    *, model, likelihood, optimizer, options: StepOptions = PLAIN
) -> Callable[[TrainState, Any, Any, jax.Array], tuple[TrainState, Metrics]]:
    """Up to K steps per call on batches from the host. The number of steps is an argument of each call.

    For CPUs: there each call allocates the step's temporary memory anew, which costs a few percent of a step.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.

    Returns:
      `steps(state, batches, num, key) -> (state, metrics)`, compiled; the state is donated. `batches` is [K, B, ...],
      or a pytree of such; the first `num` of them are used, at most K. `key` is the run's key. The metrics are [K],
      zero from `num` on. For one K, states and metrics do not depend on how the steps are spread over calls, to the
      bit.
    """
    step = functools.partial(train_step, model=model, likelihood=likelihood, optimizer=optimizer, options=options)

    def looped(state, batches, num, key):
        def one(state, index):
            return step(state, jax.tree.map(lambda leaf: leaf[index], batches), key)

        def add(index, so_far):
            state, rows = so_far
            state, metrics = one(state, index)
            return state, jax.tree.map(lambda row, value: row.at[index].set(value), rows, metrics)

        _, metrics = jax.eval_shape(one, state, jnp.int32(0))
        most = len(jax.tree.leaves(batches)[0])
        rows = jax.tree.map(lambda value: jnp.zeros((most, *value.shape), value.dtype), metrics)
        return lax.fori_loop(jnp.int32(0), num, add, (state, rows))

    return jax.jit(looped, donate_argnums=0, compiler_options=compiler_options())


def resident_steps(
    *, model, likelihood, optimizer, options: StepOptions = PLAIN
) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """Any number of steps per call, on batches gathered on the device from a data set in its memory.

    For accelerators, which a small network would leave idle between calls.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.

    Returns:
      `steps(state, examples, order, key) -> (state, metrics)`, compiled for each number of steps; the state is donated.
      `examples` is [N, ...] on the device, or a pytree of such; `order` is int32 [K, B], the indices of each step's
      examples; `key` is the run's key. The metrics are [K].
    """
    steps = _scanned(model=model, likelihood=likelihood, optimizer=optimizer, options=options)
    return jax.jit(steps, donate_argnums=0, compiler_options=compiler_options())


def resident_runs(
    *, model, likelihood, optimizer, options: StepOptions = PLAIN
) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """`resident_steps` of several runs in one program: several seeds on one set of examples.

    For accelerators that one run does not fill. Each run has its own parameters, optimizer, running average, order and
    noise, as if it were the only one.

    Args:
      model, likelihood, optimizer, options: as in `train_step`, the same for all runs.

    Returns:
      `steps(states, examples, orders, keys) -> (states, metrics)`, compiled for each number of steps; the states are
      donated. All arguments but the examples have a leading axis of R runs: the states, made by `jax.vmap` of
      `create_train_state` over their keys; the orders, int32 [R, K, B]; the keys, [R]. The metrics are [R, K].
    """
    steps = _scanned(model=model, likelihood=likelihood, optimizer=optimizer, options=options)
    return jax.jit(jax.vmap(steps, in_axes=(0, None, 0, 0)), donate_argnums=0, compiler_options=compiler_options())


def _scanned(**parts: Any) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    step = functools.partial(train_step, **parts)

    def steps(state, examples, order, key):
        def one(state, indices):
            return step(state, jax.tree.map(lambda leaf: leaf[indices], examples), key)

        return lax.scan(one, state, order)

    return steps
