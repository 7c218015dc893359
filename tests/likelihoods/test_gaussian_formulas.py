"""The formulas against float64 SciPy and closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import assert_close, elementwise, single
from jax import lax
from scipy import stats as sps
from scipy.special import expit

import calibrax as cx
from calibrax.likelihoods import bernoulli_nll, gaussian_nll, optimal_sigma_nll

RNG = np.random.default_rng(0)
compiled = jax.jit(optimal_sigma_nll, static_argnums=2)
X = RNG.uniform(0, 1, (7, 4, 5, 3))
MEAN = RNG.uniform(0, 1, X.shape)


@pytest.mark.parametrize("log_sigma", [-6.0, -2.0, 0.0, 3.0])
def test_gaussian_equals_scipy(log_sigma):
    nll, stats = gaussian_nll(single(X), single(MEAN), log_sigma)
    expected = -sps.norm.logpdf(X, MEAN, np.exp(log_sigma)).reshape(7, -1).sum(1)
    np.testing.assert_allclose(nll, expected, rtol=2e-5)
    np.testing.assert_allclose(stats["mse"], np.mean((X - MEAN) ** 2), rtol=1e-6)
    np.testing.assert_allclose(stats["log_sigma"], log_sigma, rtol=1e-6)


@pytest.mark.parametrize("log_sigma", [-20.0, -12.0, -6.0, -2.0, 0.0, 3.0, 10.0])
@pytest.mark.parametrize("distance", [0.0, 1e-3, 1.0, 100.0])
def test_gaussian_values_and_gradients_up_to_100_scales_off(distance, log_sigma):
    log_sigma = np.float64(np.float32(log_sigma))
    x = np.float64(np.float32(distance * np.exp(log_sigma)))
    value, (by_mean, by_log_sigma) = elementwise(lambda m, s: gaussian_nll(single([[x]]), m, s)[0], 0.0, log_sigma)
    z = x / np.exp(log_sigma)
    assert_close(value, -sps.norm.logpdf(z) + log_sigma, rtol=1e-5, atol=1e-6)
    assert_close(by_mean, -z / np.exp(log_sigma), rtol=1e-5)
    assert_close(by_log_sigma, 1 - z**2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(), (3,), (4, 5, 3), (7, 1, 1, 1), (7, 4, 5, 3)])
def test_log_sigma_broadcasts_as_in_numpy(shape):
    log_sigma = RNG.normal(-2, 0.5, shape)
    nll, _ = gaussian_nll(single(X), single(MEAN), single(log_sigma))
    expected = -sps.norm.logpdf(X, MEAN, np.exp(log_sigma)).reshape(7, -1).sum(1)
    np.testing.assert_allclose(nll, expected, rtol=2e-5)


@pytest.mark.parametrize("shape", [(7,), (5,), (2, 7, 4, 5, 3), (7, 4, 5, 1, 1)])
def test_log_sigma_that_does_not_broadcast_is_refused(shape):
    with pytest.raises(ValueError, match=r"log_sigma has shape .*; expected one that broadcasts to \(7, 4, 5, 3\)"):
        gaussian_nll(single(X), single(MEAN), jnp.zeros(shape))


AXES = [
    (None, (0, 1, 2, 3)),
    ("image", (1, 2, 3)),
    ("pixel", (0,)),
    ("channel", (0, 1, 2)),
    ((0, 2), (0, 2)),
    ((-1, 1), (1, 3)),
    (2, (2,)),
]


@pytest.mark.parametrize(("axis", "axes"), AXES)
def test_optimal_sigma_is_the_scipy_density_at_the_mean_squared_error(axis, axes):
    nll, stats = compiled(single(X), single(MEAN), axis)
    mse = np.mean((X - MEAN) ** 2, axis=axes, keepdims=True)
    expected = -sps.norm.logpdf(X, MEAN, np.sqrt(mse)).reshape(7, -1).sum(1)
    np.testing.assert_allclose(nll, expected, rtol=2e-5, atol=2e-4)
    np.testing.assert_allclose(stats["mse"], np.squeeze(mse, axes), rtol=1e-5)
    np.testing.assert_allclose(stats["log_sigma"], np.squeeze(0.5 * np.log(mse), axes), rtol=1e-5)


@pytest.mark.parametrize(("axis", "axes"), AXES)
def test_no_other_sigma_is_better(axis, axes):
    nll, stats = compiled(single(X), single(MEAN), axis)
    best = jnp.expand_dims(stats["log_sigma"], axes)
    for shift in (-0.05, 0.05):
        assert jnp.sum(gaussian_nll(single(X), single(MEAN), best + shift)[0]) > jnp.sum(nll)


@pytest.mark.parametrize(("axis", "axes"), AXES)
def test_gradient_is_the_same_with_and_without_stop_gradient_on_sigma(axis, axes):
    def through(mean):
        return jnp.sum(optimal_sigma_nll(single(X), mean, axis, min_log_sigma=-40.0)[0])

    def stopped(mean):
        _, stats = optimal_sigma_nll(single(X), mean, axis, min_log_sigma=-40.0)
        log_sigma = lax.stop_gradient(jnp.expand_dims(stats["log_sigma"], axes))
        return jnp.sum(gaussian_nll(single(X), mean, log_sigma)[0])

    one, other = jax.jit(lambda mean: (jax.grad(through)(mean), jax.grad(stopped)(mean)))(single(MEAN))
    scale = float(jnp.max(jnp.abs(other)))
    np.testing.assert_allclose(one / scale, other / scale, atol=1e-6)


@pytest.mark.parametrize("axis", [None, "image"])  # all axes: tests/robustness/test_decoder_grids.py
def test_the_float32_gradient_equals_the_float64_one(axis, x64):
    x = np.clip(MEAN + 1e-2 * (X - 0.5), 0, 1)

    def loss(mean, dtype):
        return jnp.sum(optimal_sigma_nll(jnp.asarray(x, dtype), mean, axis)[0])

    # Both get the same numbers: those that float32 holds.
    x = np.float64(np.float32(x))
    mean = np.float64(np.float32(MEAN))
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    narrow = gradient(jnp.asarray(mean, jnp.float32), jnp.float32)
    wide = gradient(jnp.asarray(mean, jnp.float64), jnp.float64)
    assert narrow.dtype == jnp.float32
    assert wide.dtype == jnp.float64
    np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-4 * np.abs(wide).max())


@pytest.mark.parametrize(("axis", "axes"), AXES)
def test_a_perfect_fit_is_finite_and_at_the_floor(axis, axes):
    def loss(mean):
        nll, stats = optimal_sigma_nll(single(X), mean, axis)
        return jnp.sum(nll), (nll, stats)

    (_, (nll, stats)), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(single(X))
    chex.assert_tree_all_finite((nll, stats, grad))
    np.testing.assert_allclose(nll, 60 * (0.5 * np.log(2 * np.pi) - 6), rtol=1e-6)
    np.testing.assert_array_equal(grad, np.zeros_like(X))


def test_just_above_the_floor_nothing_is_biased():
    error = np.exp(-5.99)
    nll, stats = optimal_sigma_nll(jnp.zeros((2, 50)), jnp.full((2, 50), error, jnp.float32))
    np.testing.assert_allclose(stats["log_sigma"], -5.99, rtol=1e-6)
    np.testing.assert_allclose(nll, 50 * (0.5 + 0.5 * np.log(2 * np.pi) - 5.99), rtol=1e-6)


def test_training_uses_the_batch_and_test_time_the_running_average():
    likelihood = cx.optimal_sigma(decay=0.5, link="identity")
    params, state = likelihood.init((3,))
    for mse in (4.0, 1.0):
        _, stats = likelihood.nll(params, state, jnp.zeros((2, 3)), jnp.full((2, 3), np.sqrt(mse), jnp.float32))
        np.testing.assert_allclose(stats["mse"], mse, rtol=1e-6)
        state = likelihood.update(state, stats)
    expected = (0.25 * 4 + 0.5 * 1) / 0.75  # debiased
    nll, stats = likelihood.nll(params, state, jnp.zeros((2, 3)), jnp.zeros((2, 3)), train=False)
    np.testing.assert_allclose(stats["log_sigma"], 0.5 * np.log(expected), rtol=1e-6)
    np.testing.assert_allclose(nll, -sps.norm.logpdf(0, 0, np.sqrt(expected)) * 3, rtol=1e-6)


def test_per_pixel_layout_is_means_then_log_sigmas():
    likelihood = cx.pixel_sigma(link="identity")
    outputs = single(RNG.normal(size=(7, 4, 5, 6)))
    mean, raw = np.split(np.float64(outputs), 2, axis=-1)
    log_sigma = -6 + np.log1p(np.exp(raw + 6))
    nll, _ = likelihood.nll({}, {}, outputs, single(X))
    np.testing.assert_allclose(nll, -sps.norm.logpdf(X, mean, np.exp(log_sigma)).reshape(7, -1).sum(1), rtol=2e-5)


def test_soft_clip_is_that_of_the_paper():
    value = np.linspace(-20, 20, 81)
    upper = 2 - np.log1p(np.exp(2 - value))
    expected = -6 + np.log1p(np.exp(upper + 6))
    clipped = cx.soft_clip(single(value), -6.0, 2.0)
    np.testing.assert_allclose(clipped, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(cx.soft_clip(single(value)), single(value))


def test_bernoulli_is_exact_where_the_fit_is_good():
    logits = np.array([[-60.0, -20.0, -5.0, 0.0, 5.0, 20.0, 60.0]])
    for x in (0.0, 0.3, 1.0):
        expected = np.sum(x * np.logaddexp(0, -logits) + (1 - x) * np.logaddexp(0, logits))
        nll, _ = bernoulli_nll(jnp.full(logits.shape, x, jnp.float32), single(logits))
        np.testing.assert_allclose(nll[0], expected, rtol=1e-6)
        grad = jax.grad(lambda logits, x=x: bernoulli_nll(jnp.full(logits.shape, x, jnp.float32), logits)[0][0])
        slope = (1 - x) * expit(logits) - x * expit(-logits)
        np.testing.assert_allclose(grad(single(logits)), slope, rtol=1e-5, atol=1e-7 * (0 < x < 1))
    tiny, _ = bernoulli_nll(jnp.ones((1, 1)), jnp.full((1, 1), 20.0))
    np.testing.assert_allclose(tiny[0], np.log1p(np.exp(-20.0)), rtol=1e-5)


BETAS = [{"beta_nll": 0.5}, {"beta_nll": 1.0}, {"faithful": True}]


@pytest.mark.parametrize("options", BETAS, ids=str)
@pytest.mark.parametrize("link", ["sigmoid", "identity"])
def test_changed_gradients_leave_every_bit_of_the_value(options, link):
    plain, changed = cx.pixel_sigma(link=link), cx.pixel_sigma(link=link, **options)
    outputs = single(np.random.default_rng(0).normal(size=(5, 4, 6)) * [3.0])
    x = single(np.random.default_rng(1).uniform(size=(5, 4, 3)))
    for call in (lambda f: f, jax.jit):
        chex.assert_trees_all_equal(call(changed.nll)({}, {}, outputs, x), call(plain.nll)({}, {}, outputs, x))
    for name in ("mean", "sample"):
        args = ({}, {}, outputs) if name == "mean" else (jax.random.key(0), {}, {}, outputs)
        np.testing.assert_array_equal(getattr(changed, name)(*args), getattr(plain, name)(*args))
    if link == "sigmoid":
        levels = np.round(255 * x) / 255
        np.testing.assert_array_equal(
            changed.discretized_nll({}, {}, outputs, levels), plain.discretized_nll({}, {}, outputs, levels)
        )


def gradients_of_pixel_sigma(**options):
    """Data, means, log σ, and the gradients of the nll by the last two."""
    rng = np.random.default_rng(2)
    x, mean = rng.normal(size=(2, 40, 3))
    log_sigma = rng.uniform(-3, 3, size=(40, 3))
    likelihood = cx.pixel_sigma(-20.0, link="identity", **options)

    def loss(outputs):
        return likelihood.nll({}, {}, outputs, single(x))[0].sum()

    slope = np.float64(jax.grad(loss)(single(np.concatenate([mean, log_sigma], -1))))
    return x, mean, log_sigma, slope[:, :3], slope[:, 3:]


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_nll_weighs_gradients_by_a_power_of_the_variance(beta):
    """Seitzer et al. 2022, (6) and (7): (mean - x)·σ^(2β - 2), and by σ² (σ² - (x - mean)²)·σ^(2β - 4) / 2."""
    x, mean, log_sigma, by_mean, by_log_sigma = gradients_of_pixel_sigma(beta_nll=beta)
    variance = np.exp(2 * log_sigma)
    np.testing.assert_allclose(by_mean, (mean - x) / variance ** (1 - beta), rtol=1e-5)
    by_variance = (variance - (x - mean) ** 2) / (2 * variance ** (2 - beta))
    # By log σ, of which the variance has the derivative 2σ².
    assert_close(
        by_log_sigma, by_variance * 2 * variance, rtol=1e-5, spread=3e-6 * (x - mean) ** 2 / variance ** (1 - beta)
    )


def test_faithful_trains_the_mean_as_by_the_squared_error_and_sigma_on_fixed_residuals():
    """Stirn et al. 2023, section 4: the mean's gradient is (mean - x), that of log σ is 1 - ((x - mean) / σ)²."""
    x, mean, log_sigma, by_mean, by_log_sigma = gradients_of_pixel_sigma(faithful=True)
    np.testing.assert_allclose(by_mean, mean - x, rtol=1e-5)
    square = (x - mean) ** 2 * np.exp(-2 * log_sigma)
    assert_close(by_log_sigma, 1 - square, rtol=1e-5, spread=3e-6 * square)


@pytest.mark.parametrize("options", [{}, *BETAS], ids=str)
def test_gradients_of_pixel_sigma_are_finite_for_any_outputs(options):
    for link in ("sigmoid", "identity"):
        likelihood = cx.pixel_sigma(link=link, **options)
        outputs = single([[1e4, 1e4], [-1e4, -1e4], [0.0, 80.0], [1e4, -1e4]])
        nll = functools.partial(likelihood.nll, {}, {}, x=jnp.ones((4, 1)))
        slope = jax.grad(lambda outputs, nll=nll: nll(outputs)[0].sum())(outputs)
        assert jnp.isfinite(slope).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta_nll": 0.5, "faithful": True}, "beta_nll is 0.5; expected 0 with faithful=True"),
        ({"beta_nll": -0.1}, "beta_nll is -0.1; expected a number in"),
        ({"beta_nll": 1.5}, "beta_nll is 1.5; expected a number in"),
        ({"beta_nll": "0"}, "beta_nll is '0'; expected a number in"),
        ({"faithful": 1}, "faithful is 1; expected True or False"),
    ],
)
def test_bad_settings_of_gradients_are_one_line(options, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        cx.pixel_sigma(**options)
