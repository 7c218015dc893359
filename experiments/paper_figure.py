"""From a figure of the paper to its files: runs, pictures, provenance."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from calibrax.data import Data
from calibrax.runs import folder as run_folder
from calibrax.runs.evaluate import check_fid_images
from experiments import paper_table, report
from experiments.figures.panels import save_comparison
from experiments.sweep import Case, Done, SweepConfig, chosen, sweep

NUM_SIDE_BY_SIDE = 64  # samples of each decoder


class Made(NamedTuple):
    """What a figure is drawn from."""

    first_seed: Sequence[Done]
    data: Data
    title: str


class Figure(NamedTuple):
    """What a figure shows."""

    name: str  # its folder
    title: str
    cases: Sequence[Case]
    draw: Callable[[Path, Made], None] | None = None  # writes a plot as PNG or SVG, by the suffix
    samples: bool = False  # a row of samples for each case
    side_by_side: bool = False  # a grid of samples for each case
    information: bool = False  # measure rate, mutual information and marginal KL


def main(figure: Figure, source: str, argv: Sequence[str] | None) -> int:
    """The command line of one figure; returns the exit code."""
    return paper_table.guarded(
        figure.name, argv, SweepConfig, lambda config, command: make(figure, source, config, command)
    )


def make(figure: Figure, source: str, config: SweepConfig, command: str) -> None:
    """Train what the figure lacks and draw it."""
    figure = figure._replace(cases=chosen(config, figure.cases))
    image_size = paper_table.IMAGE_SIZE
    data = paper_table.load(config, source, image_size)
    check_fid_images(config.fid_images, len(data.test))
    options = {"source": source, "image_size": image_size, "information": figure.information}
    done = list(sweep(config, figure.cases, data, **options))
    folder = paper_table.out_folder(config, figure.name)
    title = f"{figure.title}; {data.name}, {report.in_words(config.epochs)}"
    made = Made([one for one in done if one.config.seed == 0], data, title)
    files = []
    if figure.draw is not None:
        files += [f"{figure.name}.png", f"{figure.name}.svg"]
        for name in files:
            figure.draw(folder / name, made)
    if figure.samples:
        files.append("samples.png")
        paper_table.save_samples(folder / files[-1], figure.cases, done, data, title=f"Samples: {title}")
    if figure.side_by_side:
        files.append("samples.png")
        panels = [(one.case.label, paper_table.samples(one, data, NUM_SIDE_BY_SIDE)) for one in made.first_seed]
        save_comparison(folder / files[-1], panels, columns=8, title=title)
    table = report.Table(figure.name, figure.title, figure.cases)
    run_folder.write_json(folder / "provenance.json", report.provenance(table, done, config, data, command))
    print(f"{folder}{os.sep}: {', '.join([*files, 'provenance.json'])}")
