"""Twenty SGD steps on one device or many. SGD, since Adam would hide a gradient that is off by a factor."""

import functools

import chex
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


def assert_equals_one_device(name, make_step):
    """Eight devices and one agree after 20 steps: the state and all metrics."""
    assert jax.device_count() == 8
    state, history = run(make_step, LIKELIHOODS[name])
    expected_state, expected_history = single_device(name)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(history, expected_history, rtol=1e-5, atol=1e-6)
    assert history[-1]["loss"] < history[0]["loss"]
