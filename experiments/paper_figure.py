"""Make a figure of the paper: train its runs, draw the pictures, record the provenance."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from calibrax._files import write_text
from calibrax.data import Data
from calibrax.evaluation.metric import Record
from calibrax.runs import Run
from calibrax.runs import folder as run_folder
from calibrax.runs.evaluate import check_fid_images
from experiments import paper_table, report
from experiments.figures.panels import save_comparison
from experiments.sweep import IMAGE_SIZE, Case, Result, SweepConfig, chosen, command_line, load, sweep

NUM_SIDE_BY_SIDE = 64  # samples of each decoder


class FigureData(NamedTuple):
    """The data of a plot."""

    results: Sequence[Result]  # of all seeds
    data: Data
    title: str

    @property
    def first_seed(self) -> Sequence[Result]:
        return [result for result in self.results if result.config.run.seed == 0]

    @property
    def num_seeds(self) -> int:
        return len({result.config.run.seed for result in self.results})

    @property
    def over_seeds(self) -> str:
        """What the numbers are, in words."""
        return "one seed" if self.num_seeds == 1 else f"mean ± standard error over {self.num_seeds} seeds"


class Figure(NamedTuple):
    """What a figure shows."""

    name: str  # of its folder
    title: str
    source: str  # the paper's data set
    cases: Sequence[Case]
    draw: Callable[[Path, FigureData], None] | None = None  # writes a plot as PNG or SVG, depending on the suffix
    answer: Callable[[FigureData], str] | None = None  # answer.md: a table, and the answer as the last paragraph
    measure: Callable[[Run], Record] | None = None  # of each run; its record has the result under the figure's name
    samples: bool = False  # one row of samples per case
    side_by_side: bool = False  # one grid of samples per case
    information: bool = False  # measure rate, mutual information and marginal KL
    image_size: int = IMAGE_SIZE


def main(figure: Figure, argv: Sequence[str] | None = None) -> int:
    """The command line of one figure; returns the exit code."""
    module = figure.name.replace("-", "_")
    return command_line(module, argv, SweepConfig, lambda config, command: make(figure, config, command))


def make(figure: Figure, config: SweepConfig, command: str) -> None:
    """Train the runs that are missing and draw the figure."""
    figure = figure._replace(cases=chosen(config, figure.cases))
    data = load(config, figure.cases[0], figure.source, figure.image_size)
    check_fid_images(config.fid_images, len(data.test))
    options = {"source": figure.source, "image_size": figure.image_size, "information": figure.information}
    measurements = {} if figure.measure is None else {figure.name: figure.measure}
    results = list(sweep(config, figure.cases, data, measurements=measurements, **options))
    folder = Path(config.out) / figure.name
    title = report.full_title(figure.title, config, data)
    figure_data = FigureData(results, data, title)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    if figure.answer is not None:
        files.append("answer.md")
        text = figure.answer(figure_data)
        write_text(folder / files[-1], f"# {figure.title}\n\n{report.setting(config, data)}\n\n{text.strip()}\n")
        print(text)
    if figure.draw is not None:
        for suffix in (".png", ".svg"):
            files.append(f"{figure.name}{suffix}")
            figure.draw(folder / files[-1], figure_data)
    if figure.samples:
        files.append("samples.png")
        paper_table.save_samples(folder / files[-1], figure.cases, results, data, title=f"Samples: {title}, seed 0")
    if figure.side_by_side:
        files.append("samples.png")
        panels = [
            (result.case.label, paper_table.samples(result, data, NUM_SIDE_BY_SIDE))
            for result in figure_data.first_seed
        ]
        save_comparison(folder / files[-1], panels, columns=8, title=f"{title}, seed 0")
    provenance = report.provenance(figure.name, results, config, data, command)
    run_folder.write_json(folder / "provenance.json", provenance)
    print(f"{folder}{os.sep}: {', '.join([*files, 'provenance.json'])}")
