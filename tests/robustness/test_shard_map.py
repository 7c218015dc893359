"""Under `jax.shard_map` and on meshes with explicit axes, eight devices give the numbers of one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from decoders import DECODERS
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import (
    AXIS,
    BATCH,
    args_of,
    assert_axis_name_under_shard_map,
    assert_decoder_on_explicit_axes,
    assert_explicit_axes_change_nothing,
    mesh,
    shard_map,
    shard_map_step,
    sharded,
)
from sgd_runs import assert_equals_one_device
from toy import LinearVAE

import calibrax as cx
from calibrax.likelihoods import categorical_nll_from_features
from calibrax.models import cpu_conv
from calibrax.training import StepOptions, create_train_state, train_step

SOME = ["optimal-sigma", "optimal-sigma-per-image", "student-t", "discretized-logistic", "categorical of 5 levels"]


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", ["all", "pixel"])
def test_shard_map_equals_one_device_after_20_sgd_steps(name, check_vma):
    assert_equals_one_device(name, functools.partial(shard_map_step, check_vma))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_step_of_pmap_under_shard_map_and_on_explicit_axes(accumulate):
    """Parts of a batch too; an optimal σ is that of a part, which on eight devices has other examples."""
    x = np.random.default_rng(0).uniform(size=(32, 4, 6, 3)).astype(np.float32)
    parts = {"model": LinearVAE((4, 6, 3), 3), "likelihood": cx.shared_sigma(), "optimizer": optax.sgd(1e-4)}
    state, key = create_train_state(jax.random.key(1), x, **parts), jax.random.key(2)
    parts["options"] = StepOptions(accumulate=accumulate)
    expected = jax.device_get(jax.jit(functools.partial(train_step, **parts))(state, x, key))
    actual = jax.device_get(shard_map_step(True, **parts).step(state, x, key))
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)
    function = functools.partial(train_step, **parts)
    assert_explicit_axes_change_nothing(
        lambda state, key, x: function(state, x, key), (state, key), (x,), spread_result=False
    )


# All decoders: tests/robustness/test_meshes_of_all.py.
@pytest.mark.parametrize("name", SOME)
def test_axis_name_under_shard_map(name):
    assert_axis_name_under_shard_map(name)


@pytest.mark.parametrize("features", [8, 130])  # with many, a gradient is a sum over a loop
def test_gradients_of_a_transposed_convolution(features):
    x = jax.random.normal(jax.random.key(0), (16, 4, 5, 3))
    kernels = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (3, 3, 3, features)), (8, 3, 3, 3, features))

    def gradients(x, kernel):
        return jax.grad(lambda *args: jnp.sum(jnp.sin(cpu_conv.conv_transpose(*args, 1, 1))), (0, 1))(x, kernel)

    def of_share(kernel, x):
        by_x, by_kernel = gradients(x, kernel[0])
        return by_x, lax.psum(by_kernel, AXIS)

    actual = shard_map(of_share, in_specs=(P(AXIS), P(AXIS)), out_specs=(P(AXIS), P()))(kernels, x)
    for one, other in zip(actual, gradients(x, kernels[0]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.max(jnp.abs(other))))


def test_a_draw_under_shard_map_has_a_key_per_device():
    """Without the fold the devices would draw the same noise, and JAX refuses some samplers."""
    likelihood, args = DECODERS["student-t"].likelihood, args_of(DECODERS["student-t"])

    def sample(params, state, outputs):
        key = jax.random.fold_in(jax.random.key(0), lax.axis_index(AXIS))
        return likelihood.sample(key, params, state, outputs)

    drawn = shard_map(sample, in_specs=(P(), P(), P(AXIS)), out_specs=P(AXIS))(*args[:3])
    expected = jax.jit(likelihood.sample)(jax.random.fold_in(jax.random.key(0), 3), *args[:2], args[2][6:8])
    np.testing.assert_allclose(drawn[6:8], expected, rtol=1e-5)


@pytest.mark.parametrize("name", SOME)
def test_decoders_on_explicit_axes(name):
    assert_decoder_on_explicit_axes(name)


def sequences(steps=6):
    rng = np.random.default_rng(0)
    outputs, x = rng.normal(size=(BATCH, steps, 4, 4, 3)), rng.uniform(size=(BATCH, steps, 4, 4, 3))
    return np.float32(outputs), np.float32(x), rng.random((BATCH, steps)) > 0.3


COMBINED = {
    "batched": cx.batched(cx.masked(cx.optimal_sigma())),
    "framewise": cx.framewise(cx.masked(cx.optimal_sigma(axis="image"))),
    "masked batched": cx.masked(cx.batched(cx.optimal_sigma("pixel"))),
    "masked": cx.masked(cx.optimal_sigma()),
    "tempered": cx.tempered(cx.batched(cx.masked(cx.optimal_laplace())), 0.5),
}


@pytest.mark.parametrize("name", COMBINED)
def test_combinators_on_explicit_axes(name):
    likelihood = COMBINED[name]
    outputs, x, seen = sequences()
    params, state = likelihood.init(x.shape[likelihood.batch_ndim :])

    def everything(outputs, x, seen):
        nll, stats = likelihood.nll(params, state, outputs, (x, seen))
        new = likelihood.update(state, stats)
        mean, drawn = likelihood.mean(params, new, outputs), likelihood.sample(jax.random.key(0), params, new, outputs)
        return nll, new, mean, drawn

    assert_explicit_axes_change_nothing(everything, (), (outputs, x, seen))


def test_joint_and_calibrate_on_explicit_axes():
    outputs, x, _ = sequences()
    parts = {"image": cx.optimal_sigma("channel"), "reward": cx.optimal_laplace(link="identity")}
    likelihood = cx.joint(parts)
    pair = {"image": outputs, "reward": outputs[:, 0, 0, 0, 0]}, {"image": x, "reward": x[:, 0, 0, 0, 0]}
    expected = cx.calibrate(likelihood, {}, [pair])
    explicit = mesh(AxisType.Explicit)
    with jax.set_mesh(explicit):
        state = cx.calibrate(likelihood, {}, [jax.device_put(pair, sharded(explicit))])
    chex.assert_trees_all_close(state, expected, rtol=1e-5)
    assert_explicit_axes_change_nothing(
        lambda outputs, x: likelihood.nll({}, expected, outputs, x, train=False)[0], (), pair
    )


def head_args(rng):
    kernel, bias = np.float32(rng.normal(size=(6, 48))), np.float32(rng.normal(size=48))
    features, x = np.float32(rng.normal(size=(BATCH, 5, 4, 6))), rng.integers(0, 16, (BATCH, 5, 4, 3))
    return (kernel, bias), (features, np.uint8(x))


# Logits of 20 positions of 16 examples: all at a time, 8 positions with a remainder, and one position.
@pytest.mark.parametrize("chunk", [2**20, 48 * 16 * 8, 1])
def test_the_categorical_head_on_explicit_axes(chunk):
    def loss(kernel, bias, features, x):
        nll, _ = categorical_nll_from_features(x, features, kernel, bias, max_chunk_logits=chunk)
        return jnp.mean(nll), nll

    function = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)
    assert_explicit_axes_change_nothing(function, *head_args(np.random.default_rng(0)), spread_result=False)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_devices_share_the_work_of_the_categorical_head(axis_type):
    """No device gathers the features of the others: gradients alone are exchanged."""

    def loss(kernel, bias, features, x):
        return jnp.mean(categorical_nll_from_features(x, features, kernel, bias, max_chunk_logits=48 * 16 * 8)[0])

    replicated, spread = head_args(np.random.default_rng(0))
    devices = mesh(axis_type)
    with jax.set_mesh(devices):
        args = *jax.device_put(replicated, NamedSharding(devices, P())), *jax.device_put(spread, sharded(devices))
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*args).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
