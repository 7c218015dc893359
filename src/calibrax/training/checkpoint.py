"""Checkpoints with orbax: the whole `TrainState` and the place in the data."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from calibrax.training.state import TrainState


class Checkpoints:
    """The checkpoints of one run, newest last; a save is complete or absent.

    Args:
      folder: where they are; made if missing.
      keep: how many of the newest stay.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, *, seed: int, steps_per_epoch: int) -> None:
        """Write `state` unless a checkpoint of its step exists; returns when it is on disk."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        position = {"seed": seed, "epoch": step // steps_per_epoch, "batch": step % steps_per_epoch}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_present(jax.tree.map(np.asarray, state))),
                position=ocp.args.JsonSave(position),
            ),
        )

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The newest checkpoint, or that of `step`, in the structure, shapes and dtypes of `like`.

        Args:
          like: a state, or its abstract shapes.
          step: which one; None for the newest.

        Raises:
          FileNotFoundError: if there is none.
          ValueError: if it holds a state of another structure.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self._manager.directory}")
        target = _present(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like))
        restored: Any = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))
        return like._replace(**restored.state)

    def close(self) -> None:
        self._manager.close()


def _present(state: TrainState) -> dict[str, Any]:
    """The fields that are not None: a run without a moving average has no trace of one on disk."""
    return {name: value for name, value in state._asdict().items() if value is not None}
