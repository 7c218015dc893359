"""Metrics on disk: `metrics.jsonl` with one row per step."""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calibrax._files import from_json, to_json, write_text

Row = dict[str, Any]


class BadSteps(FloatingPointError):
    """Too many steps in a row were discarded; the message is one line.

    Attributes:
      first_step: the first of these steps, counted from 1.
    """

    def __init__(self, message: str, first_step: int):
        super().__init__(message)
        self.first_step = first_step


class MetricsLog:
    """Appends rows to `metrics.jsonl`. Metrics are fetched from the device in batches.

    A row is `{"step", "split", ...}`; null stands for a number that is not finite. When the log is opened at step k, it
    drops the rows of later steps. A run that resumes from a checkpoint writes those again, so no row is there twice.

    Args:
      folder: the run's folder.
      step: the step at which the run starts or resumes.
      flush_every: number of training rows that stay on the device between two fetches.
      max_skipped: number of steps in a row that may be discarded, that is, have `skipped` 1 or a loss that is not
        finite.
      on_row: called with each row after it is in the file.

    Attributes:
      evaluated_steps: the steps that have a row of an evaluation.
      num_skipped: the number of discarded steps so far.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        step: int = 0,
        flush_every: int = 20,
        max_skipped: int = 0,
        on_row: Callable[[Row], Any] = lambda row: None,
    ):
        self._path = Path(folder) / "metrics.jsonl"
        self._max_skipped, self._on_row = max_skipped, on_row
        self.evaluated_steps: set[int] = set()
        self.num_skipped = self._in_a_row = 0
        for row in self._drop_after(step):
            if row["split"] != "train":
                self.evaluated_steps.add(row["step"])
            else:
                self._count(row)
        self._file = self._path.open("a", encoding="utf-8")
        self._pending: list[tuple[int, int, dict[str, jax.Array]]] = []  # first step, number of steps
        self._flush_every = flush_every

    def train(self, step: int, metrics: dict[str, jax.Array], num: int = 1) -> Row | None:
        """Record the metrics of one training step, or of several that ended with `step`.

        Args:
          step: the last of these steps.
          metrics: scalars; for several steps [num] or longer, of which the first `num` are recorded.
          num: the number of steps.

        Returns:
          The newest row if rows were fetched and written, else None.
        """
        self._pending.append((step - num + 1, num, metrics))
        return self.flush() if sum(num for _, num, _ in self._pending) >= self._flush_every else None

    def flush(self) -> Row | None:
        """Fetch and write all pending rows.

        Raises:
          BadSteps: if more than `max_skipped` steps in a row were discarded; the rows up to there are written.
        """
        pending, rows, bad = jax.device_get(self._pending), [], None
        self._pending = []
        for step, metrics in _one_by_one(pending):
            rows.append({"step": step, "split": "train"} | metrics)
            self._count(rows[-1])
            if self._in_a_row > self._max_skipped:
                bad = _bad_steps(rows[-1], self._in_a_row)
                break
        self._write(*rows)
        if bad is not None:
            raise bad
        return rows[-1] if rows else None

    def evaluation(self, step: int, split: str, metrics: dict[str, float]) -> None:
        """Write the row of an evaluation, after all pending rows."""
        self.flush()
        self._write({"step": step, "split": split, **metrics})
        self.evaluated_steps.add(step)

    def sync(self) -> None:
        """Write all pending rows and force the file to the disk."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        try:
            self.sync()
        finally:
            self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind, *exc_info) -> None:
        try:
            self.close()
        except (OSError, BadSteps):
            if kind is None:  # otherwise the exception already raised matters more
                raise

    def _count(self, row: Row) -> None:
        skipped = row.get("skipped", 0) > 0 or row["loss"] is None or not math.isfinite(row["loss"])
        self.num_skipped += skipped
        self._in_a_row = self._in_a_row + 1 if skipped else 0

    def _write(self, *rows: Row) -> None:
        self._file.write("".join(to_json(row) + "\n" for row in rows))
        self._file.flush()
        for row in rows:
            self._on_row(row)

    def _drop_after(self, step: int) -> list[Row]:
        if not self._path.exists():
            return []
        kept = [row for row in read_metrics(self._path) if row["step"] <= step]
        write_text(self._path, "".join(to_json(row) + "\n" for row in kept))
        return kept


def _one_by_one(pending: list[tuple[int, int, dict[str, np.ndarray]]]) -> Iterator[tuple[int, Row]]:
    """The pairs (step, its scalars)."""
    for first, num, metrics in pending:
        columns = {name: np.atleast_1d(values)[:num].tolist() for name, values in metrics.items()}
        for number, values in enumerate(zip(*columns.values(), strict=True)):
            yield first + number, dict(zip(columns, values, strict=True))


def _bad_steps(row: Row, in_a_row: int) -> BadSteps:
    """The exception for `in_a_row` discarded steps, of which `row` is the last."""
    first = row["step"] - in_a_row + 1
    which = f"at step {first}" if in_a_row == 1 else f"in {in_a_row} steps from step {first} on"
    values = f"loss {row['loss']:g}, gradient norm {row.get('grad_norm', math.nan):g}"
    return BadSteps(f"no usable update {which} ({values} at step {row['step']})", first)


def read_metrics(path: str | Path) -> list[Row]:
    """The rows of a `metrics.jsonl`, with None for numbers that were not finite.

    A last line that a crash cut short is left out.

    Args:
      path: of the file.

    Returns:
      The rows in the order of the file, each a dict.

    Raises:
      ValueError: in one line, if any other line is not a row of metrics.
    """
    rows, lines = [], Path(path).read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = from_json(line.decode("utf-8"))
            if not _is_row(row):
                raise ValueError
        except (ValueError, RecursionError):
            if number == len(lines):
                break
            raise ValueError(f"{path}: line {number} is not a row of metrics") from None
        rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    """True if the row has a step and a split and, for training, the numbers that are counted on resuming."""
    if not (isinstance(row, dict) and isinstance(row.get("split"), str) and type(row.get("step")) is int):
        return False
    if not 0 <= row["step"] < 2**31:  # the step of a state is an int32
        return False
    if row["split"] != "train":
        return True
    loss = row.get("loss", "missing")
    return (loss is None or type(loss) in (int, float)) and type(row.get("skipped", 0.0)) in (int, float)
