"""Make a table of the paper: train its runs; write `table.md`, `table.csv`, a chart, samples and the provenance."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from calibrax.data import Data
from calibrax.evaluation import generate
from calibrax.runs.evaluate import check_fid_images
from experiments import report
from experiments.figures.panels import save_strips
from experiments.figures.scores import Score, save_scores
from experiments.report import Table
from experiments.sweep import Case, Result, SweepConfig, chosen, command_line, load, sweep

NUM_SAMPLES = 16  # of each decoder, in one row


def main(table: Table, argv: Sequence[str] | None = None) -> int:
    """The command line of one table; returns the exit code."""
    module = table.name.replace("-", "_")
    return command_line(module, argv, SweepConfig, lambda config, command: make(table, config, command))


def make(
    table: Table,
    config: SweepConfig,
    command: str,
    *,
    futures: int = 0,
    pictures: Callable[..., Sequence[str]] | None = None,
) -> None:
    """Train the runs that are missing and write the table, updated after each run.

    Args:
      table: what to train and show.
      config: the user's settings.
      command: the command line, for the provenance.
      futures: for videos, how many samples of each to draw, of which the best is scored.
      pictures: `(folder, table, results, data, title=...)` writes pictures and returns their file names; by default,
        one row of samples per decoder.
    """
    table = table._replace(cases=chosen(config, table.cases))
    data = load(config, table.cases[0], table.source, table.image_size)
    check_fid_images(config.fid_images, len(data.test))
    results: list[Result] = []
    folder = Path(config.out) / table.name
    options = {"source": table.source, "image_size": table.image_size, "futures": futures}
    for result in sweep(config, table.cases, data, **options):
        results.append(result)
        report.write(folder, table, results, config, data, command)
    title = report.full_title(table.title, config, data)
    for suffix in (".png", ".svg"):
        save_scores(folder / f"chart{suffix}", scores(table, results), title=title)
    names = (pictures or _rows_of_samples)(folder, table, results, data, title=title)
    print((folder / "table.md").read_text(encoding="utf-8"))
    names = ["table.md", "table.csv", "chart.png", "chart.svg", *names, "provenance.json"]
    print(f"{folder}{os.sep}: {', '.join(names)}")


def scores(table: Table, results: Sequence[Result]) -> list[tuple[str, list[Score]]]:
    """-log p beside the paper's: densities in one panel, decoders over 256 levels in another."""
    column = table.compared_column
    if column.field == "discretized_neg_elbo":  # Table 5 gives every decoder over 256 levels
        panels = [("-log P of 256 levels", list(table.cases))]
    else:
        pixels = column.heading.partition(",")[2] if column.shift else ""  # the range of pixels, if it is not [0, 1]
        panels = [
            (f"-log p of a density{pixels}", [case for case in table.cases if not case.is_discrete]),
            ("-log P of 256 levels", [case for case in table.cases if case.is_discrete]),
        ]
    unit = "frame" if any(result.config.is_video for result in results) else "image"
    groups = []
    for heading, cases in panels:
        rows = [_score(case, results, column) for case in cases]
        rows = [row for row in rows if row.value is not None or row.paper is not None]
        if rows:
            groups.append((f"{heading} (nats per {unit})", rows))
    return groups


def _score(case: Case, results: Sequence[Result], column: report.Column) -> Score:
    ours = report.mean(results, case, column)
    return Score(
        label=case.label,
        value=None if ours is None else ours.value,
        stderr=None if ours is None else ours.stderr,
        paper=case.paper.get(column.paper),
        doubtful=column.paper in case.doubts,
    )


def samples(result: Result, data: Data, num: int) -> np.ndarray:
    """Means of p(x|z) for draws of the prior, [num, H, W, C] in [0, 1]; the same z for every decoder."""
    return np.clip(generate(result.run(data).trained(), num, key=jax.random.key(0)), 0, 1)


def _rows_of_samples(folder: Path, table: Table, results: Sequence[Result], data: Data, *, title: str) -> Sequence[str]:
    heading = f"Samples, means of p(x|z): {title}, seed 0"
    save_samples(folder / "samples.png", table.cases, results, data, title=heading)
    return ["samples.png"]


def save_samples(path: Path, cases: Sequence[Case], results: Sequence[Result], data: Data, *, title: str) -> None:
    """Save a row of test images, and below it one row of samples per decoder, from the first seed."""
    rows = [("test images", data.test[:NUM_SAMPLES])]
    for case in cases:
        first = next((result for result in results if result.case == case and result.config.run.seed == 0), None)
        if first is not None:
            rows.append((case.label, samples(first, data, NUM_SAMPLES)))
    save_strips(path, rows, title=title)
