"""One device and eight give the same parameters, likelihood state and metrics."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from sgd_runs import EVENT, assert_equals_one_device
from toy import LinearVAE

import calibrax as cx
from calibrax.training import create_train_state, jit_step, pmap_step, sharded_step, train_step


@pytest.mark.parametrize("make_step", [pmap_step, sharded_step])
@pytest.mark.parametrize("name", ["all", "channel", "per-pixel network"])  # the others: test_parallel_at_length
def test_many_devices_equal_one_after_20_sgd_steps(name, make_step):
    assert_equals_one_device(name, make_step)


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
