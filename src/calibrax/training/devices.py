"""Where a training step runs: on one device, or on several by sharded arrays or `pmap`. Nothing else changes.

`sharded_step` is the standard for several devices, `pmap_step` the alternative: JAX keeps `pmap` in maintenance mode.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from calibrax.training.state import TrainState
from calibrax.training.step import PLAIN, Metrics, StepOptions, train_step

AXIS = "batch"


class Stepper(NamedTuple):
    """A compiled training step, and functions that move state and data to its devices.

    Attributes:
      step: `(state, batch, key) -> (state, metrics)`, compiled; the state is donated.
      put_state: a new or restored `TrainState` -> the state for `step`.
      get_state: the inverse: one copy of the state, for evaluation and checkpoints.
      put_batch: a batch on the host, [B, ...] or a pytree of such -> the batch for `step`. If there are several
        processes, each passes its own part of the batch.
      num_devices: the number of devices that share a batch; B must be a multiple of it.
    """

    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]
    put_state: Callable[[TrainState], TrainState]
    get_state: Callable[[TrainState], TrainState]
    put_batch: Callable[[Any], Any]
    num_devices: int


def jit_step(*, model, likelihood, optimizer, options: StepOptions = PLAIN) -> Stepper:
    """The step on one device.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.

    Returns:
      A `Stepper`.
    """
    step = functools.partial(train_step, model=model, likelihood=likelihood, optimizer=optimizer, options=options)
    return Stepper(
        step=jax.jit(step, donate_argnums=0, compiler_options=compiler_options()),
        put_state=_fresh_copy,
        get_state=lambda state: state,
        put_batch=lambda batch: jax.tree.map(jnp.asarray, batch),
        num_devices=1,
    )


def pmap_step(
    *, model, likelihood, optimizer, options: StepOptions = PLAIN, devices: Sequence[Any] | None = None
) -> Stepper:
    """The step on all devices by `jax.pmap`, with a replicated state. It differs from `jit_step` only by `axis_name`.

    The standard is `sharded_step`; JAX keeps `pmap` in maintenance mode.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.
      devices: the devices to use, each a `jax.Device`; by default all.

    Returns:
      A `Stepper`; its batches are divided among the devices.
    """
    devices = list(devices or jax.devices())
    parts = {"model": model, "likelihood": likelihood, "optimizer": optimizer, "options": options}
    step = functools.partial(train_step, **parts, axis_name=AXIS)

    def put_state(state):
        return jax.device_put(
            jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(devices), *np.shape(leaf))), state),
            NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS)),
        )

    def put_batch(batch):
        _check_divisible(batch, len(devices))
        return jax.tree.map(lambda leaf: leaf.reshape(len(devices), -1, *leaf.shape[1:]), batch)

    step = jax.pmap(step, AXIS, in_axes=(0, 0, None), out_axes=(0, None), devices=devices, donate_argnums=0)
    return Stepper(
        step=_one_at_a_time(step),
        put_state=put_state,
        get_state=lambda state: jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], state),
        put_batch=put_batch,
        num_devices=len(devices),
    )


def sharded_step(
    *, model, likelihood, optimizer, options: StepOptions = PLAIN, devices: Sequence[Any] | None = None
) -> Stepper:
    """The step on all devices by `jax.jit`, with a sharded batch and a replicated state; XLA adds the communication.

    The devices may belong to several processes joined by `jax.distributed`; each process calls the same functions.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.
      devices: the devices to use, each a `jax.Device`; by default all.

    Returns:
      A `Stepper`; its batches are divided among the devices.
    """
    devices = list(devices or jax.devices())
    mesh = Mesh(np.array(devices), (AXIS,))
    replicated, spread = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    step = functools.partial(train_step, model=model, likelihood=likelihood, optimizer=optimizer, options=options)

    def put_state(state):
        if replicated.is_fully_addressable:
            return jax.device_put(_fresh_copy(state), replicated)
        return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(replicated, np.asarray(leaf)), state)

    def put_batch(batch):
        _check_divisible(batch, len(spread.addressable_devices))
        return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, spread), batch)

    shardings: Any = {"in_shardings": (replicated, spread, replicated), "out_shardings": replicated}
    step = jax.jit(step, **shardings, donate_argnums=0, compiler_options=compiler_options())
    return Stepper(
        step=_one_at_a_time(step),
        put_state=put_state,
        get_state=lambda state: jax.tree.map(lambda leaf: leaf.addressable_data(0), state),
        put_batch=put_batch,
        num_devices=len(devices),
    )


@functools.lru_cache(maxsize=1)
def compiler_options() -> dict[str, str] | None:
    """XLA's options for the step: on a CPU, convolutions by Eigen; None on accelerators, or if XLA lacks the option.

    With XLA's default, YNNPACK, they take a third longer (JAX 0.10), or a twentieth (JAX 0.12).
    """
    if jax.default_backend() != "cpu":
        return None
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def _one_at_a_time(step: Callable) -> Callable:
    """On simulated CPU devices, start a step only after the one before has ended.

    Programs that run at the same time share one pool of threads. If a collective operation of one program holds the
    threads that the other waits for, XLA aborts the process after a while.
    """
    if jax.default_backend() != "cpu":
        return step
    return lambda *args: jax.block_until_ready(step(*args))


def _fresh_copy(state: TrainState) -> TrainState:
    """A copy of the state, so that donating it to the step leaves the caller's buffers intact."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def _check_divisible(batch: Any, num_devices: int) -> None:
    batch_size = len(jax.tree.leaves(batch)[0])
    if batch_size % num_devices:
        raise ValueError(f"batch size is {batch_size}; expected a multiple of the {num_devices} devices")
