"""The keys of a batch, and checks that models share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calibrax.models.interface import check_positive, check_temperature, split_keys


def data(keys):
    return jax.random.key_data(keys) if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) else keys


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey])
def test_one_key_is_split_and_a_key_per_example_is_kept(make):
    keys = split_keys(make(3), 4)
    np.testing.assert_array_equal(data(keys), data(jax.random.split(make(3), 4)))
    assert split_keys(keys, 4) is keys
    with pytest.raises(ValueError, match="key holds 4 keys; expected one, or 2, one for each example"):
        split_keys(keys, 2)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None])
def test_sizes_are_positive_whole_numbers(value):
    check_positive(layers=1)
    with pytest.raises(ValueError, match=f"layers is {value!r}; expected a positive whole number"):
        check_positive(width=2, layers=value)


@pytest.mark.parametrize("value", [-0.5, float("inf"), float("nan")])
def test_temperatures_are_finite_numbers_from_0(value):
    check_temperature(0)
    check_temperature(jnp.float32(-1))  # as in a compiled program, where it is not known
    with pytest.raises(ValueError, match=f"temperature is {value}; expected a number from 0"):
        check_temperature(value)
