"""`from_distribution` of NumPyro's, Distrax's and TFP's distributions: SciPy's numbers, masks, data types, moments."""

import pickle
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiled import compiled
from scipy import stats
from scipy.special import expit

import calibrax as cx
import calibrax.linen

RNG = np.random.default_rng(0)
dist = pytest.importorskip("numpyro").distributions


@pytest.fixture(autouse=True)
def _relaxed():
    """NumPyro mixes ranks and dtypes, as calibrax never does."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def make_normal(outputs):
    loc, log_scale = jnp.split(outputs, 2, -1)
    return dist.Normal(loc, jnp.exp(log_scale))


def make_negative_binomial(outputs, params):
    return dist.NegativeBinomial2(jnp.exp(outputs), jnp.exp(params["log_dispersion"]))


def make_von_mises(outputs):
    x, y, log_concentration = jnp.split(outputs, 3, -1)
    return dist.VonMises(jnp.arctan2(y, x), jnp.exp(log_concentration))


def make_zero_inflated(outputs):
    logits, log_rate = jnp.split(outputs, 2, -1)
    return dist.ZeroInflatedPoisson(gate=jax.nn.sigmoid(logits), rate=jnp.exp(log_rate))


def make_multivariate(outputs):
    return dist.MultivariateNormal(outputs, jnp.eye(outputs.shape[-1]))


def make_cauchy(outputs):
    return dist.Cauchy(outputs, 1.0)


def one_dispersion():
    return {"log_dispersion": jnp.zeros(())}


NORMAL = cx.from_distribution(make_normal, outputs_per_channel=2)
COUNTS = cx.from_distribution(make_negative_binomial, init_params=one_dispersion, is_discrete=True)
ANGLES = cx.from_distribution(make_von_mises, outputs_per_channel=3)
ZERO_INFLATED = cx.from_distribution(make_zero_inflated, outputs_per_channel=2, is_discrete=True)
CAUCHY = cx.from_distribution(make_cauchy)
EVENT = (4, 3)


def outputs_of(likelihood, batch=6, scale=1.0):
    shape = (batch, *EVENT[:-1], likelihood.output_channels(EVENT[-1]))
    return jnp.asarray(scale * RNG.normal(size=shape), jnp.float32)


def scipy_log_prob(name, outputs, x):
    parts = np.split(np.float64(outputs), {"normal": 2, "counts": 1, "angles": 3, "zeros": 2}[name], -1)
    if name == "normal":
        return stats.norm(parts[0], np.exp(parts[1])).logpdf(x)
    if name == "counts":  # of dispersion 1/2: variance m + m² / r
        mean, dispersion = np.exp(parts[0]), 0.5
        return stats.nbinom(dispersion, dispersion / (dispersion + mean)).logpmf(x)
    if name == "angles":
        return stats.vonmises(np.exp(parts[2]), loc=np.arctan2(parts[1], parts[0])).logpdf(x)
    zero = expit(parts[0])
    return np.log(zero * (x == 0) + (1 - zero) * stats.poisson(np.exp(parts[1])).pmf(x))


CASES = {"normal": NORMAL, "counts": COUNTS, "angles": ANGLES, "zeros": ZERO_INFLATED}
PARAMS = {"log_dispersion": jnp.log(jnp.float32(0.5))}


def data_of(name):
    if name in ("counts", "zeros"):
        return RNG.integers(0, 5, (6, *EVENT)).astype(np.int32)
    return np.float32(RNG.uniform(-3, 3, (6, *EVENT)))


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_scipy(name):
    likelihood, x = compiled(CASES[name]), data_of(name)
    outputs = outputs_of(likelihood)
    nll, found = likelihood.nll(PARAMS, {}, outputs, jnp.asarray(x))
    assert found == {}
    assert (nll.shape, nll.dtype) == ((6,), jnp.float32)
    np.testing.assert_allclose(nll, -scipy_log_prob(name, outputs, np.float64(x)).sum((1, 2)), rtol=1e-5, atol=1e-5)
    narrow = likelihood.nll(PARAMS, {}, outputs.astype(jnp.bfloat16), x)[0]
    rounded = likelihood.nll(PARAMS, {}, outputs.astype(jnp.bfloat16).astype(jnp.float32), x)[0]
    np.testing.assert_array_equal(narrow, rounded)
    assert narrow.dtype == jnp.float32
    with jax.enable_x64(True):
        wide = likelihood.nll(PARAMS, {}, np.float64(outputs), x)[0]
        assert wide.dtype == jnp.float64


NATIVE = {
    "normal": cx.pixel_sigma(-40.0, link="identity"),
    "counts": cx.negative_binomial(),
    "angles": cx.von_mises("emitted"),
    "zeros": cx.zero_inflated(cx.poisson()),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_those_of_the_native_decoders(name):
    likelihood, native = compiled(CASES[name]), compiled(NATIVE[name])
    x, outputs = jnp.asarray(data_of(name)), outputs_of(likelihood)
    params = PARAMS if name == "counts" else {}

    def results(likelihood):
        def loss(params, outputs):
            return jnp.sum(likelihood.nll(params, {}, outputs, x)[0])

        return jax.value_and_grad(loss, (0, 1))(params, outputs)

    chex.assert_trees_all_close(results(likelihood), results(native), rtol=1e-5, atol=1e-5)
    mean = likelihood.mean(params, {}, outputs)
    np.testing.assert_allclose(mean, native.mean(params, {}, outputs), rtol=1e-5, atol=1e-6)
    if name == "normal":
        for own, exact in zip(
            cx.interval(CASES[name], {}, {}, outputs), cx.interval(NATIVE[name], {}, {}, outputs), strict=True
        ):
            np.testing.assert_allclose(own, exact, rtol=1e-5, atol=1e-5)  # the sum of two numbers near 10
        own, exact = (decoder.marginal.variance({}, {}, outputs) for decoder in (likelihood, native))
        np.testing.assert_allclose(own, exact, rtol=1e-5)
        below = likelihood.marginal.cdf({}, {}, outputs, x)
        np.testing.assert_allclose(below, native.marginal.cdf({}, {}, outputs, x), rtol=1e-5, atol=1e-7)


def make_poisson(outputs):
    return dist.Poisson(jnp.exp(outputs))


POISSON = cx.from_distribution(make_poisson, is_discrete=True)


@pytest.mark.parametrize("name", CASES)
def test_hidden_values_never_matter_even_outside_of_the_support(name):
    likelihood, x = compiled(CASES[name]), np.float32(data_of(name))
    outputs, mask = outputs_of(likelihood), RNG.random((6, *EVENT)) > 0.4
    mask[2] = False

    def loss(outputs, x):
        return jnp.sum(likelihood.nll(PARAMS, {}, outputs, x, mask=mask)[0])

    expected = jax.value_and_grad(loss)(outputs, np.where(mask, x, np.float32(1)))
    np.testing.assert_allclose(
        expected[0], -scipy_log_prob(name, outputs, np.float64(x))[mask].sum(), rtol=1e-5, atol=1e-5
    )
    with jax.debug_nans(True):
        for hidden in (np.nan, -7.0):
            found = jax.value_and_grad(loss)(outputs, np.where(mask, x, np.float32(hidden)))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert not np.any(found[1][2])


def make_log_normal(outputs):
    return dist.LogNormal(outputs, 1.0)


def test_a_hidden_value_is_replaced_inside_the_support():
    """The gradient of LogNormal's log_prob at 0 is NaN."""
    likelihood = cx.from_distribution(make_log_normal)
    x, mask = np.float32([[2.0, 0.0]]), np.array([[True, False]])
    value, grads = jax.value_and_grad(lambda o: likelihood.nll({}, {}, o, x, mask=mask)[0][0])(jnp.zeros((1, 2)))
    np.testing.assert_allclose(value, -stats.lognorm(1).logpdf(2.0), rtol=1e-5)
    np.testing.assert_allclose(grads, [[-np.log(2), 0]], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float32, bool])
def test_integers_are_what_they_say_for_counts(dtype):
    x = RNG.integers(0, 2 if dtype is bool else 5, (6, *EVENT)).astype(dtype)
    outputs = outputs_of(COUNTS)
    expected = -scipy_log_prob("counts", outputs, np.float64(x)).sum((1, 2))
    np.testing.assert_allclose(COUNTS.nll(PARAMS, {}, outputs, x)[0], expected, rtol=1e-5)


def test_data_of_densities_are_floats_uint8_and_bool():
    outputs, levels = outputs_of(NORMAL), RNG.integers(0, 256, (6, *EVENT)).astype(np.uint8)
    expected = NORMAL.nll({}, {}, outputs, np.float32(levels) / np.float32(255))[0]
    np.testing.assert_array_equal(NORMAL.nll({}, {}, outputs, levels)[0], expected)
    with pytest.raises(ValueError, match=r"^x has dtype int32; expected uint8 [^\n]*$"):
        NORMAL.nll({}, {}, outputs, levels.astype(np.int32))


@pytest.mark.parametrize("name", CASES)
def test_samples_and_means(name):
    likelihood = compiled(CASES[name])
    outputs = outputs_of(likelihood, batch=1)
    draws = likelihood.sample(jax.random.key(0), PARAMS, {}, jnp.broadcast_to(outputs, (3000, *outputs.shape[1:])))
    assert (draws.shape, draws.dtype) == ((3000, *EVENT), jnp.float32)
    if name == "angles":  # the mean of angles is a direction
        found = np.angle(np.exp(1j * np.float64(draws)).mean(0))
        error = np.angle(np.exp(1j * (found - np.float64(likelihood.mean(PARAMS, {}, outputs)[0]))))
        concentration = np.exp(np.float64(outputs[0, ..., 6:]))
        assert np.all(np.abs(error) < 5 / np.sqrt(3000) / np.minimum(concentration, 1))
    else:
        mean = likelihood.mean(PARAMS, {}, outputs)[0]
        assert np.max(np.abs(draws.mean(0) - mean) / draws.std(0)) * np.sqrt(3000) < 5


def test_whole_events():
    """A multivariate normal has one log_prob per position: no mask, and no values on their own."""
    likelihood = cx.from_distribution(make_multivariate)
    outputs, x = outputs_of(likelihood), jnp.asarray(RNG.normal(size=(6, *EVENT)), jnp.float32)
    expected = -stats.norm(np.float64(outputs)).logpdf(x).sum((1, 2))
    np.testing.assert_allclose(likelihood.nll({}, {}, outputs, x)[0], expected, rtol=1e-5)
    with pytest.raises(ValueError, match=r"^mask is given for a MultivariateNormal with event_shape \(3,\); [^\n]*$"):
        cx.masked(likelihood).nll({}, {}, outputs, (x, x > 0))


def test_single_numbers():
    likelihood = cx.from_distribution(make_cauchy)
    x, outputs = jnp.asarray(RNG.normal(size=5), jnp.float32), jnp.asarray(RNG.normal(size=5), jnp.float32)
    expected = -stats.cauchy(np.float64(outputs)).logpdf(x)
    for given in (outputs, outputs[:, None]):
        np.testing.assert_allclose(likelihood.nll({}, {}, given, x)[0], expected, rtol=1e-5)
    assert likelihood.sample(jax.random.key(0), {}, {}, outputs).shape == (5,)
    nll, _ = NORMAL.nll(*NORMAL.init(()), jnp.zeros((5, 2)), x, mask=x > 0)
    np.testing.assert_allclose(nll, np.where(x > 0, -stats.norm.logpdf(x), 0), rtol=1e-5)


def test_it_composes_and_is_a_value():
    assert cx.from_distribution(make_normal, outputs_per_channel=2) == NORMAL
    assert pickle.loads(pickle.dumps(COUNTS)) == COUNTS
    assert hash(pickle.loads(pickle.dumps(COUNTS))) == hash(COUNTS)
    steps = cx.batched(cx.masked(cx.mixture(COUNTS, 2)))
    params, state = steps.init((3,))
    assert params["log_dispersion"].shape == (2,)
    outputs = jnp.asarray(RNG.normal(size=(2, 5, 8)), jnp.float32)
    x = RNG.integers(0, 5, (2, 5, 3))
    nll, _ = jax.jit(steps.nll)(params, state, outputs, (x, np.ones((2, 5), bool)))
    assert nll.shape == (2, 5)
    zeros = cx.zero_inflated(POISSON)
    both = jnp.asarray(RNG.normal(size=(6, 6)), jnp.float32)
    counts = RNG.integers(0, 3, (6, 3))
    expected = -scipy_log_prob("zeros", both, counts).sum(1)
    np.testing.assert_allclose(zeros.nll({}, {}, both, counts)[0], expected, rtol=1e-5)
    module = calibrax.linen.Decode(COUNTS)
    variables = module.init(jax.random.key(0), both, RNG.integers(0, 3, (6, 6)), train=True)
    assert variables["params"]["log_dispersion"].shape == ()
    exponential = cx.transformed(cx.from_distribution(make_cauchy), cx.log)
    value = exponential.nll({}, {}, jnp.zeros((1, 1)), jnp.full((1, 1), 2.0))[0]
    np.testing.assert_allclose(value, -stats.cauchy.logpdf(np.log(2)) + np.log(2), rtol=1e-5)
    low, high = cx.interval(POISSON, {}, {}, jnp.ones((1, 1)), 0.5, key=jax.random.key(0))
    assert (low, high) == (2, 4)  # by draws: NumPyro's Poisson has no icdf; of rate e


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cx.from_distribution("normal"), "make is a str; expected a function of outputs that returns a distr"),
        (lambda: cx.from_distribution(make_normal, outputs_per_channel=0), "outputs_per_channel is 0; expected an int"),
        (
            lambda: cx.from_distribution(lambda outputs: dist.Normal(0.0, 1.0)).nll(
                {}, {}, jnp.ones((4, 2)), jnp.ones((4, 2))
            ),
            "make returns a distribution of batch_shape () and event_shape (); expected (4, 2) together",
        ),
        (
            lambda: NORMAL.nll({}, {}, jnp.ones((4, 4)), jnp.ones((4, 3))),
            "x has shape (4, 3); expected (4, 2)",
        ),
        (
            lambda: cx.from_distribution(lambda outputs: NoMean(outputs)).mean({}, {}, jnp.ones((4, 2))),
            "the distribution of <lambda> has no mean; expected one that has, or use sample",
        ),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        make()


class NoMean(dist.Distribution):
    def __init__(self, outputs):
        super().__init__(batch_shape=outputs.shape)


# Distrax and TensorFlow Probability


@pytest.mark.parametrize("library", ["distrax", "tfp"])
def test_distributions_of_other_libraries(library):
    if library == "distrax":
        module = pytest.importorskip("distrax")
    else:
        module = pytest.importorskip("tensorflow_probability.substrates.jax").distributions

    def make(outputs):
        loc, log_scale = jnp.split(outputs, 2, -1)
        return module.Normal(loc, jnp.exp(log_scale))

    likelihood = cx.from_distribution(make, outputs_per_channel=2)
    outputs, x, mask = outputs_of(likelihood), data_of("normal"), RNG.random((6, *EVENT)) > 0.4
    for given in (None, mask):
        found = likelihood.nll({}, {}, outputs, x, mask=given)[0]
        np.testing.assert_allclose(found, NORMAL.nll({}, {}, outputs, x, mask=given)[0], rtol=1e-5)
    np.testing.assert_allclose(likelihood.mean({}, {}, outputs), NORMAL.mean({}, {}, outputs), rtol=1e-6)
    variance = likelihood.marginal.variance({}, {}, outputs)
    np.testing.assert_allclose(variance, NORMAL.marginal.variance({}, {}, outputs), rtol=1e-5)
    assert likelihood.sample(jax.random.key(0), {}, {}, outputs).shape == x.shape
    if library == "tfp":
        low, _ = cx.interval(likelihood, {}, {}, outputs)
        np.testing.assert_allclose(low, cx.interval(NORMAL, {}, {}, outputs)[0], rtol=1e-4, atol=1e-5)
        poisson = cx.from_distribution(lambda outputs: module.Poisson(log_rate=outputs), is_discrete=True)
        counts = RNG.integers(0, 5, (6, *EVENT))
        found, expected = (each.nll({}, {}, outputs[..., :3], counts)[0] for each in (poisson, POISSON))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
