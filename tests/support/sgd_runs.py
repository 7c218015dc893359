"""Twenty SGD steps on one device or many. SGD, since Adam would hide a gradient that is off by a factor."""

import functools

import jax
import numpy as np
import optax
from toy import LinearVAE

import calibrax as cx
from calibrax.training import create_train_state, jit_step

EVENT = (4, 6, 3)
LIKELIHOODS = {
    "all": cx.optimal_sigma(),
    "image": cx.optimal_sigma(axis="image"),
    "pixel": cx.optimal_sigma(axis="pixel"),
    "channel": cx.optimal_sigma(axis="channel"),
    "rows": cx.optimal_sigma(axis=(0, 2, 3)),
    "image-rows": cx.optimal_sigma(axis=(2, 3)),
    "shared": cx.shared_sigma(),
    "per-pixel network": cx.pixel_sigma(),
    "bernoulli": cx.bernoulli(),
}


@functools.cache
def images():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (20, 32, *EVENT), dtype=np.uint8)


def run(make_step, likelihood, steps=20):
    model = LinearVAE(EVENT, likelihood.output_channels(EVENT[-1]))
    parts = {"model": model, "likelihood": likelihood, "optimizer": optax.sgd(1e-4)}
    example = images()[0].astype(np.float32) / 255
    stepper = make_step(**parts)
    state = stepper.put_state(create_train_state(jax.random.key(1), example, **parts))
    history = []
    for batch in images()[:steps]:
        state, metrics = stepper.step(state, stepper.put_batch(batch.astype(np.float32) / 255), jax.random.key(2))
        history.append(metrics)
    return jax.device_get((stepper.get_state(state), history))


@functools.cache
def single_device(name):
    return run(jit_step, LIKELIHOODS[name])
