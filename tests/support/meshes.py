"""Eight simulated devices against one: `jax.shard_map`, and meshes with explicit axes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from contract import has_mean
from decoders import DECODERS, data, outputs_for, trained
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import calibrax as cx
from calibrax.training import Stepper, train_step

AXIS, EVENT, BATCH = "batch", (8, 4, 3), 16
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def mesh(axis_type):
    assert jax.device_count() == 8
    return jax.make_mesh((8,), (AXIS,), axis_types=(axis_type,))


def sharded(explicit):
    return NamedSharding(explicit, P(AXIS))


def shard_map(function, *, in_specs, out_specs, check_vma=True):
    mapped = jax.shard_map(
        function, mesh=mesh(AxisType.Auto), in_specs=in_specs, out_specs=out_specs, check_vma=check_vma
    )
    return jax.jit(mapped)


def shard_map_step(check_vma, **parts):
    """`train_step` under `shard_map` in the form of `pmap_step`."""
    step = functools.partial(train_step, **parts, axis_name=AXIS)
    step = shard_map(step, in_specs=(P(), P(AXIS), P()), out_specs=P(), check_vma=check_vma)
    return Stepper(step, lambda state: state, lambda state: state, lambda batch: batch, 8)


def args_of(decoder):
    """params, state, outputs and data of a decoder, for eight devices."""
    outputs = outputs_for(decoder.likelihood, EVENT, batch=BATCH)
    x = data(EVENT, batch=BATCH, levels=decoder.num_values)
    return *trained(decoder.likelihood, outputs, x), outputs, x


def scores(likelihood, axis_name, params, state, outputs, x):
    """What is spread over the devices, and what is the same on all of them.

    nll, gradient by the outputs, nll at test time; mean loss, gradient by the params, running average.
    """

    def loss(params, outputs):
        nll, stats = likelihood.nll(params, state, outputs, x, axis_name=axis_name)
        mean = jnp.mean(nll)
        return mean if axis_name is None else lax.pmean(mean, axis_name), (nll, stats)

    (mean, (nll, stats)), (by_params, by_outputs) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, outputs)
    new = likelihood.update(state, stats)
    test_nll, _ = likelihood.nll(params, new, outputs, x, train=False, axis_name=axis_name)
    return (nll, by_outputs, test_nll), (mean, by_params, new)


def assert_axis_name_under_shard_map(name):
    likelihood, args = DECODERS[name].likelihood, args_of(DECODERS[name])
    specs = {"in_specs": (P(), P(), P(AXIS), P(AXIS)), "out_specs": (P(AXIS), P())}
    expected = jax.jit(functools.partial(scores, likelihood, None))(*args)
    actual = shard_map(functools.partial(scores, likelihood, AXIS), **specs)(*args)
    chex.assert_trees_all_close(jax.device_get(actual), jax.device_get(expected), **CLOSE)


def assert_explicit_axes_change_nothing(function, replicated, spread, *, spread_result=True):
    """`function(*replicated, *spread)`, with `spread` sharded over the batch on an explicit mesh."""
    expected = jax.jit(function)(*replicated, *spread)
    explicit = mesh(AxisType.Explicit)
    with jax.set_mesh(explicit):
        args = *jax.device_put(replicated, NamedSharding(explicit, P())), *jax.device_put(spread, sharded(explicit))
        actual = jax.jit(function)(*args)
    assert (AXIS in jax.tree.leaves(actual)[0].sharding.spec) == spread_result
    chex.assert_trees_all_close(jax.device_get(actual), jax.device_get(expected), **CLOSE)
    return args


def assert_decoder_on_explicit_axes(name):
    """nll, gradients, running average, mean and draw."""
    likelihood, args = DECODERS[name].likelihood, args_of(DECODERS[name])
    mean = likelihood.mean if has_mean(likelihood) else lambda *args: ()

    def everything(params, state, outputs, x):
        return (
            scores(likelihood, None, params, state, outputs, x),
            mean(params, state, outputs),
            likelihood.sample(jax.random.key(0), params, state, outputs),
            cx.masked(likelihood).nll(params, state, outputs, (x, x % 3 > 0), train=False),
            () if likelihood.discretized_nll is None else likelihood.discretized_nll(params, state, outputs, x),
        )

    params, state, outputs, x = assert_explicit_axes_change_nothing(everything, args[:2], args[2:])
    with jax.set_mesh(outputs.sharding.mesh):  # operations one by one, too
        nll, _ = likelihood.nll(params, state, outputs, x)
        np.testing.assert_allclose(nll, likelihood.nll(*args)[0], rtol=1e-5)
        assert likelihood.sample(jax.random.key(0), params, state, outputs).shape == x.shape
