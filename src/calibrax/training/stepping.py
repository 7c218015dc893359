"""How a run takes its steps: one per call, or several per call."""

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

from calibrax.training.devices import Stepper
from calibrax.training.many_steps import looped_steps, resident_steps
from calibrax.training.state import TrainState
from calibrax.training.step import Metrics

SECONDS_PER_CALL = 2.0  # a signal waits for the call in progress
LONG_CALL = 0.1  # seconds; a call that takes longer is waited for, so that a signal does not wait for a second one
MAX_STEPS_PER_CALL = 8  # more of them save no measurable time
MAX_BATCH_BYTES = 32 * 2**20  # of the batches that wait on the host for one call

Order = Callable[[int, int], np.ndarray]


class TakeSteps(Protocol):
    """Takes training steps.

    Attributes:
      num: the number of steps that a call should take, unless the epoch or the next checkpoint ends earlier.
    """

    num: int

    def __call__(self, state: TrainState, step: int, num: int) -> tuple[TrainState, Metrics]:
        """Take the `num` steps that follow `step`, all of one epoch. Metrics of several steps are [num] or longer."""
        ...


class StepByStep:
    """One step per call, on any devices."""

    num = 1

    def __init__(self, stepper: Stepper, batches: Iterator[Any], key: jax.Array):
        self._stepper, self._batches, self._key = stepper, batches, key

    def __call__(self, state, step, num):
        return self._stepper.step(state, self._stepper.put_batch(next(self._batches)), self._key)


class StepsInALoop:
    """As many steps per call as take two seconds, at most 8: on a CPU a few percent faster than one step per call.

    `parts` are the arguments of `train_step` by name: model, likelihood, optimizer, options.
    """

    def __init__(self, parts: dict[str, Any], batches: Iterator[np.ndarray], key: jax.Array):
        self._steps, self._batches, self._key = looped_steps(**parts), batches, key
        self._num_calls, self._previous, self._is_long, self.num = 0, None, False, 1

    def __call__(self, state, step, num):
        batches = [next(self._batches) for _ in range(num)]
        capacity = loop_capacity(batches[0].nbytes)
        batches += batches[-1:] * (capacity - num)  # filled up to one shape; these steps are not taken
        timed = self._num_calls == 1  # the first call compiles
        if timed:
            jax.block_until_ready(self._previous)
        begin = time.monotonic()
        state, metrics = self._steps(state, np.stack(batches), num, self._key)
        if timed:
            jax.block_until_ready(metrics)
            seconds = (time.monotonic() - begin) / num
            self.num = int(np.clip(SECONDS_PER_CALL / seconds, 1, capacity))
            self._is_long = self.num * seconds > LONG_CALL
        else:
            jax.block_until_ready(metrics if self._is_long else self._previous)
        self._num_calls += 1
        self._previous = metrics
        return state, metrics


class StepsOnDevice:
    """`num` steps per call, on a data set [N, ...] in the device's memory; `parts` as in `StepsInALoop`.

    `order(step, num)` gives the indices [num, B] of the examples of the `num` steps that follow `step`.
    """

    def __init__(self, parts: dict[str, Any], examples: np.ndarray, order: Order, key: jax.Array, num: int):
        self._steps, self._examples = resident_steps(**parts), jax.device_put(examples)
        self._order, self._key, self.num = order, key, num

    def __call__(self, state, step, num):
        indices = jax.device_put(self._order(step, num).astype(np.int32))
        return self._steps(state, self._examples, indices, self._key)


def loop_capacity(batch_bytes: int) -> int:
    """The number of steps that one call of `StepsInALoop` can take.

    It depends on the batch alone: a resumed run compiles the same program and gets the same numbers to the bit.
    """
    return max(1, min(MAX_STEPS_PER_CALL, MAX_BATCH_BYTES // max(1, batch_bytes)))
