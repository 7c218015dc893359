"""Where a run's numbers and pictures go besides its folder: TensorBoard, W&B, Trackio, or a user's own logger."""

import collections
import contextlib
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibrax._files import write_text
from calibrax.runs.folder import METRICS_FILE
from calibrax.training.metrics_log import Row, read_metrics
from calibrax.training.signals import Interrupts

Settings = Mapping[str, Any]
Values = Mapping[str, float | np.ndarray]  # an array is a picture
_Connection = tuple[Callable[[int, Values], Any], Callable[[], Any]]  # log values at a step; close


class Logger(NamedTuple):
    """The functions of a logger, for `calibrax.runs.train(config, loggers=[...])`.

    The leading process calls them from its training loop; numbers of about 20 steps arrive together. If one raises, the
    run saves its state and ends with a `LoggerError`, so nothing is lost. `metrics.jsonl` stays the record of the run.

    A run that was killed repeats the steps after its newest checkpoint when it is resumed. A logger that keeps earlier
    rows drops those after the step that `start` receives, or ignores the repeated ones.

    Attributes:
      start: `(folder, settings, step)`: called once, before the first step. `folder` is the run's folder, `settings`
        are those of the command line by name, `step` is the number of steps already taken: 0 unless the run is resumed.
      numbers: `(step, values)`: one training step or one evaluation. The names begin with `train/` or `test/`, such as
        `train/loss` or `test/neg_elbo` (nats per example). Steps count from 1. The values are finite floats; others are
        left out.
      picture: `(step, name, pixels)`: a picture of an evaluation, uint8 [H, W, 3], such as `samples` or
        `reconstructions`. None for a logger without pictures.
      close: called at the end, also after an error.

    Example:
      >>> def best_elbo(path):
      ...     best = []
      ...     def start(folder, settings, step):
      ...         best[:] = [float("-inf")]
      ...     def numbers(step, values):
      ...         best.append(max(best[-1], -values.get("test/neg_elbo", float("inf"))))
      ...     def close():
      ...         Path(path).write_text(f"best test ELBO: {best[-1]:.1f} nats per image")
      ...     return Logger(start, numbers, close=close)
      >>> logger = best_elbo("best.txt")  # calibrax.runs.train(config, loggers=[logger])
    """

    start: Callable[[Path, Settings, int], Any]
    numbers: Callable[[int, Mapping[str, float]], Any]
    picture: Callable[[int, str, np.ndarray], Any] | None = None
    close: Callable[[], Any] = lambda: None


class LoggerError(RuntimeError):
    """A logger has raised; its own exception is the cause. The run is saved, and the message says how to resume it."""


def tensorboard() -> Logger:
    """Event files in the run's folder `tensorboard`. A resumed run hides the events that it writes again."""

    def connect(folder: Path, settings: Settings, sent: "_Sent", step: int) -> _Connection:
        from tensorboardX import SummaryWriter

        # Write again the steps that the run repeats, and before them those that a kill may have kept from the disk.
        first = max(1, min(step + 1, max(sent.steps.values())))
        sent.set(first - 1)
        # An absolute path, because a name such as s3:x would be taken for a bucket.
        board = SummaryWriter(str(folder / "tensorboard"), purge_step=first, flush_secs=15)
        if first == 1:
            board.add_text("settings", "\n".join(f"    {name}: {value}" for name, value in settings.items()))

        def log(step: int, values: Values) -> None:
            for name, value in values.items():
                if isinstance(value, np.ndarray):
                    board.add_image(name, value, step, dataformats="HWC")
                else:
                    board.add_scalar(name, value, step)

        return log, board.close

    return _continued("tensorboard", connect)


def wandb() -> Logger:
    """A run in Weights & Biases, of the project `WANDB_PROJECT`, or `calibrax` if that variable is not set.

    `WANDB_MODE=offline` writes to the run's folder `wandb` alone. A resumed run continues the run of the same id.
    """

    def connect(folder: Path, settings: Settings, sent: "_Sent", step: int) -> _Connection:
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "calibrax"),
            id=sent.key,
            name=folder.name,
            config={**settings},
            dir=str(folder),
            resume="allow",
            reinit="create_new",  # the caller's program may have a run of its own
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")  # W&B's own step counts calls, and takes no earlier one
        return lambda step, values: run.log({"step": step, **_with_pictures(values, wandb.Image)}), run.finish

    return _continued("wandb", connect)


def trackio() -> Logger:
    """A run in Trackio, of the project `TRACKIO_PROJECT`, or `calibrax` if that variable is not set.

    Trackio stores it on this machine, in the folder `TRACKIO_DIR`; `trackio show` draws it. A resumed run continues the
    run of the same name.
    """

    def connect(folder: Path, settings: Settings, sent: "_Sent", step: int) -> _Connection:
        import trackio

        project, name = os.environ.get("TRACKIO_PROJECT", "calibrax"), f"{folder.name}-{sent.key}"
        run = trackio.init(project, name=name, config={**settings}, resume="allow", embed=False)
        return lambda step, values: run.log(_with_pictures(values, trackio.Image), step=step), run.finish

    return _continued("trackio", connect)


def _with_pictures(values: Values, picture: Callable[[np.ndarray], Any]) -> dict[str, Any]:
    return {name: picture(value) if isinstance(value, np.ndarray) else value for name, value in values.items()}


LOGGERS = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}
LATENCY = 30  # seconds; TensorBoard and W&B 0.31 write to the disk every 15


class _Sent:
    """What a logger has of a run: the run's id there, and the last training step and evaluation that it surely has.

    A row counts as stored once it is `LATENCY` old or the logger was closed, which an error or a signal does too. A run
    that was killed outright sends the rows of its last seconds again, so a service may hold two equal ones. The
    file, two numbers of fixed width and the id, is written in place, because that is quick.
    """

    def __init__(self, path: Path):
        try:
            *steps, self.key = path.read_text(encoding="utf-8").split()
            self.steps: dict[str, int] = dict(zip(("train", "test"), map(int, steps), strict=True))
        except (OSError, ValueError):
            self.steps, self.key = {"train": 0, "test": 0}, uuid.uuid4().hex[:8]
            write_text(path, self._text())
        self._stream = path.open("r+", encoding="utf-8")
        self._recent: collections.deque[tuple[float, str, int]] = collections.deque()

    def add(self, split: str, step: int) -> None:
        """A row has been sent."""
        now = time.monotonic()
        self._recent.append((now, split, step))
        if self._recent[0][0] < now - LATENCY:
            self._store(now - LATENCY)

    def set(self, step: int) -> None:
        """Everything up to this step is stored, and nothing after it."""
        self.steps = dict.fromkeys(self.steps, step)
        self._store(-math.inf)

    def close(self) -> None:
        self._store(math.inf)
        self._stream.close()

    def _store(self, until: float) -> None:
        while self._recent and self._recent[0][0] < until:
            _, split, step = self._recent.popleft()
            self.steps[split] = max(self.steps[split], step)
        self._stream.seek(0)
        self._stream.write(self._text())
        self._stream.flush()

    def _text(self) -> str:
        return f"{self.steps['train']:010} {self.steps['test']:010} {self.key}\n"


def _continued(name: str, connect: Callable[[Path, Settings, _Sent, int], _Connection]) -> Logger:
    """A logger that continues where it was; `RUN/loggers/NAME` says what it has of the run.

    At the start it logs the rows of `metrics.jsonl` that are not there, and their pictures: those that a kill has cost
    it, or all if the run did not log there before.
    """
    connection: Any = None
    sent: Any = None
    has: dict[str, int] = {}

    def start(folder: Path, settings: Settings, step: int) -> None:
        nonlocal connection, sent, has
        sent = _Sent(folder / "loggers" / name)
        connection = connect(folder.absolute(), settings, sent, step)
        has = dict(sent.steps)
        for row in read_metrics(folder / METRICS_FILE):
            if row["split"] != "train" and row["step"] > has["test"]:
                for kind, path in pictures_of(folder, row["step"]).items():
                    picture(row["step"], kind, _pixels(path))
            numbers(row["step"], _numbers(row))

    def numbers(step: int, values: Mapping[str, float]) -> None:
        split = "train" if all(name.startswith("train/") for name in values) else "test"
        if step > has[split]:
            connection[0](step, values)
            sent.add(split, step)

    def picture(step: int, name: str, pixels: np.ndarray) -> None:
        if step > has["test"]:
            connection[0](step, {name: pixels})

    def close() -> None:
        if connection is not None:
            connection[1]()
        if sent is not None:
            sent.close()

    return Logger(start, numbers, picture, close)


class Loggers:
    """The loggers of one run. If one raises, it is called no more, and the run saves its state and ends."""

    def __init__(self, loggers: Sequence[Logger], interrupts: Interrupts):
        self._loggers, self._interrupts = list(loggers), interrupts

    @contextlib.contextmanager
    def started(self, folder: Path, settings: Settings, step: int) -> Iterator[None]:
        """Start the loggers, and close them when the block ends."""
        started = list(self._loggers)
        self._each(lambda logger: logger.start(folder, settings, step))
        try:
            yield
        finally:
            self._loggers = started  # one that failed is closed as well
            self._each(lambda logger: logger.close())

    def row(self, row: Row) -> None:
        """Log the numbers of a row of `metrics.jsonl`."""
        self._each(lambda logger: logger.numbers(row["step"], _numbers(row)))

    def pictures(self, folder: Path, step: int) -> None:
        """Log the pictures of an evaluation that are in the run's folder."""
        if any(logger.picture for logger in self._loggers):
            for name, path in pictures_of(folder, step).items():
                pixels = _pixels(path)
                self._each(lambda logger: logger.picture and logger.picture(step, name, pixels))  # noqa: B023

    def _each(self, call: Callable[[Logger], Any]) -> None:
        for logger in list(self._loggers):
            try:
                call(logger)
            except Exception as error:  # a user's logger, or a service, may raise anything
                self._loggers.remove(logger)
                self._interrupts.fail(_failure(error))


def pictures_of(folder: Path, step: int) -> dict[str, Path]:
    """The pictures of an evaluation, by name: `samples/step_0000100.png` is that of `samples` at step 100."""
    return {path.parent.name: path for path in sorted(folder.glob(f"*/step_{step:07}.png"))}


def _pixels(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def _numbers(row: Row) -> dict[str, float]:
    """The finite numbers of a row, by split and name."""
    values = row.items()
    return {f"{row['split']}/{name}": x for name, x in values if isinstance(x, float) and math.isfinite(x)}


def _failure(error: Exception) -> Callable[[str], LoggerError]:
    """The exception to end the run with, given the text on how to resume."""
    reason = next(iter(str(error).strip().splitlines()), "")
    what = f"a logger failed ({type(error).__name__}{': ' if reason else ''}{reason})"

    def make(how_to_resume: str) -> LoggerError:
        failure = LoggerError(f"{what}; {how_to_resume}")
        failure.__cause__ = error
        return failure

    return make
