"""The runs behind the paper's tables and figures.

A run is trained once, by the first table or figure that needs it. Its folder is
`RUNS/DATA-SIZE-IMAGES-EPOCHS/DECODER-seedN`, so that Table 1, Table 2 and the figures share runs. To continue after an
interruption, repeat the command.
"""

import dataclasses
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from calibrax import cli
from calibrax._files import finite_or_none
from calibrax.data import Data, steps_per_epoch
from calibrax.evaluation.metric import NoOptions, Record, plain
from calibrax.evaluation.metrics.distances import metric_name
from calibrax.evaluation.metrics.fid import FidOptions, feature_of
from calibrax.evaluation.metrics.prediction import PredictionOptions
from calibrax.likelihoods import Likelihood
from calibrax.runs import ConfigError, Run, TrainConfig, load_data, train
from calibrax.runs import folder as run_folder
from calibrax.runs.evaluate import checked_weights, measure
from calibrax.runs.presets import LIKELIHOODS
from calibrax.runs.settings import check_name
from calibrax.training.signals import Interrupted

IMAGE_SIZE = 28  # height and width in the experiments with the small network


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Train what a table or a figure of the paper needs, and write it beside the paper's numbers."""

    data: str = ""
    """An .npz file, a folder of images, or a known name (default: the paper's data set)."""
    data_dir: str | None = None
    """The folder of prepared data and original files (default: TFDS_DATA_DIR if set, or ~/tensorflow_datasets)."""
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
    """One device (jit) or all devices: sharded is the standard; pmap, which JAX only maintains, is the alternative."""

    def __post_init__(self):
        for name in ("epochs", "seeds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; expected at least 1")
        for name in self.only:
            check_name("only", name, LIKELIHOODS)
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"--fraction is {self.fraction}; expected more than 0, at most 1")


class Case(NamedTuple):
    """One row of a table: a decoder and the paper's numbers for it."""

    label: str
    settings: Mapping[
        str, Any
    ]  # of TrainConfig, by flat name: the decoder, and the model if it is not the small network
    paper: Mapping[str, float] = {}  # the paper's numbers, by `Column.paper`
    doubts: Mapping[str, str] = {}  # why a number of the paper is wrong or cannot be compared, by the same names
    is_density: bool = True  # False: it is no density over pixels, so its -log p is left out
    is_discrete: bool = False  # True: its -log p is over 256 levels, not a density
    likelihood: Likelihood | None = None  # to train with instead of that of the settings, which still name the row

    def with_settings(self, **settings: Any) -> "Case":
        return self._replace(settings={**self.settings, **settings})

    def with_paper(self, *, doubts: Mapping[str, str] | None = None, **paper: float | None) -> "Case":
        """The same decoder with numbers of the paper, without those that are None, and with more doubts."""
        numbers = {name: number for name, number in paper.items() if number is not None}
        return self._replace(paper={**self.paper, **numbers}, doubts={**self.doubts, **(doubts or {})})


class Result(NamedTuple):
    """A finished run."""

    case: Case
    config: TrainConfig
    record: dict[str, Any]  # results.json

    def run(self, data: Data) -> Run:
        return Run(self.config, data, likelihood=self.case.likelihood)


def command_line(module: str, argv: Sequence[str] | None, kind: type, command: Callable[[Any, str], Any]) -> int:
    """Parse the settings of a sweep and run it.

    Args:
      module: the name of the module under `experiments`.
      argv: the arguments; None for those of this process.
      kind: SweepConfig or a subclass.
      command: called with the settings and with the whole command line, for the provenance.

    Returns:
      The exit code. A user's mistake is reported in one line, with code 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    def call():
        config = cli.parse(kind, f"python -m experiments.{module}", argv)
        if config.inception is not None:
            config = dataclasses.replace(config, inception=checked_weights(config.inception))
        command(config, shlex.join(["python", "-m", f"experiments.{module}", *argv]))

    return cli.guarded(call)


def chosen(config: SweepConfig, cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases that `--only` selects; all without it. ConfigError if it selects none."""
    found = tuple(case for case in cases if not config.only or case.settings["likelihood"] in config.only)
    if not found:
        known = ", ".join(dict.fromkeys(case.settings["likelihood"] for case in cases))
        raise ConfigError(f"--only is {' '.join(config.only)}; expected some of {known}")
    return found


def load(config: SweepConfig, case: Case, source: str, image_size: int) -> Any:
    """The images of a sweep, or the videos if the case has a video model, reduced to `config.fraction`."""
    return load_data(train_config(config, case, 0, data=source, image_size=image_size))


def train_config(config: SweepConfig, case: Case, seed: int, *, data: str, image_size: int) -> TrainConfig:
    """The settings of the run for one case and seed, without its folder."""
    return TrainConfig.for_model(
        data=config.data or data,
        data_dir=config.data_dir,
        image_size=image_size,
        fraction=config.fraction,
        epochs=config.epochs,
        seed=seed,
        parallel=config.parallel,
        **{"eval_every": max(1, config.epochs // 4), **case.settings},
    )


def sweep(
    config: SweepConfig,
    cases: Sequence[Case],
    data: Data,
    *,
    source: str,
    image_size: int,
    information: bool = False,
    futures: int = 0,
    measurements: Mapping[str, Callable[[Run], Record]] | None = None,
) -> Iterator[Result]:
    """Each case with each seed: read if its run is finished, otherwise trained or resumed.

    Args:
      config: the settings of the sweep.
      cases: what to train.
      data: the images or videos, already reduced to `config.fraction`.
      source: the name from which they were loaded.
      image_size: height and width in the runs.
      information: also measure rate, mutual information and marginal KL (Figure 4).
      futures: samples per test video, of which the best is scored; 0 for none.
      measurements: what else to measure on each run, by its key in the run's record.

    Yields:
      The results, all cases of the first seed first. A run whose training diverges is reported and left out.

    Raises:
      Interrupted: after Ctrl-C, with everything saved.
    """
    jobs = _jobs(config, cases, data, source, image_size)
    began, num_trained = time.monotonic(), 0
    for index, (case, settings) in enumerate(jobs):
        record, seed = _finished_record(settings, data), settings.run.seed
        if record is None:
            left = ""
            if num_trained:
                seconds = (time.monotonic() - began) / num_trained * (len(jobs) - index)
                left = f", about {in_words(seconds)} left"
            print(f"[{index + 1}/{len(jobs)}] {data.name}: {case.label}, seed {seed}{left}", file=sys.stderr)
            try:
                record = _train(settings, data, case)
            except FloatingPointError as error:
                print(f"left out, as training diverged: {case.label}, seed {seed}: {error}", file=sys.stderr)
                continue
            except Interrupted as stop:
                raise Interrupted("saved; the same command goes on from there", stop.exit_code) from stop
            num_trained += 1
        result = _with_measurements(Result(case, settings, record), config, data, information, futures)
        yield _with_own_measurements(result, data, measurements or {})


def unfinished(
    config: SweepConfig, cases: Sequence[Case], data: Data, *, source: str, image_size: int
) -> list[TrainConfig]:
    """The settings of the runs that `sweep` would train or resume."""
    jobs = _jobs(config, cases, data, source, image_size)
    return [settings for _, settings in jobs if _finished_record(settings, data) is None]


def _jobs(
    config: SweepConfig, cases: Sequence[Case], data: Data, source: str, image_size: int
) -> list[tuple[Case, TrainConfig]]:
    """The runs of a sweep, all cases of the first seed first."""
    jobs = []
    for seed in range(config.seeds):
        for case in cases:
            settings = train_config(config, case, seed, data=source, image_size=image_size)
            jobs.append((case, settings.replace(run_dir=str(_folder(config, settings, data, case)))))
    return jobs


def _folder(config: SweepConfig, settings: TrainConfig, data: Data, case: Case) -> Path:
    shape = "x".join(map(str, data.event_shape[:-1]))
    pool = f"{data.name}-{shape}-{len(data.train)}{data.noun}-{settings.run.epochs}epochs"
    decoder = settings.likelihood.name if case.likelihood is None else repr(case.likelihood)
    other = "".join(f"-{name}{value}" for name, value in case.settings.items() if name != "likelihood")
    return Path(config.runs) / pool / re.sub(r"[^\w.-]", "_", f"{decoder}{other}-seed{settings.run.seed}")


def _finished_record(settings: TrainConfig, data: Data) -> dict[str, Any] | None:
    """The results of a run, or None if it is not finished. A different run in its folder is an error."""
    folder = Path(settings.run.run_dir or ".")
    if not (folder / run_folder.CONFIG_FILE).exists():
        return None
    run_folder.check_usable(settings.replace(resume=True))
    run_folder.check_data(folder / run_folder.CONFIG_FILE, data)
    if not (folder / run_folder.RESULTS_FILE).exists():
        return None
    record = run_folder.read_json(folder / run_folder.RESULTS_FILE)
    last_step = settings.run.epochs * steps_per_epoch(len(data.train), settings.run.batch_size)
    return record if record["step"] == last_step else None


def _train(settings: TrainConfig, data: Data, case: Case) -> dict[str, Any]:
    """Train or resume a run; returns its results."""
    exists = (Path(settings.run.run_dir or ".") / run_folder.CONFIG_FILE).exists()
    return train(settings.replace(resume=exists), data, likelihood=case.likelihood)


def _with_measurements(result: Result, config: SweepConfig, data: Data, information: bool, futures: int) -> Result:
    """The result, after the measurements that the sweep needs and that it does not have yet."""
    record = result.record
    wanted: dict[str, Any] = {}
    if config.inception is not None and not _has_fid(record, config, data):
        wanted["fid"] = FidOptions(config.inception, config.fid_images)
    if information and "information" not in record:
        wanted["information"] = NoOptions()
    if futures > 0 and record.get("prediction", {}).get("samples") != futures:
        wanted["prediction"] = PredictionOptions(futures)
    return result._replace(record=measure(result.run(data), record, wanted)) if wanted else result


def _with_own_measurements(result: Result, data: Data, measurements: Mapping[str, Callable[[Run], Record]]) -> Result:
    """The result, after the experiment's own measurements that it does not have yet."""
    missing = {name: function for name, function in measurements.items() if name not in result.record}
    if not missing:
        return result
    run = result.run(data)
    record = result.record | finite_or_none({name: plain(function(run)) for name, function in missing.items()})
    run_folder.write_json(run.folder / run_folder.RESULTS_FILE, record)
    return result._replace(record=record)


def _has_fid(record, config: SweepConfig, data: Data) -> bool:
    """True if the record has a FID of the same features on the same number of images."""
    name = metric_name(feature_of(config.inception or ""))
    measured = record.get("fid", {})
    found = measured.get("fid", {})
    examples = measured.get("clips", found.get("num_a"))
    return found.get("name") == name and examples == (config.fid_images or len(data.test))


def in_words(seconds: float) -> str:
    """A time in hours and minutes."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
