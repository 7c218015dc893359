"""`transformed`: the density of the data as they came, for each bijector; bijectors as values."""

import math
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import logit as scipy_logit

import calibrax as cx

RNG = np.random.default_rng(0)
GAUSSIAN = cx.gaussian(0.7, link="identity")
ONES = jnp.ones((4, 2))


def nll_at(likelihood, x, output=0.4):
    """The nll of single numbers x [N], all with the same output."""
    x = jnp.asarray(x, jnp.float32)
    return np.float64(likelihood.nll({}, {}, jnp.full((x.size, 1), output), x)[0])


@pytest.mark.parametrize(
    ("bijector", "x"),
    [
        (cx.symlog, np.sinh(np.linspace(-12, 12, 200_001))),
        (cx.affine(-3.0, 2.5), np.linspace(-20, 20, 200_001)),
        (cx.log, np.exp(np.linspace(-8, 8, 200_001))),
        (cx.logit, 1 / (1 + np.exp(-np.linspace(-8, 8, 200_001)))),
    ],
    ids=repr,
)
def test_a_transformed_gaussian_integrates_to_one(bijector, x):
    density = np.exp(-nll_at(cx.transformed(GAUSSIAN, bijector), x))
    x = np.float64(np.float32(x))
    np.testing.assert_allclose(integrate.trapezoid(density, x), 1, atol=1e-4)


def test_known_densities():
    x = RNG.uniform(0.05, 0.95, 50)
    log_normal = stats.lognorm(0.7, scale=math.exp(0.4)).logpdf(x)
    np.testing.assert_allclose(nll_at(cx.transformed(GAUSSIAN, cx.log), x), -log_normal, rtol=1e-5, atol=1e-5)
    logit_normal = stats.norm(0.4, 0.7).logpdf(scipy_logit(x)) - np.log(x * (1 - x))
    np.testing.assert_allclose(nll_at(cx.transformed(GAUSSIAN, cx.logit), x), -logit_normal, rtol=1e-5, atol=1e-5)
    x = np.float32(RNG.normal(size=50) * 10.0 ** RNG.integers(-3, 5, 50))
    symlog = stats.norm(0.4, 0.7).logpdf(np.sign(x) * np.log1p(np.abs(np.float64(x)))) - np.log1p(np.abs(np.float64(x)))
    np.testing.assert_allclose(nll_at(cx.transformed(GAUSSIAN, cx.symlog), x), -symlog, rtol=1e-5)


@pytest.mark.parametrize("axis", [None, "channel"])
def test_affine_is_the_decoder_of_standardised_data_and_the_log_of_the_scale(axis):
    loc, scale = RNG.normal(size=3), np.exp(RNG.normal(size=3))
    x = loc + scale * RNG.normal(size=(20, 4, 3))
    outputs = jnp.asarray(RNG.normal(size=x.shape), jnp.float32)
    inner = cx.optimal_sigma(axis, link="identity")
    likelihood = cx.transformed(inner, cx.affine(loc, scale))
    params, state = likelihood.init((4, 3))
    standard = jnp.asarray((x - loc) / scale, jnp.float32)
    for train in (True, False):
        nll, found = likelihood.nll(params, state, outputs, jnp.asarray(x, jnp.float32), train=train)
        expected, expected_stats = inner.nll(params, state, outputs, standard, train=train)
        np.testing.assert_allclose(nll, expected + 4 * np.log(scale).sum(), rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(found["mse"], expected_stats["mse"], rtol=1e-5)
        state = likelihood.update(state, found)
    np.testing.assert_allclose(
        likelihood.mean(params, state, outputs), loc + scale * np.float64(outputs), rtol=1e-5, atol=1e-6
    )
    with jax.enable_x64(True):
        wide = likelihood.nll(params, state, np.float64(outputs), x)[0]
        expected = inner.nll(params, state, np.float64(outputs), (x - loc) / scale)[0]
        np.testing.assert_allclose(wide, expected + 4 * np.log(scale).sum(), rtol=1e-12)


def test_images_in_minus_one_to_one_have_the_bits_of_those_in_zero_to_one():
    levels = jnp.asarray(RNG.integers(0, 256, (4, 5, 5, 3)), jnp.uint8)
    symmetric = levels.astype(jnp.float32) / 127.5 - 1
    outputs = jnp.asarray(RNG.normal(size=levels.shape), jnp.float32)
    inner = cx.optimal_sigma()
    likelihood = cx.transformed(inner, cx.affine(-1, 2))
    params, state = likelihood.init((5, 5, 3))
    state = likelihood.update(state, likelihood.nll(params, state, outputs, symmetric)[1])
    args = params, state, outputs
    discretized = inner.discretized_nll(*args, levels)
    np.testing.assert_allclose(likelihood.discretized_nll(*args, symmetric), discretized, rtol=1e-5)
    nll, unit_nll = likelihood.nll(*args, symmetric, train=False)[0], inner.nll(*args, levels, train=False)[0]
    np.testing.assert_allclose(nll, unit_nll + 75 * math.log(2), rtol=1e-5)
    bits = cx.objectives.bits_per_dim(nll, (5, 5, 3), bin_width=2 / 255)
    np.testing.assert_allclose(bits, cx.objectives.bits_per_dim(unit_nll, (5, 5, 3), bin_width=1 / 255), rtol=1e-5)
    mean = likelihood.mean(*args)
    np.testing.assert_allclose(mean, 2 * inner.mean(*args) - 1, rtol=1e-5, atol=1e-6)
    # uint8 is level / 255 here as everywhere: values of the upper half of [-1, 1].
    upper = likelihood.nll(*args, levels.astype(jnp.float32) / 255)[0]
    np.testing.assert_allclose(likelihood.nll(*args, levels)[0], upper, rtol=1e-6)


@pytest.mark.parametrize(("mean", "sigma"), [(0.4, 0.7), (-2.0, 0.1), (0.0, 1.5), (1.0, 2.0), (5.0, 0.3)])
def test_means_of_transformed_gaussians_are_those_of_the_integral(mean, sigma):
    inner, outputs = cx.gaussian(sigma, link="identity"), jnp.full((1, 1), mean)

    def expected(inverse):
        normal = stats.norm(mean, sigma)
        ends = mean - 12 * sigma, mean + 12 * sigma
        return integrate.quad(lambda u: inverse(u) * normal.pdf(u), *ends, points=[0, mean], limit=500)[0]

    of_symlog = expected(lambda u: np.sign(u) * np.expm1(abs(u)))
    found = cx.transformed(inner, cx.symlog).mean({}, {}, outputs)
    np.testing.assert_allclose(found, of_symlog, rtol=2e-5, atol=1e-6)
    found = cx.transformed(inner, cx.log).mean({}, {}, outputs)
    np.testing.assert_allclose(found, math.exp(mean + sigma**2 / 2), rtol=1e-5)
    standardised = cx.transformed(cx.transformed(inner, cx.affine(0.5, 1.5)), cx.log)
    np.testing.assert_allclose(
        standardised.mean({}, {}, outputs), math.exp(0.5 + 1.5 * mean + (1.5 * sigma) ** 2 / 2), rtol=1e-5
    )
    # The logit-normal has no closed form: the transformed centre, which is its median.
    found = cx.transformed(inner, cx.logit).mean({}, {}, outputs)
    np.testing.assert_allclose(found, 1 / (1 + math.exp(-mean)), rtol=1e-5)


def test_a_users_bijector_of_two_functions_and_a_log_derivative():
    cube_root = cx.Bijector(jnp.cbrt, _cube, lambda x: -jnp.log(3 * jnp.cbrt(x) ** 2))
    x = np.linspace(0.5, 8, 30)
    expected = stats.norm(0.4, 0.7).logpdf(np.cbrt(x)) - np.log(3 * np.cbrt(x) ** 2)
    likelihood = cx.transformed(GAUSSIAN, cube_root)
    np.testing.assert_allclose(nll_at(likelihood, x), -expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(likelihood.mean({}, {}, jnp.full((1, 1), 0.4)), 0.4**3, rtol=1e-6)
    of_module = cx.Bijector(_cube_root, _cube, _log_derivative)
    assert pickle.loads(pickle.dumps(cx.transformed(GAUSSIAN, of_module))) == cx.transformed(GAUSSIAN, of_module)


def _cube_root(x):
    return jnp.cbrt(x)


def _cube(u):
    return u**3


def _log_derivative(x):
    return -jnp.log(3 * jnp.cbrt(x) ** 2)


def test_masses_do_not_change():
    """A categorical over images in [-1, 1]: no Jacobian."""
    levels = jnp.asarray(RNG.integers(0, 256, (2, 3)), jnp.uint8)
    likelihood = cx.transformed(cx.categorical(), cx.affine(-1, 2))
    outputs = jnp.asarray(RNG.normal(size=(2, 3 * 256)), jnp.float32)
    symmetric = levels.astype(jnp.float32) / 127.5 - 1
    expected = cx.categorical().nll({}, {}, outputs, levels)[0]
    np.testing.assert_allclose(likelihood.nll({}, {}, outputs, symmetric)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("bijector", [cx.log, cx.logit, cx.symlog, cx.affine(2.0, 3.0)], ids=repr)
def test_what_is_hidden_never_matters_even_outside_of_the_domain(bijector):
    x = RNG.uniform(0.1, 0.9, (4, 5)).astype(np.float32)
    mask = RNG.random((4, 5)) > 0.4
    likelihood = cx.transformed(cx.optimal_sigma(link="identity"), bijector)
    outputs = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
    params, state = likelihood.init((5,))

    def loss(outputs, x):
        return jnp.sum(likelihood.nll(params, state, outputs, x, mask=mask)[0])

    expected = jax.value_and_grad(loss)(outputs, jnp.asarray(x))
    with jax.debug_nans(True):
        for hidden in (np.nan, 0.0, -3.0, np.inf):
            found = jax.value_and_grad(loss)(outputs, np.where(mask, x, np.float32(hidden)))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    visible = [likelihood.nll(params, state, outputs, x)[0], likelihood.nll(params, state, outputs, x, mask=mask)[0]]
    assert np.all(visible[0] != visible[1])


def test_it_nests_with_the_other_combinators():
    x = jnp.asarray(RNG.uniform(0.1, 5, (4, 6, 2)), jnp.float32)
    outputs = jnp.asarray(RNG.normal(size=x.shape), jnp.float32)
    inner = cx.transformed(cx.optimal_sigma(link="identity"), cx.log)
    params, state = inner.init((2,))
    steps = cx.batched(inner).nll(params, state, outputs, x)[0]
    flat = inner.nll(params, state, outputs.reshape(24, 2), x.reshape(24, 2))[0]
    np.testing.assert_allclose(steps.reshape(24), flat, rtol=1e-5)
    outside = cx.transformed(cx.batched(cx.optimal_sigma(link="identity")), cx.log)
    np.testing.assert_allclose(outside.nll(params, state, outputs, x)[0], steps, rtol=1e-5)
    frames = cx.transformed(cx.framewise(cx.optimal_sigma(link="identity")), cx.log)
    np.testing.assert_allclose(frames.nll(params, state, outputs, x)[0], steps.sum(1), rtol=1e-5)
    joint = cx.tempered(cx.joint({"a": inner, "b": cx.masked(inner)}), 0.5)
    both = {"a": outputs[:, 0], "b": outputs[:, 1]}, {"a": x[:, 0], "b": (x[:, 1], jnp.ones((4, 2), bool))}
    found, _ = joint.nll(*joint.init({"a": (2,), "b": (2,)}), *both)
    separate = [inner.nll(params, state, outputs[:, i], x[:, i])[0] for i in range(2)]
    np.testing.assert_allclose(found, 0.5 * (separate[0] + separate[1]), rtol=1e-5)
    state = cx.calibrate(inner, params, [(outputs[:1, 0], x[:1, 0]), (outputs[1:, 0], x[1:, 0])])
    mse = np.mean(np.square(np.log(np.float64(x[:, 0])) - outputs[:, 0]))
    np.testing.assert_allclose(cx.running_average.value(state["mse"], initial=np.nan), mse, rtol=1e-5)


def test_bijectors_are_values():
    per_channel = cx.affine(np.array([1.0, 2.0]), jnp.array([0.5, 3.0]))
    assert per_channel == cx.affine(np.array([1.0, 2.0]), np.array([0.5, 3.0], np.float32))
    assert per_channel != cx.affine(np.array([1.0, 2.5]), np.array([0.5, 3.0], np.float32))
    assert cx.affine(-1, 2) == cx.affine(loc=-1, scale=2) != cx.affine(-1, 3)
    for bijector in (per_channel, cx.affine(-1, 2), cx.symlog, cx.log, cx.logit):
        copied = pickle.loads(pickle.dumps(bijector))
        assert copied == bijector
        assert hash(copied) == hash(bijector)
    assert repr(cx.transformed(cx.gaussian(), cx.symlog)) == "transformed(gaussian(), symlog)"
    assert cx.transformed(cx.gaussian(), per_channel) == cx.transformed(cx.gaussian(), per_channel)
    calls = []

    def nll(x, likelihood):
        calls.append(likelihood)
        return likelihood.nll({}, {}, x, x)[0]

    nll = jax.jit(nll, static_argnums=1)
    for _ in range(2):
        nll(jnp.ones((2, 2)), cx.transformed(cx.gaussian(), cx.affine(np.zeros(2), np.ones(2))))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cx.transformed(cx.gaussian(), "symlog"), "bijector is 'symlog': a str; expected a Bijector, such as"),
        (lambda: cx.transformed(cx.gaussian, cx.symlog), "likelihood is a function; expected a Likelihood"),
        (lambda: cx.affine(0.0, 0.0), "scale is 0.0; expected positive finite numbers"),
        (lambda: cx.affine(0.0, np.array([1.0, -1.0])), "scale is array([ 1., -1.]); expected positive finite numbers"),
        (lambda: cx.affine(np.nan, 1.0), "loc is nan; expected finite numbers"),
        (lambda: cx.affine("0", 1.0), "loc is '0'; expected finite numbers"),
        (lambda: nll_at(cx.transformed(GAUSSIAN, cx.log), [0.0, 2.0]), "x has values from 0 to 2; expected positive"),
        (
            lambda: nll_at(cx.transformed(GAUSSIAN, cx.logit), [0.5, 1.0]),
            "x has values from 0.5 to 1; expected numbers",
        ),
        (
            lambda: cx.transformed(GAUSSIAN, cx.affine(np.zeros(3), 1.0)).nll(
                {}, {}, jnp.ones((4, 2)), jnp.ones((4, 2))
            ),
            "loc has shape (3,); expected one that broadcasts to (4, 2)",
        ),
        (
            lambda: cx.transformed(GAUSSIAN, cx.affine(np.zeros(4), 1.0)).nll({}, {}, jnp.ones(4), jnp.ones(4)),
            "loc has shape (4,); expected one that broadcasts to (4, 1)",
        ),
        (
            lambda: cx.transformed(cx.joint({"a": GAUSSIAN}), cx.log).nll({}, {}, {}, {"a": jnp.ones((4, 2))}),
            "x is a dict; expected an array; transform the parts of a joint, and use masked outside",
        ),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        make()


def test_inside_jit_data_out_of_the_domain_stay_finite():
    for bijector in (cx.log, cx.logit):
        likelihood = cx.transformed(GAUSSIAN, bijector)
        nll = jax.jit(lambda x, likelihood=likelihood: likelihood.nll({}, {}, jnp.zeros((3, 1)), x)[0])
        assert np.all(np.isfinite(nll(jnp.array([0.0, 1.0, -1.0]))))
