"""One run from beginning to end: data in; a folder of checkpoints, metrics, pictures and results out."""

import contextlib
import dataclasses
import functools
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from calibrax.training import multihost as processes
from calibrax.runs import folder as run_folder
from calibrax._malloc import give_back_free_memory
from calibrax.runs.config import ConfigError, TrainConfig
from calibrax.data import Data, first, steps_per_epoch
from calibrax.evaluation import Evaluation, Trained, calibrate_on, evaluate_likelihood
from calibrax.evaluation.figures.training_curves import save_training_curves
from calibrax.evaluation.figures.hierarchy import save_layer_kls
from calibrax.evaluation.report import results_table
from calibrax.training.signals import Interrupts, catch_interrupts
from calibrax.runs.modality import modality
from calibrax.training.progress import ProgressBar
from calibrax.runs.taking import FromMemory, Looped, OneByOne, Taking
from calibrax.training import (
    BadSteps,
    Checkpoints,
    DamagedCheckpoint,
    MetricsLog,
    Stepper,
    TrainState,
    create_train_state,
    first_bad_tensor,
    jit_step,
    pmap_step,
    read_metrics,
    sharded_step,
    target,
)

STEPPERS = {"jit": jit_step, "pmap": pmap_step, "sharded": sharded_step}


def train(config: TrainConfig, data: Data | None = None) -> dict[str, Any]:
    """Train and evaluate a model, writing everything into the run's folder.

    Of several processes joined by `jax.distributed`, each calls this with the same settings, and its own share of every
    batch goes through its devices; the first alone writes, and returns the results.

    Args:
      config: the run.
      data: the images or videos, where already loaded; by default `config.data`.

    Returns:
      What `results.json` holds; nothing in processes other than the first.

    Raises:
      ConfigError, RunError, DataError: the user's mistake, in one line; nothing already written is lost.
      Interrupted: after Ctrl-C or SIGTERM, with the state saved. SIGTERM ends the process itself, with exit code 0, in
        the middle of what is long and unsaved anyway (an evaluation), as it leaves only seconds.
      FloatingPointError: if too many updates in a row are not finite or too large.
    """
    num_devices = 1 if config.parallel == "jit" else jax.device_count()
    if config.batch_size % num_devices:
        raise ConfigError(f"--batch-size is {config.batch_size}; expected a multiple of the {num_devices} devices")
    if config.batch_size % (num_devices * config.accumulate):
        parts = f"the {num_devices} devices times --accumulate {config.accumulate}"
        raise ConfigError(f"--batch-size is {config.batch_size}; expected a multiple of {parts}")
    if not processes.is_alone() and config.parallel != "sharded":
        raise ConfigError(f"--parallel is {config.parallel}; {jax.process_count()} processes need sharded")
    if processes.leads():
        run_folder.check_usable(config)
    data = data or load_data(config)
    if (config.scan_steps or 1) > 1 and not isinstance(data.train, np.ndarray):
        raise ConfigError(f"--scan-steps is {config.scan_steps}; expected 1 for data that is not in memory as a whole")
    if config.batch_size > len(data.train):
        noun = modality(config).noun
        raise ConfigError(
            f"--batch-size is {config.batch_size}; expected at most {len(data.train)}, the training {noun}"
        )
    _check_model(config, data)
    if not processes.leads():
        Run(config, data).follow()
        return {}
    with run_folder.claimed(config, data) as folder:
        return Run(dataclasses.replace(config, run_dir=str(folder)), data).train()


def load_data(config: TrainConfig) -> Data:
    """The images or videos that `config` names, at its image size and of its fraction."""
    return modality(config).load(config)


def _check_model(config: TrainConfig, data: Data) -> None:
    """Refuse data that the model cannot take, by tracing it on abstract shapes; before a folder is made."""
    model = config.make_model(data.image_shape)
    images = jax.ShapeDtypeStruct((1, *data.event_shape), np.uint8)
    try:
        jax.eval_shape(model.init, jax.random.key(0), images, jax.random.key(0))
    except ValueError as error:
        raise ConfigError(f"--model {config.model} cannot take {data.name}: {error}") from error


@contextlib.contextmanager
def _damage_said() -> Iterator[None]:
    """A log or a folder of checkpoints that cannot be read is the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise run_folder.RunError(str(error)) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        raise run_folder.RunError(f"cannot read {error.filename}: {error.strerror}") from error


class Run:
    """The parts of one run: to train it, go on with it and evaluate it.

    Args:
      config: with `run_dir` set.
      data: its images or videos.
    """

    def __init__(self, config: TrainConfig, data: Data):
        self.config, self.data, self.modality = config, data, modality(config)
        self.folder = Path(config.run_dir or ".")
        self.model = config.make_model(data.image_shape)
        self.likelihood = config.make_likelihood()
        self.parts = {"model": self.model, "likelihood": self.likelihood, "optimizer": config.make_optimizer()}
        self.batches = functools.partial(self.modality.batches, data.train, config.batch_size, seed=config.seed)
        self.init_key, self.train_key, self.eval_key = jax.random.split(jax.random.key(config.seed), 3)
        with _damage_said():
            self.checkpoints = Checkpoints(self.folder / "checkpoints")

    @classmethod
    def open(cls, folder: str | Path, data_dir: str | None = None) -> "Run":
        """The run in a folder, with its data; raises RunError where the folder holds none."""
        config = run_folder.read_config(folder)
        if data_dir is not None:
            config = dataclasses.replace(config, data_dir=data_dir)
        return cls(config, load_data(config))

    @functools.cached_property
    def test(self) -> np.ndarray:
        """The test images [N, H, W, C], or videos [N, T, H, W, C]."""
        return first(self.data.test)

    def initial_state(self) -> TrainState:
        """Made on the first batch: the hierarchical models take gains and biases from it."""
        create = functools.partial(create_train_state, **self.parts, ema=self.config.ema_decay is not None)
        return jax.jit(create)(self.init_key, next(self.batches()))

    def saved_state(self) -> TrainState:
        """The newest checkpoint."""
        try:
            return self.checkpoints.restore(jax.eval_shape(self.initial_state))
        except FileNotFoundError as error:
            raise run_folder.RunError(f"{self.folder} holds no checkpoint yet") from error
        except DamagedCheckpoint as error:
            raise run_folder.RunError(str(error)) from error
        except ValueError as error:
            what = f"the checkpoint in {self.folder}"
            raise run_folder.RunError(f"{what} does not fit its {run_folder.CONFIG_FILE}") from error

    def train(self) -> dict[str, Any]:
        """Train from the newest checkpoint, or from the start, to the last epoch; then evaluate."""
        begin = time.monotonic()
        with catch_interrupts(self._how_to_go_on) as interrupts:
            with interrupts.at_once():
                self.checkpoints.remove_leftovers()
                resuming = self.checkpoints.latest_step() is not None
                state = processes.from_leader(self.saved_state() if resuming else self.initial_state())
            with _damage_said():
                log = MetricsLog(self.folder, step=int(state.step), max_skipped=self.config.max_skipped)
            with log:
                self._train_loop(state, log, interrupts)
            seconds = round(time.monotonic() - begin, 1)
            with interrupts.at_once():
                from_step = int(state.step)
                record = self.evaluate({"from_step": from_step, "seconds": seconds, "skipped_steps": log.num_skipped})
        processes.wait_for_all("the end")
        return record

    def follow(self) -> None:
        """Take the training steps of the leading process, which saves and evaluates, with this one's devices."""
        with catch_interrupts(lambda: "left") as interrupts:
            state = processes.from_leader(self.initial_state())
            stepper, step = self._stepper(), int(state.step)
            device_state, feed = stepper.put_state(state), self._own_part(step)
            while not self._should_stop(interrupts, step):
                if self._is_due(step):
                    processes.wait_for_all(f"the evaluation at step {step}")
                if step >= self.last_step:
                    return processes.wait_for_all("the end")
                device_state, _ = stepper.step(device_state, stepper.put_batch(next(feed)), self.train_key)
                step += 1
            raise interrupts.interrupted()

    def _stepper(self) -> Stepper:
        return STEPPERS[self.config.parallel](**self.parts, options=self.config.make_step_options())

    def _taking(self, stepper: Stepper, start_step: int) -> Taking:
        config, feed = self.config, self._own_part(start_step)
        parts = self.parts | {"options": config.make_step_options()}
        if config.scan_steps is None and config.parallel == "jit" and jax.default_backend() == "cpu":
            return Looped(parts, feed, self.train_key)
        num = config.scan_steps or 1
        if num == 1:
            return OneByOne(stepper, feed, self.train_key)
        examples: Any = self.data.train
        order = {"batch_size": config.batch_size, "seed": config.seed}
        return FromMemory(parts, examples, **order, key=self.train_key, num=num)

    def _own_part(self, start_step: int) -> Iterator[np.ndarray]:
        """The batches that this process reads, or its part of them."""
        return self.batches(start_step=start_step, part=(jax.process_index(), jax.process_count()))

    @functools.cached_property
    def per_epoch(self) -> int:
        """Steps."""
        return steps_per_epoch(len(self.data.train), self.config.batch_size)

    @property
    def last_step(self) -> int:
        return self.config.epochs * self.per_epoch

    def _is_due(self, step: int) -> bool:
        """Whether there is an evaluation after so many steps."""
        return step % (self.per_epoch * self.config.eval_every) == 0 or step >= self.last_step

    def _should_stop(self, interrupts: Interrupts, step: int) -> bool:
        """Whether a signal has arrived; of several processes, in any, asked so seldom that they need not go in step."""
        if processes.is_alone():
            return interrupts.arrived
        return step % processes.CHECK_EVERY == 0 and processes.any_of_all(interrupts.arrived)

    def _train_loop(self, state: TrainState, log: MetricsLog, interrupts: Interrupts) -> None:
        batch_size, alone = self.config.batch_size, processes.is_alone()
        save_every, last_step = self.config.save_every or self.per_epoch, self.last_step
        stepper, step = self._stepper(), int(state.step)
        begin, on_disk, device_state, take = step, step, stepper.put_state(state), self._taking(stepper, step)

        def save():
            log.sync()  # first: no row of a step before a checkpoint is ever missing
            state = stepper.get_state(device_state)
            self.checkpoints.save(state, seed=self.config.seed, steps_per_epoch=self.per_epoch)

        with ProgressBar(step, last_step, batch_size, self.modality.unit) as bar:
            try:
                while True:
                    if self._should_stop(interrupts, step):
                        save()
                        raise interrupts.interrupted()
                    if self._is_due(step):
                        if step and step not in log.evaluated_steps:
                            with interrupts.at_once(alone and step == on_disk):
                                self._evaluate_epoch(stepper.get_state(device_state), step, log)
                        processes.wait_for_all(f"the evaluation at step {step}")
                    if step >= last_step:
                        return
                    with interrupts.at_once(alone and step == on_disk):  # the first one is compiled, too
                        num = min(take.num, self.per_epoch - step % self.per_epoch)
                        num = min(num, save_every - step % save_every)
                        device_state, metrics = take(device_state, step, num)
                    if step == begin:
                        give_back_free_memory()  # that of the compilation
                    step += num
                    bar.advance(log.train(step, metrics, num), num)
                    if step % save_every == 0 or step % self.per_epoch == 0:
                        save()
                        on_disk = step
            except BadSteps as bad:
                raise self._located(bad, stepper.get_state(device_state)) from None

    def _located(self, bad: BadSteps, state: TrainState) -> FloatingPointError:
        """The error with the tensor where the first of the discarded steps went wrong, found by taking it again.

        The state is still that before it, but for its count, unless a good step came after them.
        """
        first = bad.first_step - 1  # of a state before it
        batch = next(self.batches(start_step=first))
        state = state._replace(step=np.int32(first))
        where = first_bad_tensor(state, batch, self.train_key, model=self.model, likelihood=self.likelihood)
        latest = self.checkpoints.latest_step()
        saved = "there is no checkpoint yet" if latest is None else f"the last good checkpoint is of step {latest}"
        found = "" if where is None else f"; the first that is not finite is {where}"
        return FloatingPointError(f"{bad}{found}; {saved}")

    def _evaluate_epoch(self, state: TrainState, step: int, log: MetricsLog) -> None:
        """Pictures, and then test metrics into the log: whoever is killed in between finds both made again."""
        trained = self.trained(state)
        where = self.folder, f"step_{step:07d}", self.caption(state)
        measured = self.modality.pictures(*where, trained, self.test, self.config, self.eval_key)
        log.evaluation(step, "test", self.score(trained, self.test).metrics() | measured)

    def score(self, trained: Trained, examples: np.ndarray) -> Evaluation:
        """The likelihood of images or videos."""
        return evaluate_likelihood(
            *trained, examples, key=self.eval_key, batch_size=self.modality.batch_size(self.config)
        )

    def evaluate(self, training: dict[str, Any] | None = None) -> dict[str, Any]:
        """Score the newest checkpoint on the test data, write `results.json` and the curves, print the table.

        Args:
          training: how it was trained, for the record; by default what the record before this one says.
        """
        results_file = self.folder / run_folder.RESULTS_FILE
        if results_file.is_dir():
            raise run_folder.RunError(f"{results_file} is a folder; expected none, or a file to replace")
        if training is None and results_file.exists():
            with contextlib.suppress(run_folder.RunError, AttributeError):  # a damaged record is about to be replaced
                training = run_folder.read_json(results_file).get("training")
        state, noun = self.saved_state(), self.modality.noun
        with _damage_said():  # before anything is replaced
            rows = read_metrics(self.folder / "metrics.jsonl")
        trained, train_part = self.trained(state), self.modality.to_score(self.data.train)
        columns = {"running average": trained}
        if jax.tree.leaves(state.likelihood_state):
            exact = calibrate_on(
                *trained[:3], train_part, key=self.eval_key, batch_size=self.modality.batch_size(self.config)
            )
            columns["calibrated"] = trained._replace(likelihood_state=exact)
        results = {name: self.score(column, self.test) for name, column in columns.items()}
        on_train = self.score(trained, train_part)
        scored = jax.eval_shape(functools.partial(target, self.model), self.test[:1]).shape[1:]
        record = {
            "data": self.data.name,
            "split": "test",
            "train_examples": len(self.data.train),
            "likelihood": self.config.likelihood,
            "model": self.config.model,
            "event_shape": list(scored),
            "step": int(state.step),
            "seed": self.config.seed,
            "commit": run_folder.commit(),
            "training": training,
            "test": {name: result._asdict() for name, result in results.items()},
            "train": {"running average": on_train._asdict()},
        }
        run_folder.write_json(results_file, record)
        title = f"{self.data.name}, {self.config.likelihood}, {self.config.model}, seed {self.config.seed}"
        save_training_curves(self.folder / "curves.png", rows, title=title)
        if results["running average"].layer_kls is not None:
            save_layer_kls(self.folder / "layers.png", rows, free_bits=self.config.free_bits or None, title=title)
        heading = f"{title}, step {record['step']}: {len(self.test):,} test {noun}, in the last column "
        heading += f"{len(train_part):,} of the {len(self.data.train):,} of training"
        frames = scored[0] if self.config.is_video else None
        print(results_table(heading, {**results, f"training {noun}": on_train}, frames=frames))
        return record

    def trained(self, state: TrainState | None = None) -> Trained:
        """The model with a state's parameters, or their moving average, and its running average.

        Args:
          state: by default the newest checkpoint.
        """
        state = self.saved_state() if state is None else state
        return Trained(self.model, self.likelihood, state.eval_params, state.likelihood_state)

    def caption(self, state: TrainState) -> str:
        """What pictures of a state begin their title with."""
        return f"{self.data.name}, {self.config.likelihood}, step {int(state.step)}"

    def _how_to_go_on(self) -> str:
        return f"saved at step {self.checkpoints.latest_step() or 0}; go on with: {self.resume_command()}"

    def resume_command(self) -> str:
        """What to type here to go on: the installed command, or this interpreter where it is not on the PATH."""
        python = shlex.quote(os.path.relpath(sys.executable))
        command = "calibrax" if shutil.which("calibrax") else f"{python} -m calibrax.cli"
        return f"{command} train --resume --run-dir {shlex.quote(str(self.folder))}"
