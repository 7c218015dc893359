"""Two-hot regression: bins and weights of DreamerV3, a mean without rounding, and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import assert_close
from scipy.special import log_softmax

import calibrax as cx
from calibrax.likelihoods import two_hot_nll

RNG = np.random.default_rng(0)
BINS = np.sign(np.linspace(-20, 20, 255)) * np.expm1(np.abs(np.linspace(-20, 20, 255)))


def target_of(x, bins):
    """The two-hot target in float64, as `np.interp` has it: linear between bins, in the data's units."""
    return np.stack([np.interp(x, bins, row) for row in np.eye(len(bins))], -1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_values_and_gradients_are_those_of_the_cross_entropy(scale):
    x = np.float32(np.concatenate([RNG.normal(size=200) * 10.0 ** RNG.uniform(-3, 8, 200), [0, 1e9, -1e9], BINS[::50]]))
    logits = np.float32(scale * RNG.normal(size=(len(x), 255)))
    target = target_of(x, np.float64(np.float32(BINS)))
    log_prob = log_softmax(np.float64(logits), -1)

    def nll(logits):
        return two_hot_nll(jnp.asarray(x)[:, None], logits[:, None], -20.0, 20.0)[0]

    # What the rounding of a value changes: that of its place between two bins.
    assert_close(np.float64(jax.jit(nll)(jnp.asarray(logits))), -np.sum(target * log_prob, -1), rtol=1e-5, atol=1e-6)
    slope = jax.jit(jax.grad(lambda logits: nll(logits).sum()))(jnp.asarray(logits))
    assert_close(np.float64(slope), np.exp(log_prob) - target, rtol=1e-5, atol=2e-6)


def test_a_good_fit_keeps_its_digits():
    logits = jnp.zeros((1, 1, 8)).at[..., 3].set(30.0)
    value, slope = jax.value_and_grad(
        lambda logits: two_hot_nll(jnp.full((1, 1), 3.0), logits, 0.0, 7.0, spacing="linear")[0][0]
    )(logits)
    np.testing.assert_allclose(value, np.log1p(7 * np.exp(-30.0)), rtol=1e-5)
    np.testing.assert_allclose(slope[0, 0, 3], -7 * np.exp(-30.0), rtol=1e-5)


def test_the_mean_of_the_target_is_the_value():
    """A soft-max that equals the target has the value as its mean, in the data's units."""
    x = np.float32([-300.0, -1.3, 0.0, 2e-3, 0.7, 41.0, 3e6])
    with np.errstate(divide="ignore"):
        logits = np.log(target_of(np.float64(x), BINS))
    outputs = jnp.asarray(np.maximum(logits, -1e4), jnp.float32)
    np.testing.assert_allclose(cx.two_hot(-20.0, 20.0).mean({}, {}, outputs)[:, 0], x, rtol=2e-5)


@pytest.mark.parametrize("bins", [2, 64, 255])
@pytest.mark.parametrize("spacing", ["symexp", "linear"])
def test_symmetric_logits_have_a_mean_of_exactly_0(bins, spacing):
    half = np.float32(RNG.normal(size=(50, 3, (bins + 1) // 2)))
    outputs = jnp.asarray(np.concatenate([half, half[..., ::-1][..., bins % 2 :]], -1)).reshape(50, -1)
    likelihood = cx.two_hot(-20.0, 20.0, bins, spacing)
    for mean in (likelihood.mean, jax.jit(likelihood.mean)):
        np.testing.assert_array_equal(mean({}, {}, outputs), 0)
        np.testing.assert_array_equal(mean({}, {}, jnp.zeros((4, 2 * bins))), 0)


def test_the_mean_is_exact_over_bins_of_any_size():
    logits = np.float32(3 * RNG.normal(size=(100, 255)))
    prob = np.exp(log_softmax(np.float64(logits), -1))
    mean = np.float64(cx.two_hot(-20.0, 20.0).mean({}, {}, jnp.asarray(logits)))[:, 0]
    assert_close(mean, prob @ BINS, rtol=0, spread=1e-6 * (prob @ np.abs(BINS)))


def test_values_out_of_range_count_as_the_last_bin():
    logits = jnp.asarray(RNG.normal(size=(4, 1, 9)), jnp.float32)
    far, ends = jnp.array([[-1e30], [-6.0], [6.0], [jnp.inf]]), jnp.array([[-5.0], [-5.0], [5.0], [5.0]])
    args = logits, -5.0, 5.0
    np.testing.assert_array_equal(
        two_hot_nll(far, *args, spacing="linear")[0], two_hot_nll(ends, *args, spacing="linear")[0]
    )


def test_draws_are_bins_with_the_probabilities_of_the_logits():
    likelihood, logits = cx.two_hot(0.0, 3.0, 4, "linear"), np.log([0.1, 0.2, 0.3, 0.4])
    outputs = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (20_000, 4))
    draws = np.asarray(likelihood.sample(jax.random.key(0), {}, {}, outputs))[:, 0]
    np.testing.assert_allclose(np.bincount(draws.astype(int)) / 20_000, np.exp(logits), atol=0.015)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cx.two_hot(1.0, 1.0),
        lambda: cx.two_hot(float("nan"), 1.0),
        lambda: cx.two_hot(-20.0, 100.0),
        lambda: cx.two_hot("a", 1.0),
        lambda: cx.two_hot(-1.0, 1.0, bins=1),
        lambda: cx.two_hot(-1.0, 1.0, spacing="log"),
        lambda: two_hot_nll(jnp.zeros((2, 1)), jnp.zeros((2, 1, 1)), -1.0, 1.0),
    ],
)
def test_bad_settings_are_one_line(make):
    with pytest.raises(ValueError, match=r"^[\w ]+ is [^\n]+; expected [^\n]+$"):
        make()
