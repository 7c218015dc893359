"""What holds for every likelihood: shapes, dtypes, finite values and gradients, transformations, one-line errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import calibrax as cx
from calibrax.likelihoods._base import as_unit

B, EVENT = 6, (5, 4, 3)
LIKELIHOODS = {
    "gaussian": cx.gaussian(),
    "gaussian identity": cx.gaussian(0.3, link="identity"),
    "beta-gaussian": cx.beta_gaussian(0.01),
    "shared-sigma": cx.shared_sigma(),
    "optimal-sigma": cx.optimal_sigma(),
    "optimal-sigma identity": cx.optimal_sigma(link="identity"),
    "image": cx.optimal_sigma(axis="image"),
    "pixel": cx.optimal_sigma(axis="pixel"),
    "channel": cx.optimal_sigma(axis="channel"),
    "rows": cx.optimal_sigma(axis=(0, 2, 3)),
    "columns of each image": cx.optimal_sigma(axis=(-3, -1)),
    "one axis": cx.optimal_sigma(axis=0),
    "pixel-sigma": cx.pixel_sigma(),
    "pixel-sigma bounded": cx.pixel_sigma(-4.0, 1.0, link="identity"),
    "bernoulli": cx.bernoulli(),
    "continuous-bernoulli": cx.continuous_bernoulli(),
    "student-t": cx.student_t(),
    "student-t of given df": cx.student_t(5.0, link="identity"),
    "laplace": cx.laplace(),
    "optimal-laplace": cx.optimal_laplace(),
    "optimal-laplace of pixels": cx.optimal_laplace(axis="pixel", link="identity"),
    "categorical": cx.categorical(),
    "categorical of 5 levels": cx.categorical(5),
    "bitwise-categorical": cx.bitwise_categorical(),
    "bitwise-categorical of 2 bits": cx.bitwise_categorical(2),
    "logistic-mixture": cx.logistic_mixture(),
    "logistic-mixture over 7 levels": cx.logistic_mixture(2, levels=7),
    "discretized-gaussian": cx.discretized_gaussian(),
    "discretized-logistic": cx.discretized_logistic(),
    "tempered": cx.tempered(cx.optimal_sigma(), 0.5),
    "framewise of frames": cx.framewise(cx.optimal_sigma(axis="image", link="identity")),
}
OVER_LEVELS = {name for name in LIKELIHOODS if "categorical" in name or "mixture" in name or "discretized" in name}


@pytest.fixture(params=LIKELIHOODS, name="likelihood")
def _likelihood(request):
    return LIKELIHOODS[request.param]


def outputs_for(likelihood, scale=1.0, dtype=jnp.float32, event=EVENT):
    shape = (B, *event[:-1], likelihood.output_channels(event[-1]))
    return (scale * jax.random.normal(jax.random.key(0), shape)).astype(dtype)


def data(event=EVENT):
    return jax.random.randint(jax.random.key(1), (B, *event), 0, 256).astype(jnp.uint8)


def trained_state(likelihood, outputs, x):
    params, state = likelihood.init(x.shape[1:])
    _, stats = likelihood.nll(params, state, outputs, x)
    return params, likelihood.update(state, stats)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("train", [True, False])
def test_nll_is_float32_of_shape_b_and_stats_are_flat_arrays(likelihood, dtype, train):
    params, state = likelihood.init(EVENT)
    nll, stats = likelihood.nll(params, state, outputs_for(likelihood, dtype=dtype), data(), train=train)
    chex.assert_shape(nll, (B,))
    chex.assert_type([nll, *stats.values()], jnp.float32)
    chex.assert_tree_all_finite((nll, stats))


@pytest.mark.parametrize("event", [(7,), (5, 4, 3), (2, 5, 4, 3)])
def test_any_event_rank(event):
    for likelihood in (cx.gaussian(), cx.optimal_sigma(), cx.optimal_sigma(axis="channel"), cx.bernoulli()):
        params, state = trained_state(likelihood, outputs_for(likelihood, event=event), data(event))
        nll, _ = likelihood.nll(params, state, outputs_for(likelihood, event=event), data(event), train=False)
        chex.assert_shape(nll, (B,))


def test_uint8_and_float_data_mean_the_same_to_the_bit(likelihood):
    params, state = likelihood.init(EVENT)
    floats = jnp.asarray(np.asarray(data()).astype(np.float32) / np.float32(255))
    args = (params, state, outputs_for(likelihood))
    chex.assert_trees_all_equal(likelihood.nll(*args, data()), likelihood.nll(*args, floats))
    # Compiled, the conversion may be fused into a sum, which then adds up in another order (JAX 0.10); of a log σ near
    # zero that is more than the last bit.
    compiled = jax.jit(likelihood.nll)
    chex.assert_trees_all_close(compiled(*args, data()), compiled(*args, floats), rtol=3e-7, atol=1e-7)


def test_a_level_is_divided_by_255_as_numpy_does_it_compiled_or_not():
    levels = np.arange(256, dtype=np.uint8)
    for convert in (as_unit, jax.jit(as_unit, static_argnums=1)):
        unit = convert(levels, jnp.float32)
        np.testing.assert_array_equal(unit, levels.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_outputs_cost_no_more_than_their_own_rounding(likelihood, dtype):
    params, state = likelihood.init(EVENT)
    narrow = outputs_for(likelihood, dtype=dtype)
    chex.assert_trees_all_close(
        likelihood.nll(params, state, narrow, data()),
        likelihood.nll(params, state, narrow.astype(jnp.float32), data()), rtol=1e-6, atol=1e-6,
    )  # fmt: skip


def test_float64_stays_float64(likelihood, x64):
    outputs = np.asarray(outputs_for(likelihood), np.float64)
    params, state = likelihood.init(EVENT)
    nll, _ = likelihood.nll(params, state, jnp.asarray(outputs), data())
    assert nll.dtype == jnp.float64
    narrow, _ = likelihood.nll(params, state, jnp.asarray(outputs, jnp.float32), data())
    np.testing.assert_allclose(nll, narrow, rtol=1e-5)
    assert np.any(np.asarray(nll) != np.asarray(narrow, np.float64))


@pytest.mark.parametrize("scale", [0.0, 100.0, 1e4])
@pytest.mark.parametrize("fit", ["random", "perfect"])
@pytest.mark.parametrize("train", [True, False])
def test_values_and_gradients_stay_finite(likelihood, scale, fit, train):
    outputs = outputs_for(likelihood, scale)
    params, state = likelihood.init(EVENT)
    x = data().astype(jnp.float32) / 255
    if fit == "perfect":
        x = likelihood.mean(params, state, outputs)
    params, state = trained_state(likelihood, outputs, x)

    def loss(params, outputs):
        nll, stats = likelihood.nll(params, state, outputs, x, train=train)
        return jnp.sum(nll), stats

    value, grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, outputs)
    chex.assert_tree_all_finite((value, grads))


def test_first_test_time_value_is_finite_before_any_update(likelihood):
    params, state = likelihood.init(EVENT)
    nll, stats = likelihood.nll(params, state, outputs_for(likelihood), data(), train=False)
    chex.assert_tree_all_finite((nll, stats))
    if "mse" in state:
        np.testing.assert_array_equal(stats["log_sigma"], np.zeros_like(stats["log_sigma"]))  # σ = 1, as documented


def test_jit_vmap_and_scan_agree_with_the_plain_call(likelihood):
    outputs, x = outputs_for(likelihood), data()
    params, state = likelihood.init(EVENT)
    plain = likelihood.nll(params, state, outputs, x)
    chex.assert_trees_all_close(jax.jit(likelihood.nll)(params, state, outputs, x), plain, rtol=1e-5)
    stacked = jax.vmap(likelihood.nll, (None, None, 0, 0))(params, state, outputs[None], x[None])
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], stacked), plain, rtol=1e-5)

    def body(state, batch):
        nll, stats = likelihood.nll(params, state, *batch)
        return likelihood.update(state, stats), (nll, stats)

    scanned_state, scanned = lax.scan(body, state, (outputs[None], x[None]))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], scanned), plain, rtol=1e-5)
    chex.assert_trees_all_close(scanned_state, likelihood.update(state, plain[1]), rtol=1e-5)


def test_axis_name_makes_the_batch_the_global_one(likelihood):
    outputs, x = outputs_for(likelihood), data()
    params, state = likelihood.init(EVENT)

    def split(array):
        return array.reshape(2, B // 2, *array.shape[1:])

    def part(outputs, x):
        nll, stats = likelihood.nll(params, state, outputs, x, axis_name="i")
        return nll, likelihood.update(state, stats)

    nll, states = jax.vmap(part, axis_name="i")(split(outputs), split(x))
    whole, stats = likelihood.nll(params, state, outputs, x)
    np.testing.assert_allclose(nll.reshape(B), whole, rtol=1e-5)
    for device in range(2):
        device_state = jax.tree.map(lambda leaf, i=device: leaf[i], states)
        chex.assert_trees_all_close(device_state, likelihood.update(state, stats), rtol=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_samples_have_the_distribution_s_moments(name):
    likelihood = LIKELIHOODS[name]
    outputs = outputs_for(likelihood)[:1]
    num = 5_000 if outputs.shape[-1] < 50 else 2_000
    params, state = trained_state(likelihood, outputs_for(likelihood), data())
    many = jnp.broadcast_to(outputs, (num, *outputs.shape[1:]))
    draws = np.asarray(likelihood.sample(jax.random.key(2), params, state, many), np.float64)
    mean = np.asarray(likelihood.mean(params, state, outputs))[0]
    assert draws.shape == (num, *EVENT)
    stderr = draws.std(0) / np.sqrt(num)
    assert np.max(np.abs(draws.mean(0) - mean) / stderr) < 5
    nll, stats = likelihood.nll(params, state, many, jnp.asarray(draws, jnp.float32), train=False)
    if name in OVER_LEVELS | {"bernoulli", "continuous-bernoulli"}:
        assert draws.min() >= 0
        assert draws.max() <= 1
    elif (
        "log_sigma" in stats and name != "tempered"
    ):  # the mean nll of the draws is the entropy of a Gaussian of their variance
        entropy = np.sum(0.5 * np.log(2 * np.pi * np.e * draws.var(0)))
        assert abs(np.mean(np.asarray(nll, np.float64)) - entropy) < 0.2


@pytest.mark.parametrize("name", [name for name in LIKELIHOODS if LIKELIHOODS[name].discretized_nll is not None])
def test_discretized_probabilities_sum_to_one(name):
    if name in ("rows", "columns of each image") or "framewise" in name:
        pytest.skip("its axes belong to images or videos")
    likelihood = LIKELIHOODS[name]
    levels = jnp.arange(256, dtype=jnp.uint8)[:, None]
    outputs = jnp.broadcast_to(
        jnp.linspace(-1.0, 0.3, likelihood.output_channels(1)), (256, likelihood.output_channels(1))
    )
    params, state = trained_state(likelihood, outputs, levels)
    log_prob = -likelihood.discretized_nll(params, state, outputs, levels)
    np.testing.assert_allclose(jax.nn.logsumexp(log_prob), 0, atol=1e-5)


def test_wrong_shapes_and_dtypes_are_one_line_errors(likelihood):
    params, state = likelihood.init(EVENT)
    outputs = outputs_for(likelihood)
    bad = [data()[:1], data()[..., :1], data().reshape(B, -1), data()[0], data().astype(jnp.int32), data() > 3]
    for x in bad:
        with pytest.raises(ValueError, match=r"^x has (shape|dtype) .*; expected [^\n]*$"):
            likelihood.nll(params, state, outputs, x)
        with pytest.raises(ValueError, match="x has"):
            jax.jit(likelihood.nll)(params, state, outputs, x)
    for shape in [(3, 0), (-1, 2), "abc", 5]:
        with pytest.raises(ValueError, match=r"^event_shape is [^\n]*$"):
            likelihood.init(shape)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cx.gaussian(0.0),
        lambda: cx.gaussian(-1),
        lambda: cx.gaussian(float("nan")),
        lambda: cx.gaussian("1"),
        lambda: cx.beta_gaussian(0),
        lambda: cx.beta_gaussian(float("inf")),
        lambda: cx.optimal_sigma(axis="images"),
        lambda: cx.optimal_sigma(axis=()),
        lambda: cx.optimal_sigma(axis=(0, 0)),
        lambda: cx.optimal_sigma(axis=1.5),
        lambda: cx.optimal_sigma(decay=1.0),
        lambda: cx.optimal_sigma(decay=-0.1),
        lambda: cx.optimal_sigma(link="tanh"),
        lambda: cx.optimal_sigma(min_log_sigma=float("nan")),
        lambda: cx.pixel_sigma(1.0, 0.0),
        lambda: cx.soft_clip(jnp.zeros(2), 1.0, 1.0),
        lambda: cx.shared_sigma(link=None),
        lambda: cx.student_t(0.0),
        lambda: cx.student_t(float("nan")),
        lambda: cx.student_t(min_log_scale=float("inf")),
        lambda: cx.laplace(link="tanh"),
    ],
)
def test_bad_settings_raise_at_construction(make):
    with pytest.raises(ValueError, match=r"^\w+ is [^\n]+; expected [^\n]+$"):
        make()


def test_an_axis_beyond_the_data_s_rank_raises_when_it_meets_the_data():
    likelihood = cx.optimal_sigma(axis=(0, 4))
    with pytest.raises(ValueError, match=r"axis is \(0, 4\); expected axes of a rank-4 batch"):
        likelihood.init(EVENT)


def test_odd_channels_for_two_outputs_a_channel():
    likelihood = cx.pixel_sigma()
    with pytest.raises(ValueError, match="outputs has 3 channels; expected a multiple of 2"):
        likelihood.nll({}, {}, jnp.zeros((2, 4, 3)), jnp.zeros((2, 4, 1)))
