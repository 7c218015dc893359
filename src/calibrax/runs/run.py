"""A run: its data, model, likelihood, optimizer, folder and checkpoints."""

import contextlib
import functools
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

import calibrax.data
from calibrax.data import Data, DataError, FramesError, steps_per_epoch
from calibrax.data.sources import files_of
from calibrax.evaluation import Evaluation, Trained, evaluate_likelihood
from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import NoMeanError
from calibrax.runs import folder as run_folder
from calibrax.runs.config import TrainConfig
from calibrax.runs.platforms import check_platforms
from calibrax.runs.presets import SVGSettings
from calibrax.runs.settings import ConfigError
from calibrax.training import Checkpoints, DamagedCheckpoint, TrainState, create_train_state
from calibrax.training.loop import Schedule

NUM_SCORED_VIDEOS = 256  # training videos to calibrate and score on; a pass over all takes as long as an epoch
IMAGES_PER_BATCH = 256  # of an evaluation


def load_data(config: TrainConfig) -> Data:
    """The images or videos that the settings name, at their image size and fraction.

    Args:
      config: the settings.

    Returns:
      The data set.

    Raises:
      ConfigError, DataError: if they cannot be had, or the model cannot use them, or JAX cannot start; one line.
    """
    check_platforms()
    options: dict[str, Any] = {"data_dir": config.data.data_dir, "image_size": config.data.image_size}
    if isinstance(config.model, SVGSettings):
        data = _load_videos(config.data.name, config.model, options)
    else:
        if calibrax.data.is_video_source(config.data.name):
            videos = f"--data {config.data.name} are videos"
            raise ConfigError(f"--model {config.model.name} is of images, and {videos}; try --model svg")
        data = calibrax.data.load(config.data.name, **options)
    return calibrax.data.take_fraction(data, config.data.fraction)


def load_data_again(config: TrainConfig) -> Data:
    """The data of the run in `run_dir`, from where the settings say that they are now.

    Raises:
      RunError: if they are not there, or are not those that the run was begun on.
      ConfigError, DataError: as `load_data`.
    """
    folder = Path(config.run.run_dir or ".")
    try:
        data = load_data(config)
    except DataError as error:
        source, data_dir = config.data.name, config.data.data_dir
        if config.data != run_folder.read_config(folder).data:
            raise
        files, place = files_of(source), "" if data_dir is None else f" in {data_dir}"
        begun = f"the run in {folder} was trained on {source}{place}"
        if files is not None and not os.path.exists(files):
            new = "--data gives its new place, or --data-dir that of a data set prepared by TFDS"
            raise run_folder.RunError(f"{begun}, which is not there now; {new}") from error
        if files is None and place:
            raise run_folder.RunError(f"{begun}; --data-dir gives its new place: {error}") from error
        raise
    return run_folder.check_data(folder / run_folder.CONFIG_FILE, data)


def _load_videos(source: str, model: SVGSettings, options: dict[str, Any]) -> Data:
    images = f"--model {model.name} is of videos, and --data {source} are images; try --model conv-vae"
    if calibrax.data.is_video_source(source) is False:
        raise ConfigError(images)
    length = model.n_past + model.n_future
    try:
        videos = calibrax.data.load(source, num_frames=length, num_test_frames=model.n_eval, **options)
    except FramesError as error:
        added = f"--n-past {model.n_past} and --n-future {model.n_future} add up to {length}"
        raise ConfigError(f"{added if error.split == 'train' else f'--n-eval is {model.n_eval}'}: {error}") from error
    if not videos.is_video:
        raise ConfigError(images)
    shortest = videos.test[0].shape[0]
    if shortest <= model.n_past:
        more = f"more than the {model.n_past} that are given, --n-past"
        raise DataError(f"{videos.name}: test videos have {shortest} frames; expected {more}")
    if len(videos.test) < 2 and not model.running_batch_norm:
        one = "a batch of one has no statistics for batch norm"
        raise DataError(f"{videos.name}: there is one test video; expected two or more ({one})")
    return videos


@contextlib.contextmanager
def as_user_error() -> Iterator[None]:
    """Report an unreadable log or checkpoint folder as a user error."""
    try:
        yield
    except ValueError as error:
        raise run_folder.RunError(str(error)) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise run_folder.RunError(f"cannot read {error.filename}: {error.strerror}") from error


class Run:
    """The parts of one run: model, likelihood, optimizer, data, folder and checkpoints.

    Args:
      config: the settings, with `run_dir` set once there is a folder.
      data: the images or videos.
      optimizer, model, likelihood: as in `train`.

    Attributes:
      custom: which of model, likelihood and optimizer are not those of the settings.
      model_name, likelihood_name: what results and pictures call them.
      parts: model, likelihood and optimizer by name, as `train_step` takes them.
    """

    def __init__(
        self,
        config: TrainConfig,
        data: Data,
        *,
        optimizer: optax.GradientTransformation | None = None,
        model: nn.Module | None = None,
        likelihood: Likelihood | None = None,
    ):
        self.config, self.data = config, data
        self.folder = Path(config.run.run_dir or ".")
        given = {"model": model, "likelihood": likelihood, "optimizer": optimizer}
        self.custom = [name for name, part in given.items() if part is not None]
        self.model_name = config.model.name if model is None else "own-model"
        self.likelihood_name = config.likelihood.name if likelihood is None else "own-likelihood"
        self.likelihood = config.make_likelihood() if likelihood is None else likelihood
        self.model: Any = config.make_model(data.image_shape, self.likelihood) if model is None else model
        optimizer = config.optimizer.make() if optimizer is None else optimizer
        self.parts = {"model": self.model, "likelihood": self.likelihood, "optimizer": optimizer}
        self.init_key, self.train_key, self.eval_key = jax.random.split(jax.random.key(config.run.seed), 3)
        with as_user_error():
            self.checkpoints = Checkpoints(self.folder / "checkpoints")

    @classmethod
    def open(
        cls, folder: str | Path, data_dir: str | Path | None = None, *, data: str | Path | None = None, **custom: Any
    ) -> "Run":
        """The run in a folder, with its data.

        Args:
          folder: the run's folder.
          data_dir: where prepared data and original files are now, if they have been moved.
          data: where the file or folder of images is now, if it has been moved. It may have another name.
          **custom: the model, likelihood or optimizer that the run was given instead of those of its settings.

        Raises:
          RunError: if the folder holds no run, or one that needs other parts than those given; if the data are not
            found, or are not those that the run was begun on.
          ConfigError, DataError: if the data cannot be read; one line.
        """
        moved = {"data": data, "data_dir": data_dir}
        moved = {name: os.fspath(place) for name, place in moved.items() if place is not None}
        config = run_folder.read_config(folder).replace(**moved)
        run = cls(config, load_data_again(config), **custom)
        run.check_custom()
        return run

    def check_custom(self) -> None:
        """Refuse a run that was begun with a model, likelihood or optimizer of the caller's that is missing now."""
        if missing := set(run_folder.read_custom(self.folder)) - set(self.custom):
            which = " and ".join(sorted(missing))
            raise run_folder.RunError(
                f"{self.folder}: the run was begun with its own {which}; pass it to calibrax.runs.train or Run.open"
            )

    def check(self) -> None:
        """Refuse data that the settings or the model cannot use. Called before a folder is created.

        The model is traced on abstract shapes, which computes nothing.
        """
        batch_size, scan_steps = self.config.run.batch_size, self.config.run.scan_steps
        if (scan_steps or 1) > 1 and not isinstance(self.data.train, np.ndarray):
            raise ConfigError(f"--scan-steps is {scan_steps}; expected 1 for data that is not in memory as a whole")
        if batch_size > len(self.data.train):
            most = f"at most {len(self.data.train)}, the training {self.data.noun}"
            raise ConfigError(f"--batch-size is {batch_size}; expected {most}")
        examples = jax.ShapeDtypeStruct((1, *self.data.event_shape), np.uint8)
        try:
            jax.eval_shape(self.model.init, jax.random.key(0), examples, jax.random.key(0))
        except ValueError as error:
            raise ConfigError(f"--model {self.model_name} cannot take {self.data.name}: {error}") from error
        if self.data.is_video:  # predictions are fed back by their means
            frames, *frame_shape = self.data.event_shape
            channels = self.likelihood.output_channels(frame_shape[-1])
            outputs = jax.ShapeDtypeStruct((1, frames - 1, *frame_shape[:-1], channels), np.float32)
            parts = self.likelihood.init((frames - 1, *frame_shape))
            try:
                jax.eval_shape(self.likelihood.mean, *parts, outputs)
            except NoMeanError as error:
                raise ConfigError(f"--likelihood {self.likelihood_name} is not for videos: {error}") from error

    @functools.cached_property
    def test(self) -> np.ndarray:
        """The test images [N, H, W, C], or videos [N, T, H, W, C]."""
        return calibrax.data.first(self.data.test)

    @functools.cached_property
    def train_part(self) -> np.ndarray:
        """The training images, or some of the training videos, to calibrate and to score on."""
        return calibrax.data.first(self.data.train, NUM_SCORED_VIDEOS if self.data.is_video else None)

    @functools.cached_property
    def validation_part(self) -> np.ndarray:
        """The validation images, or some of the videos, to calibrate on; ConfigError if there are none."""
        if self.data.validation is None:
            raise ConfigError(
                f"--calibrate-on is validation, but the run in {self.folder} left no training {self.data.noun} out; "
                "train with --fraction 0.9 to keep a tenth for it"
            )
        return calibrax.data.first(self.data.validation, NUM_SCORED_VIDEOS if self.data.is_video else None)

    @property
    def past(self) -> Any:
        """The number of frames that a video model is given; None for a model of images."""
        return self.model.n_past if self.data.is_video else None

    @property
    def batch_size(self) -> int:
        """Examples per batch of an evaluation.

        Batch norm of the video models takes the statistics of each batch, as in training. With 3 or more per batch,
        `example_batches` leaves no example alone in one.
        """
        return max(3, self.config.run.batch_size) if self.data.is_video else IMAGES_PER_BATCH

    @functools.cached_property
    def schedule(self) -> Schedule:
        settings = self.config.run
        per_epoch = steps_per_epoch(len(self.data.train), settings.batch_size)
        return Schedule(
            last_step=settings.epochs * per_epoch,
            steps_per_epoch=per_epoch,
            save_every=settings.save_every or per_epoch,
            evaluate_every=per_epoch * settings.eval_every,
        )

    def batches(self, start_step: int = 0, part: tuple[int, int] = (0, 1)) -> Iterator[np.ndarray]:
        """The training batches that follow `start_step`, or the i-th of n equal parts of each: part (i, n)."""
        settings = self.config.run
        return calibrax.data.batches(
            self.data.train, settings.batch_size, seed=settings.seed, start_step=start_step, part=part
        )

    def initial_state(self) -> TrainState:
        """The state before the first step, made on the first batch: the hierarchical models take gains from it."""
        ema = self.config.optimizer.ema_decay is not None
        create = functools.partial(create_train_state, **self.parts, ema=ema, start_scales=self.config.run.start_scales)
        return jax.jit(create)(self.init_key, next(self.batches()))

    def saved_state(self) -> TrainState:
        """The newest checkpoint; RunError if there is none that can be read."""
        try:
            return self.checkpoints.restore(jax.eval_shape(self.initial_state))
        except FileNotFoundError as error:
            raise run_folder.RunError(f"{self.folder} holds no checkpoint yet") from error
        except DamagedCheckpoint as error:
            raise run_folder.RunError(str(error)) from error
        except ValueError as error:
            what = f"the checkpoint in {self.folder}"
            raise run_folder.RunError(f"{what} does not fit its {run_folder.CONFIG_FILE}") from error

    def trained(self, state: TrainState | None = None) -> Trained:
        """The model with a state's parameters, or their moving average, and its running average.

        Args:
          state: by default the newest checkpoint.
        """
        state = self.saved_state() if state is None else state
        return Trained(self.model, self.likelihood, state.eval_params, state.likelihood_state)

    def score(self, trained: Trained, examples: np.ndarray) -> Evaluation:
        """The likelihood of images or videos."""
        return evaluate_likelihood(trained, examples, key=self.eval_key, batch_size=self.batch_size)

    def caption(self, state: TrainState) -> str:
        """The beginning of the titles of pictures of a state."""
        return f"{self.data.name}, {self.likelihood_name}, step {int(state.step)}"

    def how_to_resume(self) -> str:
        """What to tell the user after an interruption."""
        resume = command_line("train", "--resume", "--run-dir", str(self.folder))
        return f"saved at step {self.checkpoints.latest_step() or 0}; resume with: {resume}"


def command_line(*arguments: str) -> str:
    """A command for a shell: `calibrax` if this process was started by that name, or else this interpreter."""
    found, called = (os.path.splitext(path)[0] for path in (shutil.which("calibrax") or "", sys.argv[0]))  # no .exe
    program = ["calibrax"] if found and found == called else [sys.executable or "python", "-m", "calibrax"]
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return join([*program, *arguments])
