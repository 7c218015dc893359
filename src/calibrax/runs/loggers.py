"""Where a run's numbers and pictures go besides its folder: TensorBoard, W&B, Trackio, or a user's own logger."""

import contextlib
import math
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibrax._files import printable, write_text
from calibrax.training.metrics_log import Row
from calibrax.training.signals import Interrupts

Settings = Mapping[str, Any]


class Logger(NamedTuple):
    """The functions of a logger, for `calibrax.runs.train(config, loggers=[...])`.

    The leading process calls them from its training loop; numbers of about 20 steps arrive together. If one raises, the
    run saves its state and ends with a `LoggerError`, so nothing is lost. `metrics.jsonl` stays the record of the run.

    A run that was killed repeats the steps after its newest checkpoint when it is resumed, with equal numbers. A logger
    that minds drops the earlier ones: those after the step that `start` receives.

    Attributes:
      start: `(folder, settings, step)`: called once, before the first step. `folder` is the run's folder, `settings`
        are those of the command line by name, `step` is the number of steps already taken: 0 unless the run is resumed.
      numbers: `(step, values)`: one training step or one evaluation. The names begin with `train/` or `test/`, such as
        `train/loss` or `test/neg_elbo` (nats per example). Steps count from 1. The values are finite floats; others are
        left out.
      picture: `(step, name, pixels)`: a picture of an evaluation, uint8 [H, W, 3], such as `samples` or
        `reconstructions`. None for a logger without pictures.
      close: called at the end if `start` did not raise, also after an error.

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
    """Event files in the run's folder `tensorboard`. A resumed run hides the steps that it takes again."""
    board: Any = None

    def start(folder: Path, settings: Settings, step: int) -> None:
        nonlocal board
        from tensorboardX import SummaryWriter

        # An absolute path, because a name such as s3:x would be taken for a bucket.
        board = SummaryWriter(str(folder.absolute() / "tensorboard"), purge_step=step + 1 if step else None)
        if step == 0:
            lines = [f"    {name}: {value}" for name, value in _printable(settings).items()]
            board.add_text("settings", "\n".join(lines))

    def numbers(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)

    def picture(step: int, name: str, pixels: np.ndarray) -> None:
        board.add_image(name, pixels, step, dataformats="HWC")

    return Logger(start, numbers, picture, lambda: board.close())


def wandb() -> Logger:
    """A run in Weights & Biases, of the project `WANDB_PROJECT`, or `calibrax` if that variable is not set.

    `WANDB_MODE=offline` writes to the run's folder `wandb` alone. A resumed run continues the run of the same id.
    """
    run: Any = None

    def start(folder: Path, settings: Settings, step: int) -> None:
        nonlocal run
        import wandb

        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "calibrax"),
            id=_id_of(folder),
            name=printable(folder.name),
            config=_printable(settings),
            dir=str(folder.absolute()),
            resume="allow",
            reinit="create_new",  # the caller's program may have a run of its own
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")  # W&B's own step takes no earlier one, so none that is repeated

    def numbers(step: int, values: Mapping[str, float]) -> None:
        run.log({"step": step, **values})

    def picture(step: int, name: str, pixels: np.ndarray) -> None:
        import wandb

        run.log({"step": step, name: wandb.Image(pixels)})

    return Logger(start, numbers, picture, lambda: run.finish())


def trackio() -> Logger:
    """A run in Trackio, of the project `TRACKIO_PROJECT`, or `calibrax` if that variable is not set.

    Trackio stores it on this machine, in the folder `TRACKIO_DIR`; `trackio show` draws it. A resumed run continues the
    run of the same name.
    """
    run: Any = None

    def start(folder: Path, settings: Settings, step: int) -> None:
        nonlocal run
        import trackio

        project = os.environ.get("TRACKIO_PROJECT", "calibrax")
        name = f"{printable(folder.name)}-{_id_of(folder)}"
        run = trackio.init(project, name=name, config=_printable(settings), resume="allow", embed=False)

    def numbers(step: int, values: Mapping[str, float]) -> None:
        run.log({**values}, step=step)

    def picture(step: int, name: str, pixels: np.ndarray) -> None:
        import trackio

        run.log({name: trackio.Image(pixels)}, step=step)

    return Logger(start, numbers, picture, lambda: run.finish())


LOGGERS = {"tensorboard": tensorboard, "wandb": wandb, "trackio": trackio}
MODULES = {"tensorboard": "tensorboardX", "wandb": "wandb", "trackio": "trackio"}


def _id_of(folder: Path) -> str:
    """What a service knows the run by: the text of `RUN/logger_id`, which is drawn at random once."""
    path = folder / "logger_id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:8])
    return path.read_text(encoding="utf-8")


def _printable(settings: Settings) -> dict[str, Any]:
    """The settings, with escapes for bytes in the names of files that are no text."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in settings.items()}


class Loggers:
    """The loggers of one run. If one raises, it is called no more, and the run saves its state and ends."""

    def __init__(self, loggers: Sequence[Logger], interrupts: Interrupts):
        self._loggers, self._interrupts = list(loggers), interrupts

    @contextlib.contextmanager
    def started(self, folder: Path, settings: Settings, step: int) -> Iterator[None]:
        """Start the loggers, and close those that did when the block ends."""
        started = []

        def start(logger: Logger) -> None:
            logger.start(folder, settings, step)
            started.append(logger)

        self._each(start)
        try:
            yield
        finally:
            self._loggers = started  # one that failed later is closed as well
            self._each(lambda logger: logger.close())

    def row(self, row: Row) -> None:
        """Log the numbers of a row of `metrics.jsonl`."""
        self._each(lambda logger: logger.numbers(row["step"], _numbers(row)))

    def pictures(self, folder: Path, step: int) -> None:
        """Log an evaluation's pictures: `samples/step_0000100.png` is that of the name `samples` at step 100."""
        if any(logger.picture for logger in self._loggers):
            for path in sorted(folder.glob(f"*/step_{step:07}.png")):
                name, pixels = path.parent.name, _pixels(path)
                self._each(lambda logger: logger.picture and logger.picture(step, name, pixels))  # noqa: B023

    def _each(self, call: Callable[[Logger], Any]) -> None:
        for logger in list(self._loggers):
            try:
                call(logger)
            except Exception as error:  # a user's logger, or a service, may raise anything
                self._loggers.remove(logger)
                self._interrupts.fail(_failure(error))


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
