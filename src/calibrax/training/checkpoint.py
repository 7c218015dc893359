"""Checkpoints with orbax: the whole `TrainState` and the position in the data."""

import contextlib
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from calibrax._files import sync_folder
from calibrax.training.manifest import MANIFEST_FILE, find_damage, write_manifest
from calibrax.training.state import TrainState

STEP_METADATA = "_CHECKPOINT_METADATA"  # orbax's name
STAGING = ".saving"
ROOM_BESIDE_ARRAYS = 1 << 18  # bytes: orbax's indices, metadata and the manifest


class DamagedCheckpoint(ValueError):
    """Files of a checkpoint have changed since they were written, and no intact checkpoint is left; one line."""


class Checkpoints:
    """The checkpoints of one run. A saved checkpoint is complete or absent, and later damage to it is detected.

    Each checkpoint is a folder named after its step. It is written in a staging folder, gets a manifest of its files,
    and is then renamed to its place, so it never appears there without a manifest, even if the process is killed.
    Checkpoints of older versions have no manifest, which orbax's metadata shows. They count as intact if orbax can read
    them.

    One process at a time may save; others may read meanwhile.

    Args:
      folder: the folder of the checkpoints; created with the first one.
      keep: the number of newest checkpoints to keep, at least 1.

    Raises:
      ValueError: if `keep` is not a number from 1, or a file stands in the folder's place.
    """

    def __init__(self, folder: str | Path, *, keep: int = 2):
        if isinstance(keep, bool) or not isinstance(keep, int | np.integer) or keep < 1:
            raise ValueError(f"keep is {keep!r}; expected a whole number from 1")
        self._folder, self._keep = Path(folder).absolute(), keep
        self._parents = not self._folder.parent.exists()  # else a parent that vanishes is not made again
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"{self._folder} is a file; expected a folder of checkpoints")
        self._checkpointer = _checkpointer()
        self._damaged: set[int] = set()  # passed over by `restore`

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, damaged or not; None if there is none.

        A run whose checkpoints are all damaged must not be taken for a new run: `restore` refuses it.
        """
        return max(self._steps(), default=None)

    def verify(self, step: int) -> str | None:
        """The first damaged file of a checkpoint and what is wrong with it, in one line; None if all are intact.

        Also None for a checkpoint of an older version, which has no manifest to compare with.
        """
        return None if self._is_old(step) else find_damage(self._path(step))

    def save(self, state: TrainState, *, seed: int, steps_per_epoch: int) -> None:
        """Write `state` unless an intact checkpoint of its step exists; return when it is on disk.

        A damaged checkpoint of its step is replaced. Damaged ones that `restore` had to skip are removed.

        Raises:
          OSError: if it cannot be written; earlier checkpoints are unchanged.
        """
        step = int(state.step)
        if step in self._steps() and step not in self._damaged and self.verify(step) is None:
            return
        position = {"seed": seed, "epoch": step // steps_per_epoch, "batch": step % steps_per_epoch}
        staging = self._folder / STAGING
        self._folder.mkdir(parents=self._parents, exist_ok=True)
        self.remove_leftovers()
        try:
            self._write(staging / str(step), state, position)
            self._remove({step, *self._damaged})
            os.rename(staging / str(step), self._path(step))
            sync_folder(self._folder)
            earlier = [saved for saved in self._steps() if saved <= step]
            self._remove(set(earlier[: -self._keep]))
        finally:
            self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed while saving has left. No other process may be saving."""
        shutil.rmtree(self._folder / STAGING, ignore_errors=True)

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """The newest intact checkpoint, or that of `step`, in the structure, shapes and dtypes of `like`.

        Each damaged checkpoint that is skipped is reported in a line on stderr.

        Args:
          like: a state, or its abstract shapes.
          step: the step of the checkpoint; None for the newest intact one.

        Raises:
          FileNotFoundError: if there is no checkpoint.
          DamagedCheckpoint: if the checkpoint of `step` is damaged, or all are.
          ValueError: if the checkpoint holds a state of another structure.
        """
        steps = [saved for saved in reversed(self._steps()) if step is None or saved == step]
        which = "" if step is None else f" of step {step}"
        if not steps:
            raise FileNotFoundError(f"no checkpoint{which} in {self._folder}")
        passed: dict[int, str] = {}
        for saved in steps:
            try:
                state = self._restore(like, saved)
            except DamagedCheckpoint as damage:
                passed[saved] = str(damage)
                continue
            # An older checkpoint could be read, so `like` fits, and the newer ones are indeed damaged.
            for damage in (damage for newer, damage in passed.items() if newer not in self._damaged):
                print(f"calibrax: {damage}; going back to {saved}", file=sys.stderr)
            self._damaged = (self._damaged | set(passed)) - {saved}
            return state
        raise DamagedCheckpoint(f"no intact checkpoint{which} in {self._folder}: {', '.join(passed.values())}")

    def close(self) -> None:
        self._checkpointer.close()

    def _write(self, path: Path, state: TrainState, position: dict[str, int]) -> None:
        """Write a complete checkpoint with its manifest."""
        arrays = _present(jax.tree.map(np.asarray, state))
        args = ocp.args.Composite(state=ocp.args.StandardSave(arrays), position=ocp.args.JsonSave(position))
        _check_room(self._folder, sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)))
        try:
            with _plain(path) as plain:
                self._checkpointer.save(plain, args=args, custom_metadata={"manifest": MANIFEST_FILE})
        except OSError:
            raise
        except Exception as error:  # on a full disk, tensorstore raises no OSError
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            code = re.search(r"os_error_code='(\d+)'", reason)
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number) if code else reason, str(path)) from error
        write_manifest(path)

    def _restore(self, like: TrainState, step: int) -> TrainState:
        damage = self.verify(step)
        if damage is not None:
            raise DamagedCheckpoint(f"checkpoint {step} is damaged ({damage})")
        target = _present(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        try:
            with _plain(self._path(step)) as plain:
                restored: Any = self._checkpointer.restore(plain, args=args)
        except Exception as error:  # orbax and tensorstore raise many kinds on damaged files
            if not self._is_old(step):
                raise
            reason = (str(error).strip() or repr(error)).splitlines()[0]
            raise DamagedCheckpoint(f"checkpoint {step} is damaged, or does not fit ({reason})") from error
        _check_shapes(self._path(step), target, restored.state)
        return like._replace(**restored.state)

    def _steps(self) -> list[int]:
        """All steps that have a checkpoint folder, oldest first."""
        if not self._folder.exists():
            return []
        names = (path.name for path in self._folder.iterdir() if path.is_dir())
        return sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))

    def _path(self, step: int) -> Path:
        return self._folder / str(step)

    def _is_old(self, step: int) -> bool:
        """True if a checkpoint was written without a manifest, rather than having lost it."""
        if (self._path(step) / MANIFEST_FILE).exists():
            return False
        try:
            metadata = json.loads((self._path(step) / STEP_METADATA).read_text(encoding="utf-8"))
            return not metadata.get("custom_metadata")
        except (OSError, ValueError, AttributeError):
            return False

    def _remove(self, steps: set[int]) -> None:
        """Remove checkpoints. Each is renamed first, so that no half-removed one stands in its place."""
        for step in steps & set(self._steps()):
            removed = self._folder / STAGING / f"{step}.removed"
            os.rename(self._path(step), removed)
            shutil.rmtree(removed)
        self._damaged -= steps


def _checkpointer() -> ocp.Checkpointer:
    """Orbax's checkpointer, set up so that this process saves and reads without waiting for others."""
    here = jax.process_index()
    options: dict[str, Any] = {
        "multiprocessing_options": ocp.options.MultiprocessingOptions(here, active_processes={here})
    }
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(**options),
        state=ocp.StandardCheckpointHandler(**options),
        position=ocp.JsonCheckpointHandler(**options),
    )
    return ocp.Checkpointer(handler, **options)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The path as orbax can take it: without `..`, and through a link to its parent if a name has unusual characters.

    Orbax and tensorstore take a star or a bracket for a pattern, a backslash for a separator, `gs:` for a bucket, and
    fail on bytes that are not UTF-8. They cancel `link/..`, although the parent of a link's target may be elsewhere.
    """
    path = path.resolve() if ".." in path.parts else path
    if re.fullmatch(r"[\w ./+=,~-]*", path.as_posix().removeprefix(path.drive)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / "checkpoints"
        link.symlink_to(path.parent, target_is_directory=True)
        yield link / path.name


def _check_room(folder: Path, num_bytes: int) -> None:
    """Raise OSError if a checkpoint with arrays of `num_bytes` bytes would not fit.

    A file of that size is allocated for a moment, which also shows quotas. Without this check orbax runs out of room
    halfway and prints pages of errors from threads that are still writing.
    """
    path = folder / STAGING / "room"
    path.parent.mkdir()
    with path.open("wb") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, num_bytes + num_bytes // 32 + ROOM_BESIDE_ARRAYS)
        except AttributeError:  # macOS, Windows
            pass
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                message = f"no room for a checkpoint ({error.strerror})"
                raise OSError(error.errno, message, str(folder)) from error
    path.unlink()


def _check_shapes(where: Path, wanted: Any, found: Any) -> None:
    """Raise ValueError if a restored array has another shape: orbax does not check shapes."""
    for (path, leaf), array in zip(jax.tree_util.tree_leaves_with_path(wanted), jax.tree.leaves(found), strict=True):
        if np.shape(array) != leaf.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{where} has {name} of shape {np.shape(array)}; expected {leaf.shape}")


def _present(state: TrainState) -> dict[str, Any]:
    """The fields that are not None: without a moving average, for example, nothing of it is on disk."""
    return {name: value for name, value in state._asdict().items() if value is not None}
