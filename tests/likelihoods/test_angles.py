"""Von Mises distributions against mpmath at any concentration, the computed one, and draws on the circle."""

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from exact import assert_close, elementwise, single
from scipy import stats as sps
from scipy.integrate import trapezoid
from scipy.optimize import minimize_scalar

import calibrax as cx
from calibrax.likelihoods import optimal_von_mises_nll, von_mises_nll
from calibrax.likelihoods._special import log_concentration_of, scaled_variance

RNG = np.random.default_rng(0)
ULP = 2.0**-24


def exactly(formula, *arrays):
    with mpmath.workdps(40):
        rows = [formula(*(mpmath.mpf(float(value)) for value in values)) for values in zip(*arrays, strict=True)]
        return np.array([[float(value) for value in row] for row in rows]).T


def circular_variance(kappa):
    """1 - I1(κ)/I0(κ), of mpmath numbers."""
    if kappa > 1e4:
        return 1 / (2 * kappa) + 1 / (8 * kappa**2) + 1 / (8 * kappa**3) + 25 / (128 * kappa**4)
    return 1 - mpmath.besseli(1, kappa) / mpmath.besseli(0, kappa)


def log_i0e(kappa):
    if kappa > 1e4:
        return mpmath.log((1 + 1 / (8 * kappa) + 9 / (128 * kappa**2)) / mpmath.sqrt(2 * mpmath.pi * kappa))
    return mpmath.log(mpmath.besseli(0, kappa)) - kappa


def pair(angle, length=1.0):
    return length * np.cos(angle), length * np.sin(angle)


def test_values_and_gradients_are_exact_at_any_concentration():
    x, distance, log_kappa = (
        array.ravel()
        for array in np.meshgrid(
            [-3.0, -0.4, 0.0, 1.1, 3.1],
            [0.0, 1e-3, -0.1, 1.0, np.pi, 9.0],
            np.log([1e-6, 0.1, 1, 3.9, 4.1, 50, 1e4, 1e6]),
        )
    )
    x, log_kappa = np.float64(np.float32(x)), np.float64(np.float32(log_kappa))
    first, second = (np.float64(np.float32(part)) for part in pair(x + distance, RNG.uniform(0.1, 9, len(x))))

    def reference(x, first, second, log_kappa):
        angle, kappa, length = mpmath.atan2(second, first), mpmath.exp(log_kappa), mpmath.hypot(first, second)
        value = kappa * 2 * mpmath.sin((x - angle) / 2) ** 2 + mpmath.log(2 * mpmath.pi) + log_i0e(kappa)
        slope = -kappa * mpmath.sin(x - angle) / length
        by_log_kappa = kappa * (2 * mpmath.sin((x - angle) / 2) ** 2 - circular_variance(kappa))
        by_pair = -slope * second / length, slope * first / length
        return value, *by_pair, by_log_kappa, kappa * abs(mpmath.sin(x - angle)), kappa / length

    expected, *slopes, turn, scale = exactly(reference, x, first, second, log_kappa)

    def nll(first, second, log_kappa):
        return von_mises_nll(single(x)[:, None], jnp.stack([first, second], -1), log_kappa)[0]

    value, grads = elementwise(nll, first, second, log_kappa)
    # An angle and its cosine are rounded to 6e-8 of themselves, several times: that much of the slope by the angle.
    apart = 8 * np.maximum(1, np.abs(x)) * ULP
    second_order = np.exp(log_kappa) * apart**2
    assert_close(value, expected, rtol=1e-5, atol=5e-7, spread=turn * apart + second_order)
    for grad, slope in zip(grads[:2], slopes[:2], strict=True):
        assert_close(grad, slope, rtol=1e-5, spread=scale * apart)
    assert_close(grads[2], slopes[2], rtol=1e-5, atol=5e-7, spread=turn * apart + second_order)


def test_a_direction_of_0_has_a_finite_gradient_that_is_not_0():
    x = jnp.array([[1.0]])
    for tiny in (0.0, 1e-30, 1e-20):
        value, slope = jax.value_and_grad(lambda d: von_mises_nll(x, d, 0.0)[0].sum())(jnp.full((1, 1, 2), tiny))
        chex.assert_tree_all_finite((value, slope))
        assert slope[0, 0, 1] < 0  # towards the data
    likelihood = cx.von_mises()
    np.testing.assert_array_equal(likelihood.mean(*likelihood.init((1,)), jnp.zeros((1, 2))), 0)


@pytest.mark.parametrize("log_kappa", np.log([1e-6, 0.5, 5.0, 300.0, 1e5]))
def test_densities_integrate_to_one(log_kappa):
    width = min(np.pi, 12 * np.exp(-0.5 * log_kappa))
    x = np.linspace(-width, width, 4001)
    direction = jnp.broadcast_to(jnp.array([1.0, 0.0]), (4001, 1, 2))
    density = np.exp(-np.float64(von_mises_nll(single(x)[:, None], direction, log_kappa)[0]))
    np.testing.assert_allclose(trapezoid(density, x), 1, rtol=1e-5)


def test_float64_stays_float64(x64):
    x, kappa = np.array([0.3, -1.0, 2.0, 0.1]), np.array([1e-3, 2.0, 60.0, 1e4])
    direction = np.stack(pair(np.array([0.1, 1.0, 1.9, 0.11])), -1)[:, None]
    nll, _ = von_mises_nll(jnp.asarray(x)[:, None], jnp.asarray(direction), jnp.log(kappa)[:, None])
    angle = np.arctan2(direction[:, 0, 1], direction[:, 0, 0])
    np.testing.assert_allclose(nll, -sps.vonmises.logpdf(x, kappa, angle), rtol=1e-9)
    variance = jnp.asarray(exactly(lambda k: (circular_variance(k),), kappa)[0])
    np.testing.assert_allclose(log_concentration_of(variance), np.log(kappa), rtol=1e-9)


def test_the_concentration_of_a_circular_variance_and_back():
    kappa = np.float64(np.float32(np.logspace(-1, 6, 60)))
    (variance,) = exactly(lambda k: (circular_variance(k),), kappa)
    np.testing.assert_allclose(jax.jit(scaled_variance)(single(kappa)), kappa * variance, rtol=1e-6)
    found = np.exp(np.float64(jax.jit(log_concentration_of)(single(variance))))
    # By half a unit in the last place of the variance and of log κ.
    np.testing.assert_allclose(found, kappa, rtol=4e-6)


@pytest.mark.parametrize("spread", [1e-2, 0.3, 2.0])
def test_the_computed_concentration_is_the_best_one(spread):
    x, mean = RNG.uniform(-np.pi, np.pi, (2, 400)) * [[1.0], [1.0]]
    x = mean + spread * RNG.normal(size=400)
    direction = np.stack(pair(mean, 3.0), -1)

    def total(log_kappa):
        return -np.sum(sps.vonmises.logpdf(x, np.exp(log_kappa), mean))

    best = minimize_scalar(total, bounds=(-8, 12), method="bounded", options={"xatol": 1e-9})
    nll, stats = optimal_von_mises_nll(single(x).reshape(100, 4), single(direction).reshape(100, 4, 2))
    np.testing.assert_allclose(np.sum(np.float64(nll)), best.fun, rtol=1e-5)
    np.testing.assert_allclose(stats["log_concentration"], best.x, atol=2e-4)


def test_the_gradient_does_not_depend_on_the_computed_concentration():
    x = single(RNG.normal(size=(8, 3)))
    direction = single(RNG.normal(size=(8, 3, 2)))
    _, stats = optimal_von_mises_nll(x, direction)
    through = jax.grad(lambda d: optimal_von_mises_nll(x, d)[0].sum())(direction)
    fixed = jax.grad(lambda d: von_mises_nll(x, d, stats["log_concentration"])[0].sum())(direction)
    np.testing.assert_allclose(through, fixed, rtol=1e-3, atol=1e-5 * np.abs(fixed).max())


@pytest.mark.parametrize("distance", [0.0, np.pi / 2, np.pi])
def test_a_perfect_fit_and_a_hopeless_one_are_finite(distance):
    angle = RNG.uniform(-3, 3, (6, 2))
    x, outputs = single(angle), single(np.concatenate(pair(angle + distance), -1))
    likelihood = cx.optimal_von_mises()
    params, state = likelihood.init((2,))
    np.testing.assert_allclose(
        likelihood.nll(params, state, outputs, x, train=False)[0],
        -sps.vonmises.logpdf(angle, 1.0, angle + distance).sum(1), rtol=1e-5,
    )  # fmt: skip

    def loss(outputs, state):
        nll, stats = likelihood.nll(params, state, outputs, x)
        return nll.sum(), stats

    for _ in range(2):
        (value, stats), slope = jax.value_and_grad(loss, has_aux=True)(outputs, state)
        chex.assert_tree_all_finite((value, stats, slope))
        state = likelihood.update(state, stats)
    expected = {0.0: 12.0, np.pi: np.log(1e-6)}.get(distance)
    if expected is not None:
        np.testing.assert_allclose(stats["log_concentration"], expected, rtol=1e-5)


def test_the_running_average_and_calibrate_are_of_circular_variances():
    likelihood = cx.optimal_von_mises(decay=0.5)
    angle = RNG.uniform(-3, 3, (2, 9, 3))
    x, outputs = single(angle + RNG.normal(size=angle.shape)), single(np.concatenate(pair(angle, 2.0), -1))
    distance = 1 - np.cos(x - np.arctan2(outputs[..., 3:], outputs[..., :3]))
    params, state = likelihood.init((3,))
    for batch in range(2):
        state = likelihood.update(state, likelihood.nll(params, state, outputs[batch], x[batch])[1])
    average = cx.running_average.value(state["circular_variance"], initial=np.nan)
    np.testing.assert_allclose(average, np.sum(distance.mean((1, 2)) * [1, 2]) / 3, rtol=1e-5)
    calibrated = cx.calibrate(likelihood, params, [*zip(outputs, x, strict=True), (outputs[0, :3], x[0, :3])])
    whole = np.concatenate([distance.ravel(), distance[0, :3].ravel()]).mean()
    _, stats = likelihood.nll(params, calibrated, outputs[0], x[0], train=False)
    (kappa,) = np.exp([np.float64(stats["log_concentration"])])
    np.testing.assert_allclose(exactly(lambda k: (circular_variance(k),), [kappa])[0, 0], whole, rtol=1e-5)


@pytest.mark.parametrize("kappa", [1e-6, 0.3, 2.0, 40.0, 1e4, 1e6])
def test_draws_follow_the_density(kappa):
    # Kolmogorov-Smirnov at a false-alarm rate of 1e-4, fixed seed.
    likelihood, params = cx.von_mises(), {"log_concentration": jnp.float32(np.log(kappa))}
    outputs = jnp.broadcast_to(jnp.asarray(pair(0.5, 2.0), jnp.float32), (20_000, 2))
    draws = np.asarray(jax.jit(likelihood.sample)(jax.random.key(0), params, {}, outputs), np.float64)[:, 0]
    around = (draws - np.float32(0.5) + np.pi) % (2 * np.pi) - np.pi
    assert sps.kstest(around, sps.vonmises(np.exp(np.float64(params["log_concentration"]))).cdf).pvalue > 1e-4


def test_angles_are_in_one_turn():
    likelihood, params = cx.von_mises(), {"log_concentration": jnp.float32(-20.0)}
    outputs = jnp.asarray([[-1.0, -0.0], [-1.0, 0.0], [-1e-12, -1e-9], [1e4, -1e4], [-1.0, -1e-30]], jnp.float32)
    mean = np.asarray(likelihood.mean(params, {}, outputs))[:, 0]
    np.testing.assert_allclose(mean, [np.pi, np.pi, np.arctan2(-1e-9, -1e-12), -np.pi / 4, np.pi], rtol=1e-6)
    draws = likelihood.sample(jax.random.key(0), params, {}, jnp.broadcast_to(outputs[:1], (10_000, 2)))
    assert draws.min() > -np.float32(np.pi)
    assert draws.max() <= np.float32(np.pi)
    assert draws.max() - draws.min() > 6.2


def test_channels_are_first_components_then_second_then_log_concentrations():
    x, outputs = single(RNG.normal(size=(5, 4, 3))), single(RNG.normal(size=(5, 4, 9)))
    first, second, log_kappa = np.split(np.float64(outputs), 3, -1)
    expected = -sps.vonmises.logpdf(x, np.exp(log_kappa), np.arctan2(second, first)).sum((1, 2))
    np.testing.assert_allclose(cx.von_mises("emitted").nll({}, {}, outputs, x)[0], expected, rtol=1e-5)
    params, _ = cx.von_mises("channel").init((4, 3))
    chex.assert_trees_all_equal(params, {"log_concentration": jnp.zeros(3)})


@pytest.mark.parametrize(
    "make",
    [
        lambda: cx.von_mises("computed"),
        lambda: cx.optimal_von_mises(max_log_concentration=50),
        lambda: cx.optimal_von_mises(decay=1),
        lambda: cx.optimal_von_mises("images"),
    ],
)
def test_bad_settings_are_one_line(make):
    with pytest.raises(ValueError, match=r"^\w+ is [^\n]+; expected [^\n]+$"):
        make()


def test_a_direction_of_another_shape_is_one_line():
    for shape in [(2, 3), (2, 3, 3), (2,)]:
        with pytest.raises(ValueError, match=r"^(direction|x) has shape [^\n]*; expected [^\n]*$"):
            von_mises_nll(jnp.zeros((2, 3)), jnp.zeros(shape), 0.0)
