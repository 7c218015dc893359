"""The runs behind the paper's tables and figures: each made once, whichever table asks for it, and resumed.

A run lies in `RUNS/DATA-SIZE-IMAGES-EPOCHS/DECODER-seedN`, so that Table 1, Table 2 and the figures share what they
have in common. Typing an interrupted command again goes on where it stopped.
"""

import dataclasses
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from calibrax.data import Data, steps_per_epoch
from calibrax.evaluation.metric import NoOptions
from calibrax.evaluation.metrics.distances import metric_name
from calibrax.evaluation.metrics.fid import FidOptions, feature_of
from calibrax.evaluation.metrics.prediction import PredictionOptions
from calibrax.runs import folder as run_folder
from calibrax.runs import run
from calibrax.runs.config import ConfigError, TrainConfig, check_name
from calibrax.runs.evaluate import measure
from calibrax.runs.modality import modality
from calibrax.runs.presets import LIKELIHOODS
from calibrax.training.signals import Interrupted


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train what a table or a figure of the paper needs, and write it beside the paper's numbers."""

    data: str = ""
    """An .npz file, a folder of images, or a known name (default: the paper's data set)."""
    data_dir: str | None = None
    """Where prepared data and original files are looked for and kept (default: ~/tensorflow_datasets)."""
    epochs: int = 10
    """Passes over the training images; the paper's is 10."""
    seeds: int = 3
    """Runs of each decoder, with seeds 0, 1, ..."""
    fraction: float = 1.0
    """Share of the training images to train on, the first ones; the test images stay whole."""
    only: tuple[str, ...] = ()
    """Rows to train and show, by their likelihoods' names (default: all)."""
    inception: str | None = None
    """Inception's weights for FID and KID: the published .pth, an .npz of folded arrays (FID-768), or download."""
    fid_images: int = 0
    """Images on either side of FID and KID; 0: as many as there are test images."""
    out: str = "runs/paper"
    """Folder in which each table and figure has its own."""
    runs: str = "runs/paper/runs"
    """Folder of the runs, which all tables and figures share."""
    parallel: Literal["jit", "pmap", "sharded"] = "jit"
    """One device, or all of them by pmap or by sharded arrays."""

    def __post_init__(self):
        for name in ("epochs", "seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; expected at least 1")
        for name in self.only:
            check_name("only", name, LIKELIHOODS)
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"--fraction is {self.fraction}; expected more than 0, at most 1")


class Case(NamedTuple):
    """One row of a table."""

    label: str
    settings: Mapping[str, Any]  # of TrainConfig: the decoder, and the model where it is not the small one
    paper: Mapping[str, float] = {}  # the paper's numbers, by the column's name
    doubts: Mapping[str, str] = {}  # why an entry of the paper cannot be right or compared, by the same names
    is_density: bool = True  # False: its -log p is none over pixels, and is left out
    is_discrete: bool = False  # True: its -log p is of 256 levels, not a density


def chosen(config: SweepConfig, cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases that the sweep asks for; ConfigError where there is none of them."""
    found = tuple(case for case in cases if not config.only or case.settings["likelihood"] in config.only)
    if not found:
        known = ", ".join(dict.fromkeys(case.settings["likelihood"] for case in cases))
        raise ConfigError(f"--only is {' '.join(config.only)}; expected some of {known}")
    return found


class Done(NamedTuple):
    """A finished run."""

    case: Case
    config: TrainConfig
    record: dict[str, Any]  # results.json


def train_config(config: SweepConfig, case: Case, seed: int, *, data: str, image_size: int | None) -> TrainConfig:
    """The run of one case and seed, without its folder."""
    settings = dict(case.settings)
    return TrainConfig.for_model(
        settings.pop("model", TrainConfig.model),
        data=config.data or data,
        data_dir=config.data_dir,
        image_size=image_size,
        fraction=config.fraction,
        epochs=config.epochs,
        eval_every=max(1, config.epochs // 4),
        seed=seed,
        parallel=config.parallel,
        **settings,
    )


def sweep(
    config: SweepConfig,
    cases: Sequence[Case],
    data: Data,
    *,
    source: str,
    image_size: int | None,
    information: bool = False,
    futures: int = 0,
) -> Iterator[Done]:
    """Each case with each seed, finished: read where it was made before, resumed or made where not.

    Args:
      config: the sweep.
      cases: what to train.
      data: the images or videos, of the fraction asked for.
      source: the name under which they were loaded.
      image_size: of the runs.
      information: measure rate, mutual information and marginal KL as well (Figure 4).
      futures: samples of each test video, to measure the best of them.

    Yields:
      All cases of the first seed first. A run whose loss stops being finite is reported and left out.

    Raises:
      Interrupted: after Ctrl-C, with everything saved.
    """
    jobs = [(case, seed) for seed in range(config.seeds) for case in cases]
    began, made = time.monotonic(), 0
    for index, (case, seed) in enumerate(jobs):
        settings = train_config(config, case, seed, data=source, image_size=image_size)
        settings = dataclasses.replace(settings, run_dir=str(_folder(config, settings, data, case)))
        record = _results(settings, data)
        if record is None:
            left = (
                "" if not made else f", about {_minutes((time.monotonic() - began) / made * (len(jobs) - index))} left"
            )
            print(f"[{index + 1}/{len(jobs)}] {data.name}: {case.label}, seed {seed}{left}", file=sys.stderr)
            try:
                record = _made(settings, data)
            except FloatingPointError as error:
                print(f"left out, as training diverged: {case.label}, seed {seed}: {error}", file=sys.stderr)
                continue
            except Interrupted as stop:
                raise Interrupted("saved; the same command goes on from there", stop.exit_code) from stop
            made += 1
        yield Done(case, settings, _measured(config, settings, data, record, information, futures))


def _folder(config: SweepConfig, settings: TrainConfig, data: Data, case: Case) -> Path:
    shape, noun = "x".join(map(str, data.event_shape[:-1])), modality(settings).noun
    pool = f"{data.name}-{shape}-{len(data.train)}{noun}-{settings.epochs}epochs"
    other = "".join(f"-{name}{value}" for name, value in case.settings.items() if name != "likelihood")
    return Path(config.runs) / pool / re.sub(r"[^\w.-]", "_", f"{settings.likelihood}{other}-seed{settings.seed}")


def _results(settings: TrainConfig, data: Data) -> dict[str, Any] | None:
    """The results of a run that went to its end; None where it has yet to. Another run in its folder is an error."""
    folder = Path(settings.run_dir or ".")
    if not (folder / run_folder.CONFIG_FILE).exists():
        return None
    resumed = dataclasses.replace(settings, resume=True)
    run_folder.check_usable(resumed)
    run_folder.check_data(folder / run_folder.CONFIG_FILE, data)
    if not (folder / run_folder.RESULTS_FILE).exists():
        return None
    record = run_folder.read_json(folder / run_folder.RESULTS_FILE)
    return record if record["step"] == settings.epochs * steps_per_epoch(len(data.train), settings.batch_size) else None


def _made(settings: TrainConfig, data: Data) -> dict[str, Any]:
    begun = (Path(settings.run_dir or ".") / run_folder.CONFIG_FILE).exists()
    return run.train(dataclasses.replace(settings, resume=begun), data)


def _measured(
    config: SweepConfig, settings: TrainConfig, data: Data, record, information: bool, futures: int
) -> dict[str, Any]:
    """The record with the further measurements that the sweep asks for and it lacks."""
    wanted: dict[str, Any] = {}
    if config.inception is not None and not _has_fid(record, config, data):
        wanted["fid"] = FidOptions(config.inception, config.fid_images)
    if information and "information" not in record:
        wanted["information"] = NoOptions()
    if futures > 0 and record.get("prediction", {}).get("samples") != futures:
        wanted["prediction"] = PredictionOptions(futures)
    return measure(run.Run(settings, data), record, wanted) if wanted else record


def _has_fid(record, config: SweepConfig, data: Data) -> bool:
    """Whether it was measured with these weights' features and on as many images."""
    name = metric_name(feature_of(config.inception or ""))
    measured = record.get("fid", {})
    found = measured.get("fid", {})
    examples = measured.get("clips", found.get("num_a"))
    return found.get("name") == name and examples == (config.fid_images or len(data.test))


def _minutes(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
