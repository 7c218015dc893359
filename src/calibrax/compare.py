"""Finished runs side by side: one table, one figure (`calibrax compare`)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrax import run_folder
from calibrax.config import ConfigError
from calibrax.evaluation import comparison, comparison_figure, drawing
from calibrax.run_folder import RunError
from calibrax.training import read_metrics


def compare(folders: Sequence[str], out: str | None = None) -> str:
    """Draw the runs' curves over one another, and put their results into one table.

    Args:
      folders: of at least one run, each with results.
      out: the figure, a .png or .svg; by default `comparison.png` in the current folder.

    Returns:
      The table, and the figure's path in a last line.

    Raises:
      ConfigError, RunError: the user's mistake, in one line; nothing is written.
    """
    if not folders:
        raise ConfigError("no run to compare; expected at least one folder")
    path = Path("comparison.png" if out is None else out)
    try:
        drawing.figure_suffix(path)
    except ValueError as error:
        raise ConfigError(f"--out is {path}; expected a name that ends in .png or .svg") from error
    places = [Path(folder).resolve() for folder in folders]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise ConfigError(f"{folders[index]} is named twice; a run is compared with others")
    records = [read_record(folder) for folder in folders]
    rows = [read_rows(folder) for folder in folders]
    labels = comparison.labels(folders, records)
    tests = {comparison.tested_on(record) for record in records}
    title = tests.pop() if len(tests) == 1 else None
    try:
        comparison_figure.save_comparison_curves(path, dict(zip(labels, rows, strict=True)), title=title)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return f"{comparison.comparison_table(dict(zip(labels, records, strict=True)))}\n{path}"


def read_record(folder: str | Path) -> dict[str, Any]:
    """A run's results with its settings beside them; raises RunError where there are none."""
    config = run_folder.read_config(folder)
    path = Path(folder) / run_folder.RESULTS_FILE
    if not path.exists():
        raise RunError(f"{folder} holds no results yet; calibrax evaluate {folder} makes them")
    results = run_folder.read_json(path)
    if not _is_results(results):
        raise RunError(f"cannot read {path}: it holds no results of a run")
    return dataclasses.asdict(config) | results


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """A run's metrics; none where the file is not there. Raises RunError where it cannot be read."""
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        return read_metrics(path)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise RunError(str(error)) from error


def _is_results(record: Any) -> bool:
    for name in ("test", "running average"):
        if not isinstance(record, dict) or name not in record:
            return False
        record = record[name]
    return isinstance(record, dict)
