"""Several processes that train one model together through `jax.distributed`.

The process with index 0 leads: it alone writes files. In a program of one process all functions here return at once.
"""

from typing import Any

import jax
import numpy as np

MAX_WAIT = 24 * 60 * 60  # seconds that a process waits for another one that is alive; a dead one is noticed at once
CHECK_EVERY = 20  # steps


def join(coordinator: str, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of a run. Call this before any other function of JAX.

    The coordinator is HOST:PORT of the leading process, whose `process_id` is 0, or `auto` if SLURM, Open MPI,
    Kubernetes or a TPU knows all three arguments.

    Raises:
      ValueError: if the other processes cannot be found; one line.
    """
    options: dict[str, Any] = {} if coordinator == "auto" else {"coordinator_address": coordinator}
    try:
        jax.distributed.initialize(
            **options, num_processes=num_processes, process_id=process_id, shutdown_timeout_seconds=MAX_WAIT
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot join the other processes: {str(error).strip().splitlines()[0]}") from error


def is_alone() -> bool:
    """True if this is the only process."""
    return jax.process_count() == 1


def leads() -> bool:
    """True in the process that writes files."""
    return jax.process_index() == 0


def wait_for_all(barrier: str) -> None:
    """Wait until every process has reached this barrier, whose name no earlier one has had."""
    if not is_alone():
        import orbax.checkpoint as ocp

        # Unlike JAX's own barrier, this one needs no device.
        ocp.multihost.get_barrier_sync_fn()(key=barrier, timeout_ms=MAX_WAIT * 1000)


def from_leader(tree: Any) -> Any:
    """The leading process's arrays, in every process; the others pass a pytree of the same structure and shapes."""
    if is_alone():
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))


def any_process_at(step: int, condition: bool) -> bool:
    """True if the condition holds in any process.

    Several processes compare it every 20 steps, so that they do not have to synchronise at each one.
    """
    if is_alone():
        return condition
    if step % CHECK_EVERY:
        return False
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(condition))))
