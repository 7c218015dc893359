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
from experiments import paper_page
from experiments.parts import PARTS, Part
from experiments.sweep import SweepConfig, command_line, in_words, load, unfinished

# Images per second on two cores at 28×28×3. The usual speed is that of whole runs, with evaluation and FID; the others
# are scaled by their training steps. That of videos is in frames of moving digits.
SPEED = {"categorical": 90, "bitwise-categorical": 350, "logistic-mixture": 240}
USUAL_SPEED, VIDEO_SPEED = 550, 270


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
    """Runs of each decoder, with seeds 0, 1, ...; MNIST has at most two, videos and figures of samples one."""
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
    speeds, usual = ({}, VIDEO_SPEED) if data.is_video else (SPEED, USUAL_SPEED)
    seconds = {str(run.run.run_dir): images / speeds.get(run.likelihood.name, usual) for run in left}
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
