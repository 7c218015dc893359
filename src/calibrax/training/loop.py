"""The training loop of a run: take steps, log, save, evaluate, stop."""

from collections.abc import Callable
from typing import Any, NamedTuple

from calibrax._malloc import give_back_free_memory
from calibrax.training import multihost
from calibrax.training.devices import Stepper
from calibrax.training.metrics_log import BadSteps
from calibrax.training.signals import Interrupts
from calibrax.training.state import TrainState
from calibrax.training.step import Metrics
from calibrax.training.stepping import TakeSteps


class Schedule(NamedTuple):
    """When a run saves, evaluates and ends, in steps since its beginning."""

    last_step: int
    steps_per_epoch: int
    save_every: int  # the end of each epoch is saved too
    evaluate_every: int  # the last step is evaluated too

    def saves_at(self, step: int) -> bool:
        return step % self.save_every == 0 or step % self.steps_per_epoch == 0

    def evaluates_at(self, step: int) -> bool:
        return step % self.evaluate_every == 0 or step >= self.last_step

    def steps_before_next_stop(self, step: int) -> int:
        """The number of steps after `step` until the next save or the end of the epoch."""
        return min(self.steps_per_epoch - step % self.steps_per_epoch, self.save_every - step % self.save_every)


def train_loop(
    state: TrainState,
    stepper: Stepper,
    take_steps: TakeSteps,
    schedule: Schedule,
    interrupts: Interrupts,
    *,
    log: Callable[[int, Metrics, int], Any],
    save: Callable[[TrainState], Any],
    evaluate: Callable[[TrainState], Any],
    explain: Callable[[BadSteps, TrainState], Exception],
) -> TrainState:
    """Train from `state` to the schedule's last step.

    If a run has several processes, each of them calls this with the same schedule. Only the leading one logs, saves
    and evaluates; the others pass functions that do nothing, and wait for it after each evaluation.

    Args:
      state: the initial state, or one restored from a checkpoint.
      stepper: moves states to and from the devices.
      take_steps: takes one or several training steps per call.
      schedule: when to save, evaluate and end.
      interrupts: tells whether a signal has arrived.
      log: `(step, metrics, num)`: records the metrics of the `num` steps that ended with `step`.
      save: writes a checkpoint of a state.
      evaluate: evaluates a state, unless the log holds that evaluation already. A run that is killed during an
        evaluation repeats it when it is resumed.
      explain: turns BadSteps, raised while logging, into the exception to leave with, given the state after the step.

    Returns:
      The state after the last step.

    Raises:
      Interrupted: after a signal, with the state saved.
    """
    alone = multihost.is_alone()
    first_step = step = saved_step = int(state.step)
    device_state = stepper.put_state(state)
    try:
        while True:
            if multihost.any_process_at(step, interrupts.arrived):
                save(stepper.get_state(device_state))
                raise interrupts.interrupted()
            if schedule.evaluates_at(step):
                with interrupts.stop_at_once(alone and step == saved_step):
                    evaluate(stepper.get_state(device_state))
                multihost.wait_for_all(f"the evaluation at step {step}")
            if step >= schedule.last_step:
                return stepper.get_state(device_state)
            num = min(take_steps.num, schedule.steps_before_next_stop(step))
            with interrupts.stop_at_once(alone and step == saved_step):  # nothing is unsaved; the first call compiles
                device_state, metrics = take_steps(device_state, step, num)
            if step == first_step:
                give_back_free_memory()  # that of the compilation
            step += num
            log(step, metrics, num)
            if schedule.saves_at(step):
                save(stepper.get_state(device_state))
                saved_step = step
    except BadSteps as bad:
        raise explain(bad, stepper.get_state(device_state)) from None
