"""Finished runs side by side: one table, one figure (`calibrax compare`)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrax.runs import folder as run_folder
from calibrax.runs.config import ConfigError
from calibrax.evaluation import comparison
from calibrax.evaluation.figures import comparison as comparison_figure
from calibrax.evaluation.figures import _style as drawing
from calibrax.runs.folder import RunError
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
    """Whether it holds what is compared, in the types that `calibrax evaluate` writes."""
    if not isinstance(record, dict) or not isinstance(record.get("event_shape", []), list):
        return False
    scores = record.get("fid", {})
    tested = record["test"].get("running average") if isinstance(record.get("test"), dict) else None
    if not isinstance(tested, dict) or not isinstance(scores, dict):
        return False
    settings = [record.get(key) for key, form, _ in comparison.DIFFERENCES if form != "{}"]
    numbers = [*settings, *(value for name, value in tested.items() if name != "layer_kls")]
    for score in scores.values():
        if not isinstance(score, dict) or not isinstance(score.get("name"), str):
            return False
        numbers += [score.get(name) for name in ("value", "mean", "stderr", "num_a", "num_b")]
    return all(value is None or isinstance(value, int | float) for value in numbers)
