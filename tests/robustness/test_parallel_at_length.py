"""One device and eight give the same results: further decoders, and the SVHN network."""

import functools

import jax
import numpy as np
import optax
import pytest
from sgd_runs import LIKELIHOODS, assert_equals_one_device

import calibrax as cx
from calibrax.data.datasets import street_digits
from calibrax.models import ConvVAE
from calibrax.training import create_train_state, jit_step, pmap_step, sharded_step


@pytest.mark.parametrize("make_step", [pmap_step, sharded_step])
@pytest.mark.parametrize("name", sorted(LIKELIHOODS.keys() - {"all", "channel", "per-pixel network"}))
def test_further_decoders_on_many_devices_equal_one_after_20_sgd_steps(name, make_step):
    assert_equals_one_device(name, make_step)


def first_20_losses(make_step):
    """Of the SVHN network on drawn house numbers, by SGD."""
    parts = {"model": ConvVAE((28, 28, 3), 3), "likelihood": cx.optimal_sigma(), "optimizer": optax.sgd(1e-5)}
    digits = street_digits.draw(16 * 20, seed=0, size=28)
    stepper = make_step(**parts)
    state = jax.jit(functools.partial(create_train_state, **parts))(jax.random.key(1), digits[:1])
    state, losses = stepper.put_state(state), []
    for batch in digits.reshape(20, 16, 28, 28, 3):
        state, metrics = stepper.step(state, stepper.put_batch(batch), jax.random.key(2))
        losses.append(float(metrics["loss"]))
    return losses


def test_the_svhn_network_s_first_20_losses():
    np.testing.assert_allclose(first_20_losses(pmap_step), first_20_losses(jit_step), rtol=1e-4)
