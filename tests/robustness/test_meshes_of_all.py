"""All decoders under `jax.shard_map` and on explicit axes; some of them, and what else has axes: test_shard_map."""

import functools

import pytest
from decoders import DECODERS
from meshes import assert_axis_name_under_shard_map, assert_decoder_on_explicit_axes, shard_map_step
from sgd_runs import LIKELIHOODS, assert_equals_one_device

# Settings that differ in numbers alone compile to the same operations.
SAME = {"gaussian identity", "beta-gaussian 0.01", "beta-gaussian", "optimal-sigma identity", "pixel-sigma bounded"}
SAME |= {"student-t of given df", "categorical of 5 levels", "bitwise-categorical of 2 bits", "two-hot linear"}
SAME |= {
    "logistic-mixture over 7 levels",
    "discretized-logistic",
    "pixel-sigma faithful",
    "one axis",
    "laplace of rows",
}
NAMES = [name for name in DECODERS if name not in SAME]


@pytest.mark.parametrize("name", NAMES)
def test_axis_name_under_shard_map(name):
    assert_axis_name_under_shard_map(name)


@pytest.mark.parametrize("name", NAMES)
def test_decoders_on_explicit_axes(name):
    assert_decoder_on_explicit_axes(name)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shard_map_equals_one_device_after_20_sgd_steps(name, check_vma):
    assert_equals_one_device(name, functools.partial(shard_map_step, check_vma))
