"""What data and masks may look like: their dtypes, ranges and shapes, for users who come from elsewhere."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibrax as cx
from calibrax import interop

RNG = np.random.default_rng(0)
SOFTPLUS_4 = math.log1p(math.exp(-4))  # of a sure and right logit of 4: 0.0181


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int32, np.int64, np.int8])
def test_flags_of_bernoulli_are_zero_and_one(dtype):
    flags = np.array([[1], [0], [1], [0]]).astype(dtype)
    logits = jnp.array([[4.0], [-4.0], [4.0], [-4.0]])
    for x in (flags, jnp.asarray(flags)):
        np.testing.assert_allclose(cx.bernoulli().nll({}, {}, logits, x)[0], 4 * [SOFTPLUS_4], rtol=1e-5)


def test_bool_is_zero_and_one_of_every_density():
    x = np.array([[True, False], [False, False]])
    for likelihood in (cx.gaussian(), cx.optimal_sigma(), cx.laplace(), cx.continuous_bernoulli(), cx.categorical()):
        params, state = likelihood.init((2,))
        outputs = jnp.zeros((2, likelihood.output_channels(2)))
        expected = likelihood.nll(params, state, outputs, x.astype(np.float32))[0]
        np.testing.assert_array_equal(likelihood.nll(params, state, outputs, x)[0], expected)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint16])
def test_labels_of_categorical_are_levels(dtype):
    label = np.array([[3], [0]]).astype(dtype)
    logits = jnp.zeros((2, 10)).at[0, 3].set(50.0).at[1, 0].set(50.0)
    np.testing.assert_allclose(cx.categorical(10).nll({}, {}, logits, label)[0], [0, 0], atol=1e-6)
    np.testing.assert_allclose(jax.jit(cx.categorical(10).nll)({}, {}, logits, label)[0], [0, 0], atol=1e-6)
    one_number = cx.categorical(10).nll({}, {}, logits, label[:, 0])[0]
    np.testing.assert_allclose(one_number, [0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "x", "message"),
    [
        (
            cx.categorical(),
            np.full((2, 3), 200.0),
            r"x has values from 200 to 200; expected floats in \[0, 1\]",
        ),
        (cx.bitwise_categorical(), np.full((2, 3), -1.0), r"x has values from -1 to -1; expected floats in \[0, 1\]"),
        (cx.discretized_logistic(), np.full((2, 3), 200.0), r"x has values from 200 to 200; expected floats"),
        (cx.logistic_mixture(), np.full((2, 3), 200.0), r"x has values from 200 to 200; expected floats"),
        (cx.bernoulli(), np.full((2, 3), 255.0), r"x has values from 255 to 255; expected floats in \[0, 1\]"),
        (cx.continuous_bernoulli(), np.full((2, 3), 255.0), r"x has values from 255 to 255; expected floats"),
        (
            cx.bernoulli(),
            np.full((2, 3), 2),
            r"x has values from 2 to 2; expected 0 and 1, floats in \[0, 1\]",
        ),
        (cx.categorical(10), np.full((2, 3), 10), r"x has values from 10 to 10; expected levels 0 to 9, or floats"),
        (cx.categorical(10), np.full((2, 3), -1), r"x has values from -1 to -1; expected levels 0 to 9, or floats"),
        (cx.gaussian(), np.full((2, 3), 7), r"x has dtype int(32|64); expected uint8 .*x.astype"),
        (cx.optimal_sigma(), np.full((2, 3), 7, np.int16), r"x has dtype int16; expected uint8"),
    ],
)
def test_data_of_another_scale_is_one_clear_line(likelihood, x, message):
    outputs = jnp.zeros((2, likelihood.output_channels(3)))
    for given in (x, jnp.asarray(x)):
        with pytest.raises(ValueError, match=f"^{message}") as caught:
            likelihood.nll(*likelihood.init((3,)), outputs, given)
        assert "\n" not in str(caught.value)


def test_a_little_overshoot_counts_as_the_nearest_level():
    logits = jnp.asarray(RNG.normal(size=(2, 1 * 256)), jnp.float32)
    nll, _ = cx.categorical().nll({}, {}, logits, jnp.array([[-0.03], [1.04]]))
    expected, _ = cx.categorical().nll({}, {}, logits, jnp.array([[0], [255]], jnp.uint8))
    np.testing.assert_array_equal(nll, expected)


# Masks


X = jnp.full((4, 5, 8, 8, 3), 0.3)
SEEN = RNG.random((4, 5)) > 0.4
SHAPES = [(4, 5, 1, 1, 1), (4, 5), (1, 5, 1, 1, 1), (5, 1, 1, 1), (8, 1), (4, 5, 8, 8, 1), ()]  # of masks
FAMILIES = [
    cx.gaussian(0.5, link="identity"), cx.optimal_sigma(link="identity"), cx.optimal_sigma("channel", link="identity"),
    cx.laplace(link="identity"), cx.student_t(4.0, link="identity"), cx.bernoulli(), cx.bitwise_categorical(2),
    cx.logistic_mixture(2), cx.discretized_gaussian(),
]  # fmt: skip


@pytest.mark.parametrize("likelihood", FAMILIES, ids=repr)
def test_a_mask_that_broadcasts_is_the_full_mask(likelihood):
    """`check_steps_of_sequences` of the contract does the same for [B, T], for all decoders."""
    for shape in SHAPES if likelihood == FAMILIES[0] else SHAPES[:2]:
        check_mask(likelihood, shape)


def check_mask(likelihood, shape):
    mask = jnp.asarray(SEEN).reshape(shape) if math.prod(shape) == 20 else jnp.asarray(RNG.random(shape) > 0.4)
    leading = mask.reshape(4, 5, 1, 1, 1) if shape == (4, 5) else mask
    outputs = jnp.zeros((*X.shape[:-1], likelihood.output_channels(3)))
    params, state = likelihood.init(X.shape[1:])
    nll, stats = cx.masked(likelihood).nll(params, state, outputs, (X, mask))
    full = jnp.broadcast_to(leading, X.shape)
    expected, expected_stats = cx.masked(likelihood).nll(params, state, outputs, (X, full))
    np.testing.assert_allclose(nll, expected, rtol=1e-6)
    for name in expected_stats:
        np.testing.assert_allclose(stats[name], expected_stats[name], rtol=1e-6)


def test_a_padding_mask_has_the_right_value():
    """σ = 0.5 and x = 0.3 against 0: 0.3² / (2·0.25) + log 0.5 + log(2π) / 2 for each observed value."""
    each = 0.09 / 0.5 + math.log(0.5) + 0.5 * math.log(2 * math.pi)
    likelihood, outputs = cx.gaussian(0.5, link="identity"), jnp.zeros(X.shape)
    frames = cx.framewise(likelihood)
    for decoder in (likelihood, frames):
        for mask in (SEEN, SEEN.reshape(4, 5, 1, 1, 1), np.broadcast_to(SEEN.reshape(4, 5, 1, 1, 1), X.shape)):
            nll, _ = cx.masked(decoder).nll({}, {}, outputs, (X, mask))
            np.testing.assert_allclose(nll, SEEN.sum(1) * 192 * each, rtol=2e-5)
    per_step, _ = cx.batched(cx.masked(likelihood)).nll({}, {}, outputs, (X, SEEN))
    np.testing.assert_allclose(per_step, SEEN * 192 * each, rtol=2e-5)


def test_one_mask_of_steps_hides_them_in_all_modalities():
    """Also where modalities nest, in either order of `batched` and `masked`, and together with an outer mask."""
    parts = {"image": cx.optimal_sigma(), "rest": cx.joint({"reward": cx.optimal_sigma(link="identity")})}
    x = {"image": X, "rest": {"reward": X[:, :, 0, 0, 0]}}
    outputs = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), x)
    each = {"image": SEEN, "rest": {"reward": SEEN}}
    for likelihood in (cx.batched(cx.masked(cx.joint(parts))), cx.masked(cx.batched(cx.joint(parts)))):
        _, state = likelihood.init({"image": X.shape[2:], "rest": {"reward": ()}})
        expected, expected_stats = likelihood.nll({}, state, outputs, (x, each))
        nll, stats = likelihood.nll({}, state, outputs, (x, SEEN))
        np.testing.assert_array_equal(nll, expected)
        assert not nll[~SEEN].any()
        for name in expected_stats:
            np.testing.assert_array_equal(stats[name], expected_stats[name])
    twice, _ = cx.masked(likelihood).nll({}, state, outputs, ((x, np.ones_like(SEEN)), SEEN))
    np.testing.assert_array_equal(twice, expected)
    per_example = cx.masked(cx.joint({"a": cx.gaussian()}))
    nll, _ = per_example.nll({}, {}, {"a": jnp.zeros(X.shape)}, ({"a": X}, SEEN))
    expected, _ = cx.masked(cx.gaussian()).nll({}, {}, jnp.zeros(X.shape), (X, SEEN))
    np.testing.assert_array_equal(nll, expected)


def test_the_masks_of_two_layers_both_hide():
    outer = jnp.asarray(RNG.random((1, 5, 1, 1, 3)) > 0.3)
    nested = cx.masked(cx.masked(cx.gaussian()))
    nll, _ = nested.nll({}, {}, jnp.zeros(X.shape), ((X, SEEN), outer))
    both = jnp.asarray(SEEN).reshape(4, 5, 1, 1, 1) & outer
    np.testing.assert_allclose(nll, cx.masked(cx.gaussian()).nll({}, {}, jnp.zeros(X.shape), (X, both))[0], rtol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (4, 5, 8), (4, 5, 8, 8, 3, 1), (2, 5, 1, 1, 1)])
def test_another_shape_is_quoted_as_the_caller_made_it(shape):
    for likelihood in (cx.masked(cx.gaussian()), cx.masked(cx.framewise(cx.gaussian()))):
        expected = f"mask has shape {shape}; expected one that broadcasts to {X.shape}, that of x, or (4, 5)"
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            likelihood.nll({}, {}, jnp.zeros(X.shape), (X, np.ones(shape, bool)))


@pytest.mark.parametrize("likelihood", FAMILIES, ids=repr)
def test_hidden_nan_passes_where_jax_looks_for_nan(likelihood):
    x = np.where(SEEN[:, :, None], np.float64(0.3), np.nan) * np.ones((4, 5, 3))
    outputs = jnp.zeros((4, 5, likelihood.output_channels(3)))
    params, state = likelihood.init((5, 3))
    expected, _ = cx.masked(likelihood).nll(params, state, outputs, (np.nan_to_num(x, nan=0.3), SEEN))
    with jax.debug_nans(True):
        nll, _ = cx.masked(likelihood).nll(params, state, outputs, (x, SEEN))
    np.testing.assert_allclose(nll, expected, rtol=1e-6)


def test_hidden_nan_of_videos_and_several_modalities_passes_too():
    x = np.where(SEEN[:, :, None], np.float64(0.3), np.nan) * np.ones((4, 5, 3))
    outputs = jnp.zeros((4, 5, 3))
    expected, _ = cx.masked(cx.gaussian()).nll({}, {}, outputs, (np.full(x.shape, 0.3), SEEN))
    with jax.debug_nans(True):
        video, _ = cx.masked(cx.framewise(cx.gaussian())).nll({}, {}, outputs, (x, SEEN))
        inner, _ = cx.framewise(cx.masked(cx.gaussian())).nll({}, {}, outputs, (x, SEEN))
        both, _ = cx.joint({"a": cx.masked(cx.gaussian())}).nll({}, {}, {"a": outputs}, {"a": (x, SEEN)})
    for nll in (video, inner, both):
        np.testing.assert_allclose(nll, expected, rtol=1e-6)


# Sequences as distributions


@pytest.mark.parametrize("convert", [interop.to_numpyro, interop.to_distrax])
def test_batched_sequences_have_a_log_prob_per_step(convert):
    pytest.importorskip(convert.__name__.removeprefix("to_"))
    likelihood = cx.batched(cx.gaussian(link="identity"))
    outputs, x = (jnp.asarray(RNG.normal(size=(4, 5, 3)), jnp.float32) for _ in range(2))
    distribution = convert(likelihood, {}, {}, outputs, event_shape=(3,))
    assert (distribution.batch_shape, distribution.event_shape) == ((4, 5), (3,))
    expected = -0.5 * np.sum(np.square(np.float64(x) - outputs), -1) - 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(distribution.log_prob(x), expected, rtol=1e-5)
    stacked = jax.vmap(lambda outputs: convert(likelihood, {}, {}, outputs))(jnp.stack([outputs, outputs + 1]))
    assert stacked.batch_shape == (2, 4, 5)
    np.testing.assert_allclose(stacked.log_prob(x)[0], expected, rtol=1e-5)
    rewards = convert(likelihood, {}, {}, outputs[..., 0])
    assert (rewards.batch_shape, rewards.event_shape) == ((4, 5), ())
    assert rewards.log_prob(x[..., 0]).shape == (4, 5)
    with pytest.raises(ValueError, match=r"a sample has shape \(4, 5, 3\); expected 1 batch axes and an event of"):
        convert(cx.gaussian(), {}, {}, outputs, event_shape=(3,))
    with pytest.raises(ValueError, match=r"outputs has shape \(4,\); expected"):
        convert(likelihood, {}, {}, outputs[:, 0, 0])


def test_the_scale_of_a_batch_of_sequences_is_shared_and_calibrated_over_all_steps():
    likelihood = cx.batched(cx.optimal_sigma("channel", link="identity"))
    outputs, x = (jnp.asarray(RNG.normal(size=(4, 5, 3)), jnp.float32) for _ in range(2))
    params, state = likelihood.init((3,))
    nll, stats = likelihood.nll(params, state, outputs, x)
    mse = np.mean(np.square(np.float64(x) - outputs), (0, 1))
    np.testing.assert_allclose(stats["mse"], mse, rtol=1e-5)
    expected = np.sum(np.square(np.float64(x) - outputs) / (2 * mse) + 0.5 * np.log(2 * np.pi * mse), -1)
    np.testing.assert_allclose(nll, expected, rtol=1e-5)
    state = cx.calibrate(likelihood, params, [(outputs[:1], x[:1]), (outputs[1:], x[1:])])
    np.testing.assert_allclose(cx.running_average.value(state["mse"], initial=np.nan), mse, rtol=1e-5)
    np.testing.assert_allclose(likelihood.nll(params, state, outputs, x, train=False)[0], expected, rtol=1e-5)


def test_parts_of_a_joint_have_the_same_batch_axes():
    parts = {"a": cx.batched(cx.gaussian()), "b": cx.gaussian()}
    with pytest.raises(ValueError, match=r"likelihoods have numbers of batch axes {'a': 2, 'b': 1}; expected the same"):
        cx.joint(parts)
    both = cx.joint({"a": cx.batched(cx.gaussian()), "b": cx.batched(cx.bernoulli())})
    zeros = {"a": jnp.zeros((2, 4, 3)), "b": jnp.zeros((2, 4))}
    assert both.nll({}, {}, zeros, zeros)[0].shape == (2, 4)
    assert cx.batched(cx.joint({"a": cx.gaussian(), "b": cx.bernoulli()})).nll({}, {}, zeros, zeros)[0].shape == (2, 4)
