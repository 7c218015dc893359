"""Where a training step runs: one device, or several by `pmap` or by sharded arrays. Nothing else changes."""

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
    """A compiled training step and the way to bring state and data to where it runs.

    Attributes:
      step: `(state, batch, key) -> (state, metrics)`, compiled; the state given is donated.
      put_state: a `TrainState` as made or restored -> the state for `step`.
      get_state: its inverse, a single copy for evaluation and checkpoints.
      put_batch: a batch of the host, [B, ...] or a pytree of such -> the batch for `step`; of several processes, each
        gives its own part of the batch.
      num_devices: how many devices share a batch; B must be a multiple.
    """

    step: Callable[[TrainState, Any, jax.Array], tuple[TrainState, Metrics]]
    put_state: Callable[[TrainState], TrainState]
    get_state: Callable[[TrainState], TrainState]
    put_batch: Callable[[Any], Any]
    num_devices: int


def jit_step(*, model, likelihood, optimizer, options: StepOptions = PLAIN) -> Stepper:
    """The step on one device."""
    step = functools.partial(train_step, model=model, likelihood=likelihood, optimizer=optimizer, options=options)
    return Stepper(
        step=jax.jit(step, donate_argnums=0, compiler_options=compiler_options()),
        put_state=_fresh_copy,
        get_state=lambda state: state,
        put_batch=lambda batch: jax.tree.map(jnp.asarray, batch),
        num_devices=1,
    )


def pmap_step(
    *,
    model,
    likelihood,
    optimizer,
    options: StepOptions = PLAIN,
    devices: Sequence[Any] | None = None,
) -> Stepper:
    """The step on all devices by `jax.pmap`, state replicated; only `axis_name` is added.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.
      devices: the `jax.Device`s to use; by default all.
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

    return Stepper(
        step=_in_turn(
            jax.pmap(step, AXIS, in_axes=(0, 0, None), out_axes=(0, None), devices=devices, donate_argnums=0)
        ),
        put_state=put_state,
        get_state=lambda state: jax.tree.map(lambda leaf: leaf.addressable_data(0)[0], state),
        put_batch=put_batch,
        num_devices=len(devices),
    )


def sharded_step(
    *,
    model,
    likelihood,
    optimizer,
    options: StepOptions = PLAIN,
    devices: Sequence[Any] | None = None,
) -> Stepper:
    """The step on all devices by `jax.jit`, the batch sharded and the state replicated; XLA adds the communication.

    The devices may be those of several processes, joined by `jax.distributed`: each calls the same functions.

    Args:
      model, likelihood, optimizer, options: as in `train_step`.
      devices: the `jax.Device`s to use; by default all.
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

    return Stepper(
        step=_in_turn(
            jax.jit(
                step,
                in_shardings=(replicated, spread, replicated),
                out_shardings=replicated,
                donate_argnums=0,
                compiler_options=compiler_options(),
            )
        ),
        put_state=put_state,
        get_state=lambda state: jax.tree.map(lambda leaf: leaf.addressable_data(0), state),
        put_batch=put_batch,
        num_devices=len(devices),
    )


@functools.lru_cache(maxsize=1)
def compiler_options() -> dict[str, str] | None:
    """On a CPU: convolutions by Eigen; XLA's YNNPACK takes a third longer for them (JAX 0.10), or a twentieth (0.12).

    None on accelerators, and where XLA does not know the option.
    """
    if jax.default_backend() != "cpu":
        return None
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}
    try:
        jax.jit(lambda x: x + 1, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return options


def _in_turn(step: Callable) -> Callable:
    """On simulated CPU devices: one step at a time, as programs in flight together share one pool of threads.

    Where the collective of one takes the threads that the other waits for, XLA gives up after a while and aborts.
    """
    if jax.default_backend() != "cpu":
        return step
    return lambda *args: jax.block_until_ready(step(*args))


def _fresh_copy(state: TrainState) -> TrainState:
    """A copy that the step may take over: its buffers are donated, the caller's stay whole."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def _check_divisible(batch: Any, num_devices: int) -> None:
    batch_size = len(jax.tree.leaves(batch)[0])
    if batch_size % num_devices:
        raise ValueError(f"batch size is {batch_size}; expected a multiple of the {num_devices} devices")
