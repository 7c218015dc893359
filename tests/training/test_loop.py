"""The training loop calls its functions in the right order, whatever the training steps are."""

import signal
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from calibrax.training import BadSteps
from calibrax.training.loop import Schedule, train_loop
from calibrax.training.signals import Interrupted, Interrupts

SCHEDULE = Schedule(last_step=12, steps_per_epoch=6, save_every=4, evaluate_every=12)
STEPPER = SimpleNamespace(put_state=lambda state: state, get_state=lambda state: state)


class State(NamedTuple):
    step: int


class TakeSteps:
    """Steps that only count, at most `num` per call."""

    def __init__(self, num):
        self.num = num

    def __call__(self, state, step, num):
        assert state.step == step
        return State(step + num), {"loss": float(step)}


def run(start=0, num=5, schedule=SCHEDULE, interrupts=None, on_log=lambda step: None):
    """The state after the loop and the events in their order."""
    events = []

    def log(step, metrics, count):
        events.append(f"log {step - count + 1}-{step}")
        on_log(step)

    state = train_loop(
        State(start),
        STEPPER,
        TakeSteps(num),
        schedule,
        interrupts or Interrupts(lambda: "resume"),
        log=log,
        save=lambda state: events.append(f"save {state.step}"),
        evaluate=lambda state: events.append(f"evaluate {state.step}"),
        explain=lambda bad, state: RuntimeError(f"{bad} after {state.step}"),
    )
    return state, events


def test_steps_are_logged_then_saved_then_evaluated_and_no_call_crosses_a_save_or_an_epoch():
    state, events = run()
    assert state == State(12)
    assert events == [
        "evaluate 0",
        *("log 1-4", "save 4", "log 5-6", "save 6"),
        *("log 7-8", "save 8", "log 9-12", "save 12"),
        "evaluate 12",
    ]


@pytest.mark.parametrize("num", [1, 3, 100])
def test_a_resumed_loop_takes_the_steps_that_are_left(num):
    _, whole = run(num=num)
    _, rest = run(start=6, num=num)
    assert rest == whole[-len(rest) :]
    assert rest[0].startswith("log 7-")


def test_a_finished_run_is_only_evaluated():
    assert run(start=12) == (State(12), ["evaluate 12"])


@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_after_a_signal_the_newest_state_is_saved_and_the_loop_ends(signum, exit_code):
    interrupts, saved = Interrupts(lambda: "how to resume"), []
    with pytest.raises(Interrupted, match="how to resume") as stop:
        train_loop(
            State(0),
            STEPPER,
            TakeSteps(2),
            SCHEDULE,
            interrupts,
            log=lambda step, metrics, num: interrupts.on_signal(signum),
            save=lambda state: saved.append(state.step),
            evaluate=lambda state: None,
            explain=lambda bad, state: bad,
        )
    assert saved == [2]
    assert stop.value.exit_code == exit_code


def test_bad_steps_end_the_loop_with_their_explanation():
    def fail(step):
        if step == 6:
            raise BadSteps("no usable update", first_step=5)

    with pytest.raises(RuntimeError, match="no usable update after 6"):
        run(on_log=fail)
