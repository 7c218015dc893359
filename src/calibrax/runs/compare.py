"""Finished runs side by side: one table and one figure (`calibrax compare`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrax.evaluation import report
from calibrax.evaluation.figures._style import figure_suffix
from calibrax.evaluation.figures.comparison import save_comparison_curves
from calibrax.runs import folder as run_folder
from calibrax.runs.folder import RunError
from calibrax.runs.run import load_data_again
from calibrax.runs.settings import ConfigError
from calibrax.training import read_metrics


def compare(folders: Sequence[str], out: str | None = None, *, data: str | None = None) -> str:
    """Draw the runs' curves in one figure, and put their results into one table.

    The figure is a .png or .svg, by default `comparison.png` in the current folder. Results are read from the folders;
    `data` is a source that they must have been trained on. Returns the table, and the figure's path in a last line.

    Raises:
      ConfigError, RunError, DataError: for a user's mistake, in one line; nothing is written.
    """
    if not folders:
        raise ConfigError("no run to compare; expected at least one folder")
    path = Path("comparison.png" if out is None else out)
    try:
        figure_suffix(path)
    except ValueError as error:
        raise ConfigError(f"--out is {path}; expected a name that ends in .png or .svg") from error
    run_folder.check_length(f"--out {path}", path)
    check_different(folders)
    results = [read_results(folder) for folder in folders]
    if data is not None:
        for folder in folders:
            load_data_again(run_folder.read_config(folder).replace(data=data))
    rows = [read_rows(folder) for folder in folders]
    labels = report.labels(folders, results)
    tests = {report.tested_on(one) for one in results}
    title = tests.pop() if len(tests) == 1 else None
    try:
        save_comparison_curves(path, dict(zip(labels, rows, strict=True)), title=title)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return f"{report.comparison_table(dict(zip(labels, results, strict=True)))}\n{path}"


def check_different(folders: Sequence[str]) -> None:
    """Raise ConfigError if two of the names are of one folder."""
    places = [Path(folder).resolve() for folder in folders]
    for index, place in enumerate(places):
        if place in places[:index]:
            raise ConfigError(f"{folders[index]} is named twice; a run is compared with others")


def read_results(folder: str | Path) -> report.Results:
    """A run's results, with its settings among the keys; raises RunError if there are none that can be shown."""
    config = run_folder.read_config(folder)
    path = Path(folder) / run_folder.RESULTS_FILE
    if not path.exists():
        raise RunError(f"{folder} holds no results yet; calibrax evaluate {folder} makes them")
    results: Any = run_folder.read_json(path)
    try:
        results = config.flat() | results
        report.comparison_table(dict(zip(report.labels([folder], [results]), [results], strict=True)))
    except Exception as error:  # in a file that somebody edited, anything may be of any type
        raise RunError(f"cannot read {path}: it holds no results of a run") from error
    return results


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's `metrics.jsonl`; empty if there is no such file. Raises RunError if it cannot be read."""
    path = Path(folder) / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        return read_metrics(path)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error}") from error
    except ValueError as error:
        raise RunError(str(error)) from error
