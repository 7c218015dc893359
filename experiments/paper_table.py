"""From a table of the paper to its files: runs, `table.md`, `table.csv`, chart, samples, provenance."""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calibrax import cli
from calibrax.data import Data
from calibrax.evaluation import generate
from calibrax.runs import run
from calibrax.runs.evaluate import check_fid_images, checked_weights
from experiments import report
from experiments.figures.panels import save_strips
from experiments.figures.scores import Score, save_scores
from experiments.report import Table
from experiments.sweep import Case, Done, SweepConfig, chosen, sweep, train_config

IMAGE_SIZE = 28  # of the small network's experiments
NUM_SAMPLES = 16  # of each decoder, in a row
ANYONE = Case("", {"likelihood": "gaussian"})


def main(table: Table, source: str, argv: Sequence[str] | None) -> int:
    """The command line of one table; returns the exit code."""
    module = table.name.replace("-", "_")
    return guarded(module, argv, SweepConfig, lambda config, command: make(table, source, config, command))


def guarded(module: str, argv: Sequence[str] | None, kind: type, command: Callable[[Any, str], Any]) -> int:
    """Parse a sweep's command line and carry it out; a user's mistake is one line and exit code 2."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def call():
        config = cli.parse(kind, f"python -m experiments.{module}", argv)
        if config.inception is not None:
            config = dataclasses.replace(config, inception=checked_weights(config.inception))
        command(config, shlex.join(["python", "-m", f"experiments.{module}", *argv]))

    return cli.guarded(call)


def make(
    table: Table,
    source: str,
    config: SweepConfig,
    command: str,
    *,
    futures: int = 0,
    pictures: Callable[..., Sequence[str]] | None = None,
) -> list[Done]:
    """Train what the table lacks and write it; after each run with what there is, so that it can be looked at.

    Args:
      table: what to train and show.
      source: the data's name, where the user gives no other.
      config: the user's settings.
      command: what the user typed.
      futures: of videos, samples of each of which the best is measured.
      pictures: `(folder, table, done, data, title=...)` writes what there is to see and returns the files' names; by
        default a row of samples for each decoder.
    """
    table = table._replace(cases=chosen(config, table.cases))
    image_size = table.image_size or IMAGE_SIZE
    data = load(config, source, image_size, table.cases[0])
    check_fid_images(config.fid_images, len(data.test))
    done: list[Done] = []
    folder = out_folder(config, table.name)
    for one in sweep(config, table.cases, data, source=source, image_size=image_size, futures=futures):
        done.append(one)
        report.write(folder, table, done, config, data, command)
    title = f"{table.title}; {data.name}, {report.in_words(config.epochs)}"
    for suffix in (".png", ".svg"):
        save_scores(folder / f"chart{suffix}", scores(table, done), title=title)
    seen = (pictures or _rows_of_samples)(folder, table, done, data, title=title)
    print((folder / "table.md").read_text(encoding="utf-8"))
    print(f"{folder}{os.sep}: {', '.join(['table.md', 'table.csv', 'chart.png', 'chart.svg', *seen])}, provenance.json")
    return done


def load(config: SweepConfig, source: str, image_size: int, case: Case = ANYONE) -> Any:
    """The sweep's images, or the videos of a case with a video model, of the fraction asked for."""
    return run.load_data(train_config(config, case, 0, data=source, image_size=image_size))


def out_folder(config: SweepConfig, name: str) -> Path:
    return Path(config.out) / name


def scores(table: Table, done: Sequence[Done]) -> list[tuple[str, list[Score]]]:
    """-log p beside the paper's: densities in one panel, decoders over 256 levels in another."""
    (column,) = (column for column in table.columns if column.compares)
    groups = []
    scaled = column.heading.partition(",")[2] if column.shift else ""  # which pixels the density is of
    for discrete, heading in ((False, f"-log p of a density{scaled}"), (True, "-log P of 256 levels")):
        everyone = column.field == "discretized_neg_elbo"  # there, densities have levels as well
        cases = [case for case in table.cases if case.is_discrete == discrete or everyone]
        cases = [case for case in cases if report.mean(done, case, column) or column.paper in case.paper]
        if cases and not (everyone and not discrete):
            groups.append(
                (
                    f"{heading} (nats per {'frame' if is_video(done) else 'image'})",
                    [_score(case, done, column) for case in cases],
                )
            )
    return groups


def _score(case: Case, done: Sequence[Done], column: report.Column) -> Score:
    ours = report.mean(done, case, column)
    return Score(
        label=case.label,
        value=None if ours is None else ours.value,
        stderr=None if ours is None else ours.stderr,
        paper=case.paper.get(column.paper),
        doubtful=column.paper in case.doubts,
    )


def samples(one: Done, data: Data, num: int) -> np.ndarray:
    """Means of p(x|z) for draws of the prior, [num, H, W, C] in [0, 1]; the same z for every decoder."""
    return np.clip(generate(run.Run(one.config, data).trained(), num, key=jax.random.key(0)), 0, 1)


def is_video(done: Sequence[Done]) -> bool:
    """Whether these are runs with video models."""
    return any(one.config.is_video for one in done)


def _rows_of_samples(folder: Path, table: Table, done: Sequence[Done], data: Data, *, title: str) -> Sequence[str]:
    heading = f"Samples, means of p(x|z): {title}, seed 0"
    save_samples(folder / "samples.png", table.cases, done, data, title=heading)
    return ["samples.png"]


def save_samples(path: Path, cases: Sequence[Case], done: Sequence[Done], data: Data, *, title: str) -> None:
    """A row of samples for each decoder, of the first seed, under a row of the data."""
    rows = [("test images", data.test[:NUM_SAMPLES])]
    for case in cases:
        first = next((one for one in done if one.case == case and one.config.seed == 0), None)
        if first is not None:
            rows.append((case.label, samples(first, data, NUM_SAMPLES)))
    save_strips(path, rows, title=title)
