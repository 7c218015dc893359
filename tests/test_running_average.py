"""The running average, and `calibrate`, against NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibrax as cx
from calibrax import running_average


def test_weighted_debiased_mean():
    values, weights, decay = np.array([3.0, 1.0, 7.0, 2.0]), np.array([1.0, 2.0, 0.0, 5.0]), 0.8
    average = running_average.init()
    for value, weight in zip(values, weights, strict=True):
        average = running_average.update(average, value, decay=decay, weight=weight)
    factors = weights * decay ** np.arange(3, -1, -1)
    np.testing.assert_allclose(running_average.value(average, initial=9.0), np.sum(factors * values) / factors.sum())


def test_one_update_gives_the_value_exactly_and_none_gives_the_initial_one():
    average = running_average.init((3,))
    np.testing.assert_array_equal(running_average.value(average, initial=1.5), np.full(3, 1.5, np.float32))
    average = running_average.update(average, jnp.array([1.0, 2.0, 4.0]), decay=0.99)
    np.testing.assert_allclose(running_average.value(average, initial=0.0), [1, 2, 4], rtol=1e-6)


def test_value_has_finite_gradients_before_the_first_update():
    grads = jax.grad(lambda average: running_average.value(average, initial=1.0))(running_average.init())
    assert np.isfinite(grads["total"])
    assert np.isfinite(grads["weight"])


@pytest.mark.parametrize("axis", [None, "image", "pixel", "channel", (0, 2)])
def test_calibrate_gives_every_example_equal_weight(axis):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(23, 4, 5, 3)).astype(np.float32)
    outputs = (
        x
        + rng.normal(size=x.shape).astype(np.float32) * np.linspace(0.01, 2, 23, dtype=np.float32)[:, None, None, None]
    )
    likelihood = cx.optimal_sigma(axis=axis, link="identity")
    edges = [0, 1, 9, 23]
    pairs = [(outputs[a:b], x[a:b]) for a, b in itertools.pairwise(edges)]
    state = cx.calibrate(likelihood, {}, iter(pairs))
    axes = {None: (0, 1, 2, 3), "image": (0, 1, 2, 3), "pixel": (0,), "channel": (0, 1, 2), (0, 2): (0, 2)}[axis]
    expected = np.mean((np.float64(x) - outputs) ** 2, axis=axes)
    np.testing.assert_allclose(running_average.value(state["mse"], initial=np.nan), expected, rtol=2e-6)
    nll, _ = likelihood.nll({}, state, outputs, x, train=False)
    assert np.isfinite(nll).all()


def test_calibrate_of_a_stateless_likelihood_is_its_empty_state_and_no_data_is_refused():
    assert cx.calibrate(cx.gaussian(), {}, [(jnp.zeros((2, 3)), jnp.zeros((2, 3)))]) == {}
    with pytest.raises(ValueError, match="pairs is empty; expected at least one"):
        cx.calibrate(cx.optimal_sigma(), {}, [])
