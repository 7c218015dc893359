"""All tables and figures that the data at hand allow, and one page of them.

Command:   make paper SVHN=svhn.npz MNIST=mnist.npz ...       (or: python -m experiments.paper --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      said beforehand; `--plan` says it and trains nothing. An interrupted command goes on when it is repeated.
Expected:  a folder for each table and figure, and `index.md`, which shows them beside the paper's numbers.
"""

import dataclasses
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from calibrax.data import DataError
from calibrax.runs import ConfigError
from experiments import (
    figure3,
    figure4,
    figure5,
    figure8,
    figure9,
    learned_scales,
    moving_digits,
    paper_page,
    question_beta,
    question_calibrated,
    question_collapse,
    question_learned_sigma,
    question_other_weights,
    question_test_sigma,
    table1,
    table2_svhn,
    table3,
    table4,
    table5,
)
from experiments.paper_figure import Figure
from experiments.report import Table
from experiments.sweep import SweepConfig, command_line, in_words, load, unfinished

# Images per second of whole runs at 28×28×3, measured on two cores with some other work; of videos, frames.
SPEED = {"categorical": 45, "bitwise-categorical": 240, "logistic-mixture": 90}
USUAL_SPEED = 400


class Part(NamedTuple):
    """A table or figure, at the length at which `make paper` makes it."""

    shows: Table | Figure
    module: str  # of `experiments`
    epochs: int = 10
    most_seeds: int = 100
    fraction: float = 1.0  # of the training images
    flags: tuple[str, ...] = ()


PARTS = (
    Part(table4.table("frey-face"), "table4", epochs=80, flags=("--column", "frey-face")),
    Part(table1.TABLE, "table1"),
    Part(table2_svhn.TABLE, "table2_svhn"),
    Part(figure3.FIGURE, "figure3"),
    Part(figure4.FIGURE, "figure4"),
    Part(figure5.FIGURE, "figure5"),
    Part(figure9.FIGURE, "figure9"),
    Part(learned_scales.TABLE, "learned_scales"),
    Part(table3.TABLE, "table3", epochs=7, most_seeds=2),
    Part(table5.TABLE, "table5"),
    Part(table4.table("cifar10"), "table4", flags=("--column", "cifar10")),
    Part(figure8.FIGURE, "figure8"),
    Part(moving_digits.TABLE, "moving_digits", epochs=2, most_seeds=1),
    Part(question_beta.FIGURE, "question_beta"),
    Part(question_test_sigma.FIGURE, "question_test_sigma", fraction=0.9),
    Part(question_collapse.FIGURE, "question_collapse"),
    Part(question_calibrated.FIGURE, "question_calibrated"),
    Part(question_other_weights.FIGURE, "question_other_weights"),
    Part(question_learned_sigma.FIGURE, "question_learned_sigma", epochs=60),
)


@dataclasses.dataclass(frozen=True)
class PaperConfig:
    """Make all tables and figures that the data at hand allow, and write them on one page."""

    svhn: str = "svhn"
    """SVHN: a known name, an .npz file or a folder of images."""
    mnist: str = "mnist"
    """MNIST, also for the moving digits."""
    frey_face: str = "frey_face"
    """Frey Face."""
    cifar10: str = "cifar10"
    """CIFAR-10."""
    data_dir: str | None = None
    """The folder of prepared data and original files (default: TFDS_DATA_DIR if set, or ~/tensorflow_datasets)."""
    inception: str | None = None
    """Inception's weights for FID and KID: the published .pth, an .npz of folded arrays (FID-768), or download."""
    seeds: int = 3
    """Runs of each decoder, with seeds 0, 1, ...; MNIST's have at most two seeds, those of videos one."""
    only: tuple[str, ...] = ()
    """Tables and figures to make, by name (default: all)."""
    plan: bool = False
    """Only say what there is to do."""
    out: str = "runs/paper"
    """Folder in which each table and figure has its own."""
    runs: str = "runs/paper/runs"
    """Folder of the runs, which all tables and figures share."""
    parallel: Literal["jit", "pmap", "sharded"] = "jit"
    """One device (jit) or all devices: sharded is the standard; pmap, which JAX only maintains, is the alternative."""

    def __post_init__(self):
        if self.seeds < 1:
            raise ConfigError(f"--seeds is {self.seeds}; expected at least 1")
        names = [part.shows.name for part in PARTS]
        for name in self.only:
            if name not in names:
                raise ConfigError(f"--only has {name}; expected some of {', '.join(names)}")


class Task(NamedTuple):
    """What is left to do for a part."""

    part: Part
    config: SweepConfig
    num_runs: int
    left: dict[str, float]  # the folder of each run that is left, and the seconds that it will take on two cores


def main(argv: Sequence[str] | None = None) -> int:
    return command_line("paper", argv, PaperConfig, lambda config, command: make(config))


def make(config: PaperConfig) -> None:
    """Say what there is to do; then make one part after another, and the page after each."""
    tasks = plan(config)
    if config.plan:
        return
    for index, task in enumerate(tasks, start=1):
        print(f"\n{index}/{len(tasks)}: {task.part.shows.title}; {_time(tasks[index - 1 :])} left", file=sys.stderr)
        code = importlib.import_module(f"experiments.{task.part.module}").main(arguments(task))
        if code:
            sys.exit(code)  # the part has said why
        paper_page.write(Path(config.out))
    print(f"{Path(config.out)}{os.sep}index.md")


def plan(config: PaperConfig) -> list[Task]:
    """What is left to do, printed part by part. What lacks its data is left out, and the reason is said.

    Raises:
      DataError: if nothing can be made.
    """
    tasks = []
    for part in PARTS:
        if config.only and part.shows.name not in config.only:
            continue
        try:
            task = _task(part, config)
        except DataError as error:
            print(f"{part.shows.name:<22} left out: {error}", file=sys.stderr)
            continue
        time = _time([task]) if task.left else "all made"
        print(f"{part.shows.name:<22} {len(task.left):3} of {task.num_runs} runs to make, {time}", file=sys.stderr)
        tasks.append(task)
    if not tasks:
        raise DataError("there is no data for any table or figure")
    print(f"in all {_time(tasks)} on two CPU cores, as tables share runs", file=sys.stderr)
    return tasks


def _time(tasks: Sequence[Task]) -> str:
    """About how long the runs of some parts will take; runs that they share count once."""
    seconds = {folder: time for task in tasks for folder, time in task.left.items()}
    return f"about {in_words(sum(seconds.values()))}"


def _task(part: Part, config: PaperConfig) -> Task:
    source = part.shows.source
    data_name = f"moving-digits:{config.mnist}" if source == "moving-digits" else getattr(config, source)
    sweep = SweepConfig(
        data=data_name,
        data_dir=config.data_dir,
        epochs=part.epochs,
        seeds=min(config.seeds, part.most_seeds),
        fraction=part.fraction,
        inception=config.inception,
        out=config.out,
        runs=config.runs,
        parallel=config.parallel,
    )
    cases, image_size = part.shows.cases, part.shows.image_size
    data = load(sweep, cases[0], source, image_size)
    left = unfinished(sweep, cases, data, source=source, image_size=image_size)
    images = len(data.train) * (data.event_shape[0] if data.is_video else 1) * part.epochs
    seconds = {str(run.run.run_dir): images / SPEED.get(run.likelihood.name, USUAL_SPEED) for run in left}
    return Task(part, sweep, len(cases) * sweep.seeds, seconds)


def arguments(task: Task) -> list[str]:
    """The command line of a part."""
    flags = [*task.part.flags]
    for name in ("data", "data_dir", "epochs", "seeds", "fraction", "inception", "out", "runs", "parallel"):
        value = getattr(task.config, name)
        if value is not None:
            flags += [f"--{name.replace('_', '-')}", str(value)]
    return flags


if __name__ == "__main__":
    sys.exit(main())
