"""Many training steps in one call, on batches from the host or on a data set that lies in the device's memory."""

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
    """Up to K steps on batches of the host, whose number is told at each call: one program takes them all.

    For a CPU, where XLA asks for a step's temporary memory at each call, and a call costs a few percent of a step.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.

    Returns:
      `steps(state, batches, num, key) -> (state, metrics)`, compiled; the state given is donated. `batches` is
      [K, B, ...], or a pytree of such, `num` at most K, how many of them are taken, `key` the run's; the metrics are
      [K], zero from `num` on. The states and metrics are to the bit the same however steps are spread over calls of
      one K.
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
    """Steps that wait for no host: the batches are gathered on the device, and one call takes any number of them.

    For accelerators, which a small network leaves idle between calls.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.

    Returns:
      `steps(state, examples, order, key) -> (state, metrics)`, compiled for each number of steps; the state given is
      donated. `examples` is [N, ...] on the device, or a pytree of such, `order` an int32 [K, B] of each step's
      examples, `key` the run's; the metrics are [K].
    """
    steps = _scanned(model=model, likelihood=likelihood, optimizer=optimizer, options=options)
    return jax.jit(steps, donate_argnums=0, compiler_options=compiler_options())


def resident_runs(
    *, model, likelihood, optimizer, options: StepOptions = PLAIN
) -> Callable[[TrainState, Any, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """`resident_steps` of several runs in one program: several seeds on one set of examples.

    For accelerators that one run does not fill. Each run has its own parameters, optimizer, running average, order and
    noise, as if it were alone.

    Args:
      model, likelihood, optimizer, options: as in `train_step`, the same for all.

    Returns:
      `steps(states, examples, orders, keys) -> (states, metrics)`, compiled for each number of steps; the states given
      are donated. All but the examples have a leading axis of runs: the states, made by `jax.vmap` of
      `create_train_state` over their keys, the orders, int32 [R, K, B], and the keys, [R]; so have the metrics, [R, K].
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
