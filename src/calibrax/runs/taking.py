"""How a run takes its steps: one at a time, or several in one call."""

import time
from collections.abc import Iterator
from typing import Any, Protocol

import jax
import numpy as np

from calibrax.data import epoch_order, steps_per_epoch
from calibrax.training import Metrics, Stepper, TrainState, looped_steps, resident_steps

SECONDS_A_CALL = 2.0  # a signal waits for so long, or for a step
SECONDS_ALONE = 0.1  # a call of so long has none behind it, for a signal to wait for
MOST_IN_A_LOOP = 8  # steps; what more of them save is not to be measured
LOOP_BYTES = 32 * 2**20  # of batches, which wait on the host for one call


class Taking(Protocol):
    """Takes steps.

    Attributes:
      num: how many a call should take, where neither the epoch nor the next checkpoint ends before.
    """

    num: int

    def __call__(self, state: TrainState, step: int, num: int) -> tuple[TrainState, Metrics]:
        """Take the `num` steps of one epoch that follow the first `step`; metrics of several are [num] or longer."""
        ...


class OneByOne:
    """Each step is a call, on any devices."""

    num = 1

    def __init__(self, stepper: Stepper, feed: Iterator[Any], key: jax.Array):
        self._stepper, self._feed, self._key = stepper, feed, key

    def __call__(self, state, step, num):
        return self._stepper.step(state, self._stepper.put_batch(next(self._feed)), self._key)


class Looped:
    """As many steps a call as take two seconds, at most 8, on a CPU: a few percent faster than one by one.

    Args:
      parts: of the step, by name.
      feed: the batches.
      key: the run's.
    """

    def __init__(self, parts: dict[str, Any], feed: Iterator[np.ndarray], key: jax.Array):
        self._steps, self._feed, self._key = looped_steps(**parts), feed, key
        self._num_calls, self._before, self.num, self._alone = 0, None, 1, False

    def __call__(self, state, step, num):
        batches = [next(self._feed) for _ in range(num)]
        most = most_in_a_loop(batches[0].nbytes)
        batches += batches[-1:] * (most - num)  # not taken
        second = self._num_calls == 1  # the first one is compiled
        if second:
            jax.block_until_ready(self._before)
        begin = time.monotonic()
        state, metrics = self._steps(state, np.stack(batches), num, self._key)
        if second:
            jax.block_until_ready(metrics)
            seconds = (time.monotonic() - begin) / num
            self.num = int(np.clip(SECONDS_A_CALL / seconds, 1, most))
            self._alone = self.num * seconds > SECONDS_ALONE
        else:
            jax.block_until_ready(metrics if self._alone else self._before)
        self._num_calls += 1
        self._before = metrics
        return state, metrics


class FromMemory:
    """A fixed number of steps a call, on a data set in the device's memory.

    Args:
      parts: of the step, by name.
      examples: [N, ...].
      batch_size: examples a step.
      seed: of the order.
      key: the run's.
      num: steps a call.
    """

    def __init__(
        self, parts: dict[str, Any], examples: np.ndarray, *, batch_size: int, seed: int, key: jax.Array, num: int
    ):
        self._steps, self._examples, self._key, self.num = resident_steps(**parts), jax.device_put(examples), key, num
        self._batch_size, self._seed = batch_size, seed
        self._per_epoch = steps_per_epoch(len(examples), batch_size)

    def __call__(self, state, step, num):
        epoch, first = divmod(step, self._per_epoch)
        order = epoch_order(len(self._examples), seed=self._seed, epoch=epoch)
        indices = order[first * self._batch_size : (first + num) * self._batch_size].reshape(num, self._batch_size)
        return self._steps(state, self._examples, jax.device_put(indices.astype(np.int32)), self._key)


def most_in_a_loop(batch_bytes: int) -> int:
    """Steps that one call of `Looped` can take: the same for the same batches, so that a resumed run is too."""
    return max(1, min(MOST_IN_A_LOOP, LOOP_BYTES // max(1, batch_bytes)))
