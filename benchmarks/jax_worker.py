"""Worker of `benchmarks.train_step`: calibrax's training step, or the same network with `flax.linen`'s convolutions.

Answers the requests of `torch_twin.py`, and also `{"export": FILE}`, which writes weights, batch and noise for the
twin.
"""

import itertools
import json
import platform
import resource
import sys
import time
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import calibrax as cx
from calibrax._malloc import give_back_free_memory, keep_freed_memory
from calibrax.models import ConvVAE, Forward
from calibrax.objectives import gaussian_kl
from calibrax.training import StepOptions, create_train_state, jit_step, resident_steps
from calibrax.training.step import PLAIN, example_keys
from calibrax.training.stepping import StepByStep, StepsInALoop

LATENT_DIM, NUM_NOISE = 20, 8


class LinenVAE(nn.Module):
    """The SVHN network, written with `flax.linen`'s own convolutions."""

    @nn.compact
    def __call__(self, x, keys, train=False):
        h = nn.relu(nn.Conv(32, (3, 3))(x.astype(jnp.float32) / 255))
        h = nn.relu(nn.Conv(64, (4, 4), 2, padding=1)(h))
        h = nn.relu(nn.Conv(128, (5, 5), 2, padding=2)(h)).reshape(x.shape[0], -1)
        mean, log_var = nn.Dense(LATENT_DIM)(h), nn.Dense(LATENT_DIM)(h)
        z = mean + jnp.exp(0.5 * log_var) * noise_of(keys) if keys.ndim else mean
        h = nn.Dense(6272)(z).reshape(-1, 7, 7, 128)
        h = nn.relu(nn.ConvTranspose(64, (6, 6), (2, 2))(h))
        h = nn.relu(nn.ConvTranspose(32, (6, 6), (2, 2))(h))
        return Forward(nn.ConvTranspose(3, (5, 5))(h), gaussian_kl(mean, log_var))


class Resident:
    """Take up to `num` steps per call, on a batch that stays in the device's memory."""

    def __init__(
        self, parts: dict[str, Any], batch: np.ndarray, key: jax.Array, num: int, options: StepOptions = PLAIN
    ):
        self._steps, self._batch = resident_steps(**parts, options=options), jax.device_put(batch)
        self._key, self.num = key, num

    def __call__(self, state, step, num):
        order = jnp.tile(jnp.arange(len(self._batch), dtype=jnp.int32), (num, 1))
        return self._steps(state, self._batch, order, self._key)


class Worker:
    """The step, its state and its batch.

    Args:
      form: `calibrax` for several steps per call, as the command line takes them on a CPU; `linen` for one step per
        call; `resident` or `resident-bfloat16` for all requested steps in one call.
      batch_size: number of images.
    """

    def __init__(self, form: str, batch_size: int):
        dtype = jnp.bfloat16 if form == "resident-bfloat16" else None
        model = LinenVAE() if form == "linen" else ConvVAE((28, 28, 3), 3, LATENT_DIM, dtype=dtype)
        parts = {"model": model, "likelihood": cx.optimal_sigma(), "optimizer": optax.adam(1e-3)}
        self.batch = np.random.default_rng(0).integers(0, 256, (batch_size, 28, 28, 3), dtype=np.uint8)
        self.key, self.compiled = jax.random.key(1), False
        batches = itertools.repeat(self.batch)
        if form == "calibrax":
            self.take_steps = StepsInALoop(parts, batches, self.key)
        elif form == "linen":
            self.take_steps = StepByStep(jit_step(**parts), batches, self.key)
        else:
            self.take_steps = Resident(parts, self.batch, self.key, sys.maxsize)
        self.state = jax.jit(lambda key: create_train_state(key, jnp.asarray(self.batch[:1]), **parts))(
            jax.random.key(0)
        )

    def export(self, path):
        """Write the weights as `layer.kernel` and `layer.bias`, the batch, and the noise of the first steps."""
        model = self.state.params["model"]
        arrays: Any = {
            f"{layer}.{name}": np.asarray(value)
            for part in ("encoder", "decoder")
            for layer, values in model[part].items()
            for name, value in values.items()
        }
        noise = [noise_of(example_keys(self.key, jnp.int32(i), len(self.batch))) for i in range(NUM_NOISE)]
        np.savez(path, batch=self.batch, noise=np.stack(noise), **arrays)
        return {"jax": jax.__version__, "flax": flax.__version__, "python": platform.python_version()}

    def take(self, num):
        """Take `num` steps. Returns for each call the losses, on the device, and how many of them are steps."""
        losses, taken = [], 0
        while taken < num:
            part = min(self.take_steps.num, num - taken)
            self.state, metrics = self.take_steps(self.state, taken, part)
            losses.append((metrics["loss"], part))
            taken += part
            if not self.compiled:
                give_back_free_memory()  # as the command line does
                self.compiled = True
        return losses

    def losses(self, num):
        return [float(loss) for call, part in self.take(num) for loss in np.atleast_1d(call)[:part]]

    def peak(self, _):
        """The peak memory of this process so far, MiB."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def time(self, num):
        begin = time.perf_counter()
        jax.block_until_ready((self.take(num), self.state))
        return time.perf_counter() - begin


def noise_of(keys):
    return jax.vmap(lambda key: jax.random.normal(key, (LATENT_DIM,)))(keys)


def main():
    keep_freed_memory()  # as the command line does
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        ((request, argument),) = json.loads(line).items()
        print(json.dumps(getattr(worker, request)(argument)), flush=True)


if __name__ == "__main__":
    main()
