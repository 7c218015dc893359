"""All decoders under `jax.shard_map` and on explicit axes; some of them, and what else has axes: test_shard_map."""

import functools

import pytest
from decoders import DECODERS
from meshes import assert_axis_name_under_shard_map, assert_decoder_on_explicit_axes, shard_map_step
from sgd_runs import LIKELIHOODS, assert_equals_one_device


@pytest.mark.parametrize("name", DECODERS)
def test_axis_name_under_shard_map(name):
    assert_axis_name_under_shard_map(name)


@pytest.mark.parametrize("name", DECODERS)
def test_decoders_on_explicit_axes(name):
    assert_decoder_on_explicit_axes(name)


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_shard_map_equals_one_device_after_20_sgd_steps(name, check_vma):
    assert_equals_one_device(name, functools.partial(shard_map_step, check_vma))
