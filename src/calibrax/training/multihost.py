"""Several processes that train as one, by `jax.distributed`: the first leads and writes, the others take its steps.

Everything here is a matter of course, and costs nothing, where there is one process alone.
"""

from typing import Any

import jax
import numpy as np

PATIENCE = 24 * 60 * 60  # seconds that one process waits for another which is alive; who is dead is noticed at once
CHECK_EVERY = 20  # steps between two questions whether a signal has arrived anywhere


def join(coordinator: str, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Join the other processes of this run; before anything else that JAX does.

    Args:
      coordinator: HOST:PORT of the first process; `auto` to take all three from SLURM, Open MPI, Kubernetes or a TPU.
      num_processes: how many there are.
      process_id: which this is, from 0.

    Raises:
      ValueError: in one line, if they cannot be found.
    """
    options: dict[str, Any] = {} if coordinator == "auto" else {"coordinator_address": coordinator}
    try:
        jax.distributed.initialize(
            **options, num_processes=num_processes, process_id=process_id, shutdown_timeout_seconds=PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot join the other processes: {str(error).strip().splitlines()[0]}") from error


def is_alone() -> bool:
    """Whether this process is the only one."""
    return jax.process_count() == 1


def leads() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Return once every process has come here, however long one of them takes.

    Args:
      what: a name of this meeting, never used before.
    """
    if not is_alone():
        import orbax.checkpoint as ocp

        ocp.multihost.get_barrier_sync_fn()(key=what, timeout_ms=PATIENCE * 1000)  # needs no device, unlike JAX's own


def from_leader(tree: Any) -> Any:
    """A pytree of arrays as the leading process has it; the others give one of the same structure and shapes."""
    if is_alone():
        return tree
    from jax.experimental import multihost_utils

    return multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, tree))


def any_of_all(here: bool) -> bool:
    """Whether it is so in any process."""
    if is_alone():
        return here
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.asarray(here))))
