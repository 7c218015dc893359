"""Training a run, from its settings to its results."""

import functools
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn

from calibrax.data import Data, epoch_order, first
from calibrax.likelihoods import Likelihood
from calibrax.runs import folder as run_folder
from calibrax.runs.config import TrainConfig
from calibrax.runs.epoch_images import save_epoch_images
from calibrax.runs.evaluate import score
from calibrax.runs.extra import check_extra, is_installed
from calibrax.runs.loggers import LOGGERS, MODULES, Logger, Loggers
from calibrax.runs.platforms import check_platforms
from calibrax.runs.run import Run, as_user_error, load_data, load_data_again
from calibrax.runs.settings import ConfigError
from calibrax.training import (
    BadSteps,
    MetricsLog,
    Stepper,
    TrainState,
    first_bad_tensor,
    jit_step,
    multihost,
    pmap_step,
    sharded_step,
)
from calibrax.training.loop import train_loop
from calibrax.training.progress import ProgressBar
from calibrax.training.signals import Interrupts, catch_interrupts
from calibrax.training.stepping import StepByStep, StepsInALoop, StepsOnDevice, TakeSteps

STEPPERS = {"jit": jit_step, "pmap": pmap_step, "sharded": sharded_step}


def train(
    config: TrainConfig,
    data: Data | None = None,
    *,
    optimizer: optax.GradientTransformation | None = None,
    model: nn.Module | None = None,
    likelihood: Likelihood | None = None,
    loggers: Sequence[Logger] = (),
) -> dict[str, Any]:
    """Train and evaluate a model, and write everything into the run's folder.

    If several processes are joined by `jax.distributed`, each of them calls this with the same settings. Its devices
    get its own share of every batch. Only the leading process writes, and returns the results.

    Args:
      config: the settings.
      data: the images or videos, if they are loaded already; by default those that the settings name.
      optimizer: an optax transformation to use instead of that of the settings.
      model: a Linen module to use instead of that of the settings, with the interface of `calibrax.models`. If it
        decodes with another likelihood than the settings name, pass that too.
      likelihood: a likelihood of whole examples to use instead of that of the settings.
      loggers: loggers of the caller's own, besides those of the settings; see `Logger`.

    Returns:
      The content of `results.json`; an empty dict in processes other than the leading one.

    Raises:
      ConfigError, RunError, DataError: mistakes of the user, in one line; nothing that was written before is lost.
      Interrupted: after Ctrl-C or SIGTERM, with the state saved. During an evaluation SIGTERM ends the process itself,
        with exit code 0, because only seconds are left then and nothing is unsaved.
      FloatingPointError: if too many updates in a row are not finite or too large.
      LoggerError: if a logger raises, with the state saved.
    """
    _check_devices(config)
    resumes = config.run.resume and multihost.leads()
    if multihost.leads():
        run_folder.check_usable(config)
    if data is None:
        data = load_data_again(config) if resumes else load_data(config)
    elif resumes:
        data = run_folder.check_data(Path(str(config.run.run_dir)) / run_folder.CONFIG_FILE, data)
    custom: dict[str, Any] = {"optimizer": optimizer, "model": model, "likelihood": likelihood}
    run = Run(config, data, **custom)
    run.check()
    if not multihost.leads():
        with catch_interrupts(lambda: "left") as interrupts:
            _take_all_steps(run, multihost.from_leader(run.initial_state()), interrupts)
        multihost.wait_for_all("the end")
        return {}
    with run_folder.claimed(config, run.data, run.custom) as folder:
        run = Run(config.replace(run_dir=str(folder)), run.data, **custom)
        return _train_and_evaluate(run, [*_loggers_of(config), *loggers])


def _check_devices(config: TrainConfig) -> None:
    check_platforms()
    check_extra("matplotlib", "PIL", *(MODULES[name] for name in config.run.log or () if multihost.leads()))
    batch_size, parallel, accumulate = config.run.batch_size, config.run.parallel, config.optimizer.accumulate
    num_devices = 1 if parallel == "jit" else jax.device_count()
    if batch_size % num_devices:
        raise ConfigError(f"--batch-size is {batch_size}; expected a multiple of the {num_devices} devices")
    if batch_size % (num_devices * accumulate):
        parts = f"the {num_devices} devices times --accumulate {accumulate}"
        raise ConfigError(f"--batch-size is {batch_size}; expected a multiple of {parts}")
    if not multihost.is_alone() and parallel != "sharded":
        raise ConfigError(f"--parallel is {parallel}; {jax.process_count()} processes need sharded")


def _loggers_of(config: TrainConfig) -> list[Logger]:
    """The loggers that the settings name."""
    names = config.run.log
    if names is None:
        names = ("tensorboard",) if is_installed(MODULES["tensorboard"]) else ()
        if not names:
            print("tensorboardX is not installed: metrics go to metrics.jsonl alone", file=sys.stderr)
    return [LOGGERS[name]() for name in names]


def _train_and_evaluate(run: Run, wanted: Sequence[Logger]) -> dict[str, Any]:
    """Train from the newest checkpoint, or from the start, to the last epoch; then evaluate."""
    run.check_custom()
    begin = time.monotonic()
    with catch_interrupts(run.how_to_resume) as interrupts:
        with interrupts.stop_at_once():
            run.checkpoints.remove_leftovers()
            resuming = run.checkpoints.latest_step() is not None
            state = multihost.from_leader(run.saved_state() if resuming else run.initial_state())
        first_step = int(state.step)
        loggers = Loggers(wanted, interrupts)
        with as_user_error():
            max_skipped = run.config.run.max_skipped
            log = MetricsLog(run.folder, step=first_step, max_skipped=max_skipped, on_row=loggers.row)
        with loggers.started(run.folder, run.config.flat(), first_step), log:
            _take_all_steps(run, state, interrupts, log, loggers)
        seconds = round(time.monotonic() - begin, 1)
        try:
            with interrupts.stop_at_once():
                training = {"from_step": first_step, "seconds": seconds, "skipped_steps": log.num_skipped}
                record = score(run, training)
        finally:
            multihost.wait_for_all("the end")  # the others wait there, also if a logger or the evaluation failed
    return record


def _take_all_steps(
    run: Run,
    state: TrainState,
    interrupts: Interrupts,
    log: MetricsLog | None = None,
    loggers: Loggers | None = None,
) -> None:
    """Call the training loop. Without a log and loggers, in a process that does not lead, nothing is written."""
    settings, schedule, step = run.config.run, run.schedule, int(state.step)
    stepper = STEPPERS[settings.parallel](**run.parts, options=run.config.optimizer.make_step_options())
    loop = state, stepper, _how_to_step(run, stepper, step), schedule, interrupts
    if log is None or loggers is None:
        nothing: Any = lambda *_: None  # noqa: E731
        train_loop(*loop, log=nothing, save=nothing, evaluate=nothing, explain=nothing)
        return
    with ProgressBar(step, schedule.last_step, settings.batch_size, "video" if run.data.is_video else "img") as bar:

        def log_steps(step, metrics, num):
            bar.advance(log.train(step, metrics, num), num)

        def save(state):
            log.sync()  # first: the log never lacks a row of a step before a checkpoint
            run.checkpoints.save(state, seed=settings.seed, steps_per_epoch=schedule.steps_per_epoch)

        def evaluate(state):
            if int(state.step) not in {0, *log.evaluated_steps}:
                _evaluate_epoch(run, state, log, loggers)

        train_loop(*loop, log=log_steps, save=save, evaluate=evaluate, explain=functools.partial(_explain, run))


def _how_to_step(run: Run, stepper: Stepper, start_step: int) -> TakeSteps:
    """Several steps per call on one CPU, or if --scan-steps asks for it; otherwise step by step."""
    settings, parts = run.config.run, run.parts | {"options": run.config.optimizer.make_step_options()}
    batches = run.batches(start_step, part=(jax.process_index(), jax.process_count()))
    if settings.scan_steps is None and settings.parallel == "jit" and jax.default_backend() == "cpu":
        return StepsInALoop(parts, batches, run.train_key)
    if (settings.scan_steps or 1) == 1:
        return StepByStep(stepper, batches, run.train_key)
    size, per_epoch, examples = settings.batch_size, run.schedule.steps_per_epoch, first(run.data.train)

    def order(step: int, num: int) -> np.ndarray:
        epoch, place = divmod(step, per_epoch)
        indices = epoch_order(len(examples), seed=settings.seed, epoch=epoch)
        return indices[place * size : (place + num) * size].reshape(num, size)

    return StepsOnDevice(parts, examples, order, run.train_key, settings.scan_steps or 1)


def _evaluate_epoch(run: Run, state: TrainState, log: MetricsLog, loggers: Loggers) -> None:
    """Write pictures, then test metrics into the log. A run killed between the two repeats both when it is resumed."""
    trained, step = run.trained(state), int(state.step)
    name, caption = f"step_{step:07d}", run.caption(state)
    measured = save_epoch_images(run.folder, name, caption, trained, run.test, past=run.past, key=run.eval_key)
    log.flush()  # so that the loggers receive the steps in order
    loggers.pictures(run.folder, step)
    log.evaluation(step, "test", run.score(trained, run.test).metrics() | measured)


def _explain(run: Run, bad: BadSteps, state: TrainState) -> FloatingPointError:
    """The error with the name of the tensor in which the first discarded step went wrong, found by repeating it.

    Discarded steps change nothing but the step count, so `state` is the state before the first of them, unless a good
    step followed.
    """
    first_step = bad.first_step - 1  # the count of the state before it
    batch = next(run.batches(first_step))
    state = state._replace(step=np.int32(first_step))
    where = first_bad_tensor(state, batch, run.train_key, model=run.model, likelihood=run.likelihood)
    latest = run.checkpoints.latest_step()
    saved = "there is no checkpoint yet" if latest is None else f"the last good checkpoint is of step {latest}"
    found = "" if where is None else f"; the first that is not finite is {where}"
    return FloatingPointError(f"{bad}{found}; {saved}")
