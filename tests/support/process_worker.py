"""One of several processes that train a small VAE with SGD. The first writes the losses and the final parameters.

Command:  python process_worker.py COORDINATOR NUM_PROCESSES PROCESS_ID OUT
"""

import sys

import jax
import numpy as np
import optax
from flax import linen as nn

import calibrax as cx
from calibrax import data
from calibrax.models import Forward
from calibrax.objectives import gaussian_kl
from calibrax.training import create_train_state, sharded_step
from calibrax.training import multihost as processes

STEPS, BATCH_SIZE = 12, 16


class VAE(nn.Module):
    @nn.compact
    def __call__(self, x, keys, train=False):
        h = nn.tanh(nn.Dense(32)(x.reshape(len(x), -1) / 255.0))
        mean, log_var = nn.Dense(4)(h), nn.Dense(4)(h)
        keys = jax.random.split(keys, len(x)) if keys.ndim == 0 else keys  # init passes a single key
        noise = jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys)
        outputs = nn.Dense(x[0].size)(mean + jax.numpy.exp(0.5 * log_var) * noise)
        return Forward(outputs.reshape(x.shape), gaussian_kl(mean, log_var))


def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (70, 4, 4, 1), dtype=np.uint8).astype(np.float32)


def train(stepper, parts, feed):
    """The loss and gradient norm of each step, and the final state."""
    key = jax.random.key(0)
    first = next(data.batches(images(), BATCH_SIZE, seed=1))
    state = stepper.put_state(processes.from_leader(create_train_state(key, first, **parts)))
    rows = []
    for _ in range(STEPS):
        state, metrics = stepper.step(state, stepper.put_batch(next(feed)), key)
        rows.append([float(metrics["loss"]), float(metrics["grad_norm"])])
    return np.array(rows), jax.device_get(stepper.get_state(state))


def settings():
    return {"model": VAE(), "likelihood": cx.optimal_sigma(decay=0.9), "optimizer": optax.sgd(1e-3)}


def main(coordinator, num_processes, process_id, out):
    processes.join(coordinator, int(num_processes), int(process_id))
    part = jax.process_index(), jax.process_count()
    rows, state = train(sharded_step(**settings()), settings(), data.batches(images(), BATCH_SIZE, seed=1, part=part))
    if processes.leads():
        leaves = {f"leaf{number}": leaf for number, leaf in enumerate(jax.tree.leaves(state))}
        np.savez(out, rows=rows, devices=jax.device_count(), **leaves)
    processes.wait_for_all("the end")


if __name__ == "__main__":
    main(*sys.argv[1:])
