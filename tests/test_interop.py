"""A likelihood as a log-density, a NumPyro and a Distrax distribution: the same numbers, also inside the libraries."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from decoders import DECODERS, outputs_for, trained
from decoders import data as draw_data
from jax import lax
from scipy import stats

import calibrax as cx
from calibrax import interop

B, EVENT = 5, (4, 3, 2)
SOME = ["shared-sigma", "optimal-sigma-per-pixel", "categorical of 5 levels"]  # all decoders: tests/robustness
LIBRARIES = {"numpyro": interop.to_numpyro, "distrax": interop.to_distrax}


@pytest.fixture(params=SOME, name="some")
def _some(request):
    return DECODERS[request.param].likelihood


@pytest.fixture(params=LIBRARIES, name="convert")
def _convert(request):
    pytest.importorskip(request.param)
    return LIBRARIES[request.param]


@pytest.fixture
def numpyro():
    return pytest.importorskip("numpyro")


@pytest.fixture
def relaxed():
    """Allow what NumPyro's optimizers and samplers do, but calibrax never does: mixing ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def distrax():
    return pytest.importorskip("distrax")


def data(seed=1, batch=B):
    return draw_data(EVENT, batch=batch, seed=seed, levels=5)  # the fewest that one of the decoders has


def decoded(likelihood, batch=B, seed=0):
    """params, state after one update, outputs."""
    outputs = outputs_for(likelihood, EVENT, batch=batch, seed=seed)
    return *trained(likelihood, outputs, data(batch=batch)), outputs


def mean_of(distribution):
    return distribution.mean() if callable(distribution.mean) else distribution.mean


def draw(distribution, key, shape=()):
    if hasattr(distribution, "sample_and_log_prob"):  # Distrax
        return distribution.sample(seed=key, sample_shape=shape)
    return distribution.sample(key, shape)


# The log-density


@pytest.mark.parametrize("train", [True, False])
def test_log_density_is_minus_the_nll(some, train):
    args = decoded(some)
    log_prob = interop.log_density(some, *args, train=train)(data())
    np.testing.assert_array_equal(log_prob, -some.nll(*args, data(), train=train)[0])


def test_log_density_takes_any_pytree():
    joint, shapes = cx.joint({"image": cx.optimal_sigma(), "state": cx.gaussian()}), {"image": (4, 2), "state": (3,)}
    x = {name: jnp.full((B, *shape), 0.4) for name, shape in shapes.items()}
    args = (*joint.init(shapes), x)
    log_prob = jax.jit(lambda x: interop.log_density(joint, *args)(x))(x)
    np.testing.assert_allclose(log_prob, -joint.nll(*args, x, train=False)[0], rtol=1e-6)
    log_prob = interop.log_density(cx.masked(cx.gaussian()), {}, {}, jnp.zeros((B, *EVENT)))((data(), hide_but_two()))
    assert np.count_nonzero(log_prob) == 2


def hide_but_two():
    """A mask under which only the first two examples of a batch are observed."""
    return jnp.broadcast_to(jnp.arange(B)[:, None, None, None] < 2, (B, *EVENT))


# Both libraries


@pytest.mark.parametrize("train", [True, False])
def test_a_distribution_has_the_numbers_of_the_likelihood(some, convert, train):
    args = decoded(some)
    distribution = convert(some, *args, train=train)
    assert (distribution.batch_shape, distribution.event_shape) == ((B,), EVENT)
    for x in (data(), data().astype(jnp.float32) / 255, np.asarray(data())):
        log_prob = distribution.log_prob(x)
        np.testing.assert_array_equal(log_prob, -some.nll(*args, x, train=train)[0])
        assert log_prob.dtype == jnp.float32
    np.testing.assert_array_equal(mean_of(distribution), some.mean(*args))


@pytest.mark.parametrize("train", [True, False])
def test_leading_axes_of_values_are_samples(some, convert, train):
    args = decoded(some)
    distribution = convert(some, *args, train=train)
    x = jnp.stack([data(seed) for seed in range(6)]).reshape(2, 3, B, *EVENT)
    each = [[-some.nll(*args, x[i, j], train=train)[0] for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(distribution.log_prob(x), each, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(lambda d, x: d.log_prob(x))(distribution, x), each, rtol=1e-5)
    one = distribution.log_prob(x[0, 0, 0])  # one event under each of the B
    np.testing.assert_allclose(one, distribution.log_prob(jnp.broadcast_to(x[0, 0, 0], (B, *EVENT))), rtol=1e-5)


def test_one_output_serves_many_values(some, convert):
    params, state, outputs = decoded(some)
    log_prob = convert(some, params, state, outputs[:1]).log_prob(data())
    repeated = jnp.broadcast_to(outputs[:1], outputs.shape)
    np.testing.assert_allclose(log_prob, -some.nll(params, state, repeated, data(), train=False)[0], rtol=1e-5)


def test_samples_have_shape_moments_and_a_key_each(some, convert):
    args = decoded(some)
    distribution = convert(some, *args)
    draws = draw(distribution, jax.random.key(3), (500, 2))
    assert draws.shape == (500, 2, B, *EVENT)
    assert draw(distribution, jax.random.key(3)).shape == (B, *EVENT)
    assert draw(distribution, jax.random.PRNGKey(3), (0,)).shape == (0, B, *EVENT)
    assert not np.array_equal(draws[0, 0], draws[0, 1])
    draws = np.asarray(draws, np.float64).reshape(1000, B, *EVENT)
    z = (draws.mean(0) - mean_of(distribution)) / (draws.std(0) / np.sqrt(1000))
    assert np.max(np.abs(z)) < 5


@pytest.mark.parametrize("name", SOME[:2])  # one with params, one with a state
def test_a_distribution_passes_through_jit_vmap_scan_and_grad(name, convert):
    some = DECODERS[name].likelihood
    params, state, _ = decoded(some)
    outputs = jnp.stack([decoded(some, seed=seed)[2] for seed in range(3)])
    x = jnp.stack([data(seed) for seed in range(3)])
    expected = [-some.nll(params, state, outputs[i], x[i], train=False)[0] for i in range(3)]
    make = jax.jit(lambda outputs: convert(some, params, state, outputs))
    _, scanned = lax.scan(lambda carry, outputs: (carry, make(outputs)), None, outputs)
    for stacked in (jax.vmap(make)(outputs), scanned):
        inside = jax.vmap(lambda d, x: d.log_prob(x))(stacked, x)
        np.testing.assert_allclose(inside, expected, rtol=1e-5)
        assert (stacked.batch_shape, stacked.event_shape) == ((3, B), EVENT)  # and outside it is one of more batch axes
        np.testing.assert_allclose(stacked.log_prob(x), expected, rtol=1e-5)
        np.testing.assert_allclose(stacked.log_prob(jnp.stack([x, x]))[1], expected, rtol=1e-5)
        np.testing.assert_allclose(mean_of(stacked)[2], some.mean(params, state, outputs[2]), rtol=1e-5)
        assert draw(stacked, jax.random.key(0), (7,)).shape == (7, 3, B, *EVENT)

    def loss(log_prob_of, params, outputs):
        return jnp.sum(log_prob_of(params, outputs))

    through = jax.grad(lambda *args: loss(lambda p, o: convert(some, p, state, o).log_prob(x[0]), *args), (0, 1))
    plain = jax.grad(lambda *args: loss(lambda p, o: -some.nll(p, state, o, x[0], train=False)[0], *args), (0, 1))
    jax.tree.map(np.testing.assert_array_equal, through(params, outputs[0]), plain(params, outputs[0]))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"image": jnp.zeros((B, 3))}, "outputs is a dict; expected one array; calibrax.interop.log_density takes any"),
        ((jnp.zeros((B, 3)), jnp.zeros((B, 3))), "outputs is a tuple; expected one array"),
        (None, "outputs is a NoneType; expected one array"),
        (jnp.zeros(()), r"outputs has shape \(\); expected \[B, \.\.\., channels\]"),
    ],
)
def test_what_is_not_one_array_is_refused_in_one_line(convert, outputs, message):
    with pytest.raises(ValueError, match=f"^{message}[^\n]*$"):
        convert(cx.gaussian(), {}, {}, outputs)
    two_arrays = cx.gaussian()._replace(sample=lambda key, params, state, outputs: (outputs, outputs))
    with pytest.raises(ValueError, match=r"^a sample is a tuple; expected one array[^\n]*$"):
        convert(two_arrays, {}, {}, jnp.zeros((B, 3)))


def test_a_likelihood_without_a_mean_has_all_but_a_mean(convert):
    def no_mean(params, state, outputs):
        raise ValueError("the distribution of cauchy_nll has no mean; expected one that has, or use sample")

    distribution = convert(cx.gaussian()._replace(mean=no_mean), {}, {}, jnp.zeros((B, *EVENT)))
    assert distribution.log_prob(data()).shape == (B,)
    with pytest.raises(ValueError, match="cauchy_nll has no mean"):
        mean_of(distribution)


def test_values_of_another_shape_or_kind_are_refused_in_one_line(convert):
    distribution = convert(cx.gaussian(), {}, {}, jnp.zeros((B, *EVENT)))
    for value in (data()[..., :1], data()[:2], data()[0, 0], jnp.zeros((B + 1, *EVENT)), jnp.zeros(())):
        with pytest.raises(ValueError, match=r"^value has shape \([^\n]*\); expected \(\.\.\., 5, 4, 3, 2\)$"):
            distribution.log_prob(value)
    with pytest.raises(ValueError, match=r"^value is a tuple; expected one array[^\n]*$"):
        distribution.log_prob((data(), data() > 3))
    with pytest.raises(ValueError, match=r"^x has dtype int32; expected[^\n]*$"):
        distribution.log_prob(data().astype(jnp.int32))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_library_names_the_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    cached = {"numpyro": interop._numpyro_class, "distrax": interop._distrax_class}[library]
    cached.cache_clear()
    message = rf"^to_{library} needs {library} [^\n]*pip install '\.\[{library}\]' in the checkout$"
    with pytest.raises(ImportError, match=message):
        LIBRARIES[library](cx.gaussian(), {}, {}, jnp.zeros((B, 3)))


def test_importing_interop_loads_neither_library():
    code = "import sys, calibrax.interop; print(' '.join({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "calibrax" in loaded
    assert not {"numpyro", "distrax", "tensorflow_probability"} & set(loaded)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["gaussian identity", "shared-sigma", "optimal-sigma identity"])
def test_gaussians_equal_the_normal_of_the_library(name, library):
    module = pytest.importorskip(library)
    likelihood = DECODERS[name].likelihood
    params, state, outputs = decoded(likelihood)
    sigma = {"gaussian identity": 0.3, "shared-sigma": jnp.exp(-0.7)}.get(name)
    if sigma is None:  # one update: the debiased average is that batch's mean square
        sigma = jnp.sqrt(jnp.mean(jnp.square(data().astype(jnp.float32) / 255 - outputs)))
    mean = likelihood.mean(params, state, outputs)
    sigma = jnp.full_like(mean, sigma)
    if library == "numpyro":
        normal: Any = module.distributions.Normal(mean, sigma).to_event(3)
    else:
        normal = module.Independent(module.Normal(mean, sigma), 3)
    expected = normal.log_prob(data().astype(jnp.float32) / 255)
    ours = LIBRARIES[library](likelihood, params, state, outputs)
    np.testing.assert_allclose(ours.log_prob(data()), expected, rtol=1e-5)


def moment(distribution, name):
    value = getattr(distribution, name)
    return value() if callable(value) else value


def test_moments_and_quantiles_of_values_on_their_own(convert):
    """Those of the Gaussian, of each value; with leading axes of `vmap` and of samples."""
    likelihood = cx.optimal_sigma("channel", link="identity")
    params, state, outputs = decoded(likelihood)
    sigma = np.sqrt(np.float64(cx.running_average.value(state["mse"], initial=np.nan)))
    normal = stats.norm(np.float64(outputs), np.broadcast_to(sigma, outputs.shape))
    distribution = convert(likelihood, params, state, outputs)
    np.testing.assert_allclose(moment(distribution, "variance"), normal.var(), rtol=1e-5)
    np.testing.assert_allclose(moment(distribution, "stddev"), normal.std(), rtol=1e-5)
    np.testing.assert_array_equal(moment(distribution, "mode"), outputs)
    x = jnp.stack([outputs + 0.3, outputs - 1])
    np.testing.assert_allclose(distribution.cdf(x), normal.cdf(np.float64(x)), rtol=1e-5, atol=1e-6)
    name = "icdf" if hasattr(distribution, "icdf") else "quantile"
    np.testing.assert_allclose(getattr(distribution, name)(0.95), normal.ppf(0.95), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(distribution.quantile(distribution.cdf(x)), x, rtol=1e-3, atol=1e-3)
    stacked = jax.vmap(lambda outputs: convert(likelihood, params, state, outputs))(jnp.stack([outputs, outputs + 1]))
    np.testing.assert_allclose(stacked.quantile(0.5)[1], outputs + 1, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stacked.cdf(x)[0], normal.cdf(np.float64(x[0])), rtol=1e-5, atol=1e-6)
    assert moment(stacked, "variance").shape == (2, B, *EVENT)


def test_moments_of_single_numbers_and_levels(convert):
    rewards = convert(cx.batched(cx.laplace(link="identity")), {"log_scale": jnp.zeros(())}, {}, jnp.zeros((4, 5)))
    np.testing.assert_allclose(rewards.quantile(0.9), np.full((4, 5), stats.laplace.ppf(0.9)), rtol=1e-5)
    np.testing.assert_allclose(moment(rewards, "variance"), np.full((4, 5), 2.0), rtol=1e-6)
    flags = convert(cx.bernoulli(), {}, {}, jnp.array([[2.0], [-2.0]]))
    np.testing.assert_array_equal(moment(flags, "mode"), [[1], [0]])
    np.testing.assert_array_equal(flags.quantile(0.5), [[1], [0]])


def test_what_a_likelihood_does_not_have_is_not_implemented(convert):
    distribution = convert(cx.logistic_mixture(2), {}, {}, jnp.zeros((B, 10)))
    for ask in (lambda: moment(distribution, "variance"), lambda: distribution.cdf(jnp.zeros((B, 2)))):
        with pytest.raises(NotImplementedError, match=r"logistic_mixture\(2\) has no (variance|cdf)$"):
            ask()


# NumPyro


def sample_in_plate(numpyro, distribution, x):
    with numpyro.plate("batch", distribution.batch_shape[0]):
        return numpyro.sample("x", distribution, obs=x)


def test_numpyro_support_admits_the_data_and_asks_for_a_plate_of_the_batch(numpyro, some):
    distribution = interop.to_numpyro(some, *decoded(some))
    x = data().astype(jnp.float32) / 255
    with numpyro.validation_enabled():
        assert np.all(distribution.support(x))
        assert distribution.support.event_dim == distribution.event_dim == 3
        trace = numpyro.handlers.trace(sample_in_plate).get_trace(numpyro, distribution, x)
    assert trace["x"]["fn"].batch_shape == (B,)
    assert trace["x"]["is_observed"]


def test_numpyro_handlers_draw_and_replace_values(numpyro, some):
    distribution = interop.to_numpyro(some, *decoded(some))
    seeded = numpyro.handlers.seed(sample_in_plate, jax.random.key(0))
    drawn = numpyro.handlers.trace(seeded).get_trace(numpyro, distribution, None)["x"]
    assert drawn["value"].shape == (B, *EVENT)
    x = data().astype(jnp.float32) / 255
    log_density, trace = numpyro.infer.util.log_density(seeded, (numpyro, distribution, None), {}, {"x": x})
    np.testing.assert_array_equal(trace["x"]["value"], x)
    np.testing.assert_allclose(log_density, jnp.sum(distribution.log_prob(x)), rtol=1e-5)


def test_numpyro_expand_mask_and_an_outer_plate(numpyro, some):
    params, state, outputs = decoded(some)
    distribution = interop.to_numpyro(some, params, state, outputs)
    x = jnp.stack([data(0), data(1)])
    expected = np.stack([distribution.log_prob(data(0)), distribution.log_prob(data(1))])
    outer = distribution.expand((2, B))
    np.testing.assert_allclose(outer.log_prob(x), expected, rtol=1e-5)
    assert outer.sample(jax.random.key(0)).shape == (2, B, *EVENT)
    one = interop.to_numpyro(some, params, state, outputs[:1]).expand((B,))
    assert one.sample(jax.random.key(0)).shape == (B, *EVENT)
    assert one.log_prob(data()).shape == (B,)
    observed = jnp.arange(B) < 2
    masked = distribution.mask(observed).log_prob(data(0))
    np.testing.assert_allclose(masked, np.where(observed, expected[0], 0), rtol=1e-5)


def test_numpyro_scan_over_time(numpyro, some):
    from numpyro.contrib.control_flow import scan

    params, state, _ = decoded(some)
    outputs = jnp.stack([decoded(some, seed=seed)[2] for seed in range(3)])
    x = jnp.stack([data(seed) for seed in range(3)])

    def step(carry, both):
        distribution = interop.to_numpyro(some, params, state, both[0])
        return carry, sample_in_plate(numpyro, distribution, both[1])

    log_density, trace = numpyro.infer.util.log_density(lambda: scan(step, None, (outputs, x)), (), {}, {})
    assert trace["x"]["fn"].batch_shape == (3, B)
    expected = [-some.nll(params, state, outputs[i], x[i], train=False)[0] for i in range(3)]
    np.testing.assert_allclose(log_density, np.sum(expected), rtol=1e-5)


def test_numpyro_svi_learns_a_shared_sigma_and_the_outputs(numpyro, relaxed):
    """The outputs converge to the mean of the data, and σ to the RMSE."""
    likelihood = cx.shared_sigma(link="identity")
    x = 2.0 + 0.1 * jax.random.normal(jax.random.key(0), (500, 3))

    def model(x):
        params = numpyro.param("likelihood", likelihood.init(x.shape[1:])[0])
        location = numpyro.param("location", jnp.full(3, 1.5))
        distribution = interop.to_numpyro(likelihood, params, {}, jnp.broadcast_to(location, x.shape))
        sample_in_plate(numpyro, distribution, x)

    svi = numpyro.infer.SVI(model, lambda x: None, optax.adam(0.02), numpyro.infer.Trace_ELBO())
    learned = svi.run(jax.random.key(0), 1500, x, progress_bar=False).params
    np.testing.assert_allclose(learned["location"], jnp.mean(x, 0), atol=2e-3)
    rmse = jnp.sqrt(jnp.mean(jnp.square(x - learned["location"])))
    np.testing.assert_allclose(jnp.exp(learned["likelihood"]["log_sigma"]), rmse, rtol=1e-3)


def test_numpyro_factor_scores_what_is_not_one_array(numpyro):
    def model(x):
        with numpyro.plate("batch", B):
            log_prob = interop.log_density(cx.masked(cx.gaussian()), {}, {}, jnp.zeros((B, *EVENT)))
            numpyro.factor("x", log_prob(x))

    total, _ = numpyro.infer.util.log_density(model, ((data(), hide_but_two()),), {}, {})
    expected = -cx.gaussian().nll({}, {}, jnp.zeros((2, *EVENT)), data()[:2])[0]
    np.testing.assert_allclose(total, jnp.sum(expected), rtol=1e-5)


def test_numpyro_minibatches_count_for_the_whole_data(numpyro):
    params, state, outputs = decoded(cx.shared_sigma())
    distribution = interop.to_numpyro(cx.shared_sigma(), params, state, outputs)

    def model(x):
        with numpyro.plate("data", 100, subsample_size=B):
            numpyro.sample("x", distribution, obs=x)

    seeded = numpyro.handlers.seed(model, jax.random.key(0))
    total, _ = numpyro.infer.util.log_density(seeded, (data(),), {}, {})
    np.testing.assert_allclose(total, 100 / B * jnp.sum(distribution.log_prob(data())), rtol=1e-5)


# Distrax


def test_distrax_draws_with_log_prob_and_nests(distrax, some):
    distribution = interop.to_distrax(some, *decoded(some))
    x, log_prob = distribution.sample_and_log_prob(seed=jax.random.key(0), sample_shape=(2, 3))
    np.testing.assert_allclose(log_prob, distribution.log_prob(x), rtol=1e-5)
    assert log_prob.shape == (2, 3, B)
    whole = distrax.Independent(distribution, 1)
    assert (whole.batch_shape, whole.event_shape) == ((), (B, *EVENT))
    np.testing.assert_allclose(whole.log_prob(x), jnp.sum(log_prob, -1), rtol=1e-5)
