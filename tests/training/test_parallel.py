"""One device and eight give the same parameters, likelihood state and metrics."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from toy import LinearVAE

import calibrax as cx
from calibrax.data.datasets import street_digits
from calibrax.models import ConvVAE
from calibrax.training import create_train_state, jit_step, pmap_step, sharded_step, train_step

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


@pytest.mark.parametrize("make_step", [pmap_step, sharded_step])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_many_devices_equal_one_after_20_sgd_steps(name, make_step):
    assert jax.device_count() == 8
    state, history = run(make_step, LIKELIHOODS[name])
    expected_state, expected_history = single_device(name)
    chex.assert_trees_all_close(state, expected_state, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(history, expected_history, rtol=1e-5, atol=1e-6)
    assert history[-1]["loss"] < history[0]["loss"]


class TwoHeads(nn.Module):
    """A linear VAE of a dict of arrays."""

    @nn.compact
    def __call__(self, x, key, train=False):
        flat = jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(x)], 1)
        _, kl = LinearVAE(flat.shape[1:], 1, name="vae")(flat, key)
        return {name: nn.Dense(leaf[0].size, name=name)(flat).reshape(leaf.shape) for name, leaf in x.items()}, kl


@pytest.mark.parametrize("make_step", [jit_step, pmap_step, sharded_step])
def test_several_modalities_on_many_devices(make_step):
    likelihood = cx.joint({"image": cx.optimal_sigma(), "state": cx.optimal_laplace(link="identity")})
    parts = {"model": TwoHeads(), "likelihood": likelihood, "optimizer": optax.sgd(1e-4)}
    rng = np.random.default_rng(0)
    batch = {"image": rng.uniform(size=(32, *EVENT)), "state": rng.normal(100, 5, (32, 4))}
    batch = jax.tree.map(np.float32, batch)
    state = jax.jit(functools.partial(create_train_state, **parts))(jax.random.key(1), batch)
    expected, expected_metrics = jax.jit(functools.partial(train_step, **parts))(state, batch, jax.random.key(2))
    stepper = make_step(**parts)
    actual, metrics = stepper.step(stepper.put_state(state), stepper.put_batch(batch), jax.random.key(2))
    chex.assert_trees_all_close(
        jax.device_get(stepper.get_state(actual)), jax.device_get(expected), rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_close(jax.device_get(metrics), jax.device_get(expected_metrics), rtol=1e-5, atol=1e-6)
    assert {"image/mse", "state/mae"} <= set(metrics)


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


def test_batch_that_does_not_divide_is_refused():
    stepper = pmap_step(model=None, likelihood=None, optimizer=None)
    with pytest.raises(ValueError, match="batch size is 12; expected a multiple of the 8 devices"):
        stepper.put_batch(np.zeros((12, *EVENT)))


def test_donated_state_leaves_the_original_whole():
    likelihood = cx.optimal_sigma()
    parts = {"model": LinearVAE(EVENT, 3), "likelihood": likelihood, "optimizer": optax.sgd(1e-3)}
    state = create_train_state(jax.random.key(0), np.zeros((8, *EVENT), np.float32), **parts)
    for make_step in (jit_step, pmap_step, sharded_step):
        stepper = make_step(**parts)
        stepper.step(stepper.put_state(state), stepper.put_batch(np.zeros((8, *EVENT), np.float32)), jax.random.key(0))
        jax.block_until_ready(state.params["model"]["mean"]["kernel"] + 1)
