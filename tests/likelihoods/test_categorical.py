"""Soft-max, bitwise and logistic-mixture decoders against float64: values, gradients, sums, samples, layouts."""

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from decoders import DECODERS
from exact import assert_close, single
from scipy.special import log_expit, log_softmax, logsumexp, softmax
from test_discretized import LOGISTIC, assert_frequencies, one_reference

import calibrax as cx
from calibrax.likelihoods import (
    bitwise_categorical_nll,
    categorical_nll,
    discretized_logistic_nll,
    logistic_mixture_nll,
)

RNG = np.random.default_rng(0)


def levels_of(num, channels=1):
    """Each level once, as floats [num, channels]."""
    return jnp.broadcast_to((jnp.arange(num, dtype=jnp.float32) / (num - 1))[:, None], (num, channels))


def value_and_gradient(formula, x, logits):
    def total(logits):
        nll, _ = formula(x, logits)
        return jnp.sum(nll), nll

    (_, nll), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(logits)
    return np.float64(nll), np.float64(grad)


def categorical_reference(level, logits):
    """log sum_j exp(l_j - l_level) and its gradient in float64, as a sum over the other levels: nothing cancels."""
    logits = np.float64(logits)
    here = np.eye(logits.shape[-1], dtype=bool)[level]
    relative = logits - np.take_along_axis(logits, level[..., None], -1)
    value = np.logaddexp(0, logsumexp(np.where(here, -np.inf, relative), -1))
    return value, np.where(here, np.expm1(-value)[..., None], softmax(logits, -1))


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("num_levels", [2, 7, 256])
def test_categorical_equals_float64(num_levels, scale):
    logits = single(scale * RNG.normal(size=(40, 3, num_levels)))
    level = RNG.integers(0, num_levels, (40, 3))
    value, grad = value_and_gradient(categorical_nll, single(level / (num_levels - 1)), logits)
    by_value, slope = categorical_reference(level, logits)
    assert_close(value, by_value.sum(-1), rtol=1e-5, atol=1e-30)
    # A probability e^-d is known to float32's precision of d, the difference of two logits.
    assert_close(grad, slope, rtol=1e-5 + scale * 2.0**-20, atol=1e-30)


def test_categorical_keeps_the_digits_of_a_good_fit():
    margin = np.array([5.0, 12.0, 20.0, 60.0, 1e4])
    logits = single(np.stack([margin + 100, np.full(5, 100.0), np.full(5, 99.0)], -1))[:, None]
    value, grad = value_and_gradient(categorical_nll, jnp.zeros((5, 1)), logits)
    exact = np.log1p(np.exp(-margin) + np.exp(-margin - 1))
    assert_close(value, exact, rtol=1e-5, atol=1e-38)
    assert_close(grad[:, 0, 0], np.expm1(-exact), rtol=1e-5, atol=1e-38)


@pytest.mark.parametrize("bits", [1, 3, 8, 12])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_bitwise_equals_float64(bits, scale):
    logits = single(scale * RNG.normal(size=(40, 3, bits)))
    level = RNG.integers(0, 2**bits, (40, 3))
    value, grad = value_and_gradient(bitwise_categorical_nll, single(level / max(2**bits - 1, 1)), logits)
    bit = (level[..., None] >> np.arange(bits - 1, -1, -1)) & 1  # most significant first
    sign = 2 * bit - 1
    assert_close(value, -log_expit(sign * np.float64(logits)).sum((-1, -2)), rtol=1e-5, atol=1e-37)
    assert_close(grad, -sign * np.exp(log_expit(-sign * np.float64(logits))), rtol=1e-5, atol=1e-37)


def mixture_parameters(num, channels=3, components=4, spread=1.0):
    weights = single(RNG.normal(size=(num, components)))
    means = single(RNG.uniform(-0.2, 1.2, (num, channels, components)))
    log_scales = single(RNG.uniform(-5, 0, (num, channels, components)) * spread)
    return weights, means, log_scales


def mixture_reference(level, weights, means, log_scales):
    """-log p and its gradients, by the exact bins of each component."""
    value, grads = np.zeros(len(level)), [np.zeros(np.shape(a)) for a in (weights, means, log_scales)]
    with mpmath.workdps(50):
        for b in range(len(level)):
            bins = np.array(
                [
                    [
                        [
                            float(r)
                            for r in one_reference(*LOGISTIC[1:], level[b, c], *map(mpmath.mpf, map(float, args)))
                        ]
                        for args in zip(means[b, c], log_scales[b, c], strict=True)
                    ]
                    for c in range(level.shape[1])
                ]
            )  # [C, K, 3]: nll, by mean, by log scale
            log_weight = log_softmax(np.float64(weights[b]))
            by_component = log_weight - bins[..., 0].sum(0)
            value[b] = -logsumexp(by_component)
            responsibility = softmax(by_component)
            grads[0][b] = np.exp(log_weight) - responsibility
            grads[1][b], grads[2][b] = responsibility * bins[..., 1], responsibility * bins[..., 2]
    return value, grads


@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_logistic_mixture_equals_float64(spread):
    parameters = mixture_parameters(60, spread=spread)
    level = RNG.choice([0, 1, 90, 254, 255], (60, 3))

    def total(*parameters):
        nll, _ = logistic_mixture_nll(jnp.asarray(level, jnp.uint8), *parameters)
        return jnp.sum(nll), nll

    (_, nll), grads = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(*parameters)
    value, exact_grads = mixture_reference(level, *parameters)
    # At a scale of e^-20 a mean's unit in the last place is worth 2^-24·e^20 = 29 nats.
    loose = 1e-5 if spread == 1 else 2e-2
    assert_close(np.float64(nll), value, rtol=loose)
    for grad, exact in zip(grads, exact_grads, strict=True):
        assert np.isfinite(grad).all()
        if spread == 1:
            assert_close(np.float64(grad), exact, rtol=1e-4, atol=2e-5 * np.abs(exact).max())


def test_one_component_is_the_discretised_logistic():
    x = jnp.asarray(RNG.integers(0, 256, (9, 4, 3)), jnp.uint8)
    mean, log_scale = single(RNG.uniform(0, 1, x.shape)), single(RNG.uniform(-5, 0, x.shape))
    mixture, _ = jax.jit(logistic_mixture_nll)(x, jnp.zeros((9, 4, 1)), mean[..., None], log_scale[..., None])
    np.testing.assert_allclose(mixture, jax.jit(discretized_logistic_nll)(x, mean, log_scale)[0], rtol=1e-5)


def test_the_channels_of_a_pixel_share_its_component():
    # Two components that agree on no channel: (dark, dark) and (light, light) are likely, mixtures of them are not.
    means = jnp.broadcast_to(jnp.asarray([[0.1, 0.9]]), (2, 2, 2))
    x = jnp.asarray([[0.1, 0.1], [0.1, 0.9]])
    nll, _ = jax.jit(logistic_mixture_nll)(x, jnp.zeros((2, 2)), means, jnp.full((2, 2, 2), -5.0))
    assert nll[1] - nll[0] > 50


SOME = [name for name, decoder in DECODERS.items() if decoder.levels and not name.startswith("discretized")]


def probabilities(decoder, seed, scale):
    """The probability of each level for outputs drawn at random, and those outputs [1, ...]."""
    likelihood, num = decoder.likelihood, decoder.levels
    outputs = single(scale * np.random.default_rng(seed).normal(size=(1, likelihood.output_channels(1))))
    many = jnp.broadcast_to(outputs, (num, outputs.shape[1]))
    nll, _ = jax.jit(likelihood.nll)({}, {}, many, levels_of(num))
    return np.exp(-np.float64(nll)), outputs


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_mean_and_samples_are_those_of_the_probabilities(name, scale):
    likelihood, num = DECODERS[name].likelihood, DECODERS[name].levels
    prob, outputs = probabilities(DECODERS[name], 3, scale)
    np.testing.assert_allclose(prob.sum(), 1, atol=1e-5)
    expected = np.sum(prob * np.arange(num) / (num - 1))
    np.testing.assert_allclose(jax.jit(likelihood.mean)({}, {}, outputs)[0, 0], expected, atol=3e-6)
    assert_frequencies(likelihood, {}, jnp.broadcast_to(outputs, (20_000, outputs.shape[1])), prob)


def test_layouts_are_channel_by_channel():
    x = jnp.asarray(RNG.integers(0, 256, (4, 5, 3)), jnp.uint8)
    logits = single(RNG.normal(size=(4, 5, 3, 256)))
    chex.assert_trees_all_close(
        cx.categorical().nll({}, {}, logits.reshape(4, 5, -1), x)[0], categorical_nll(x, logits)[0], rtol=1e-6
    )
    bits = single(RNG.normal(size=(4, 5, 3, 8)))
    chex.assert_trees_all_close(
        cx.bitwise_categorical().nll({}, {}, bits.reshape(4, 5, -1), x)[0],
        bitwise_categorical_nll(x, bits)[0], rtol=1e-6,
    )  # fmt: skip
    weights, means, log_scales = (single(RNG.normal(size=shape)) for shape in ((4, 5, 2), (4, 5, 3, 2), (4, 5, 3, 2)))
    outputs = jnp.concatenate([weights, means.reshape(4, 5, -1), log_scales.reshape(4, 5, -1)], -1)
    expected, _ = jax.jit(logistic_mixture_nll)(x, weights, (1 + means) / 2, log_scales - np.float32(np.log(2)))
    nll, _ = jax.jit(cx.logistic_mixture(2).nll)({}, {}, outputs, x)
    np.testing.assert_allclose(nll, expected, rtol=2e-3)  # the soft clip at -7 moves a log scale of -2 by 0.007


@pytest.mark.parametrize("num_levels", [2, 32, 256, 1000])
def test_integers_are_labels_and_floats_their_share_of_the_range(num_levels):
    x = np.arange(num_levels)[:, None]
    logits = single(RNG.normal(size=(num_levels, 1, num_levels)))
    of_floats = jax.jit(categorical_nll)(single(x / (num_levels - 1)), logits)[0]
    for dtype in (np.int32, np.int64, *([np.uint8] if num_levels <= 256 else [])):
        np.testing.assert_array_equal(jax.jit(categorical_nll)(x.astype(dtype), logits)[0], of_floats)


def test_levels_out_of_range_count_as_the_nearest_end():
    x = single([[-0.3], [1.7]])
    logits = single(RNG.normal(size=(2, 1, 4)))
    np.testing.assert_array_equal(categorical_nll(x, logits)[0], categorical_nll(jnp.clip(x, 0, 1), logits)[0])


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="XLA then takes 4% of the logits' size, not 3%")
def test_temporaries_are_small():
    logits = jax.ShapeDtypeStruct((16, 32, 32, 3, 256), jnp.float32)
    x = jax.ShapeDtypeStruct(logits.shape[:-1], jnp.uint8)
    step = jax.jit(jax.value_and_grad(lambda logits, x: jnp.sum(categorical_nll(x, logits)[0])))
    temporaries = step.lower(logits, x).compile().memory_analysis().temp_size_in_bytes
    assert temporaries <= 0.03 * 4 * np.prod(logits.shape)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: categorical_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3, 1))), "the number of logits is 1; expected"),
        (lambda: categorical_nll(jnp.zeros((2, 3)), jnp.zeros((2, 4, 5))), r"x has shape \(2, 3\); expected \(2, 4\)"),
        (lambda: logistic_mixture_nll(jnp.zeros((2, 3)), jnp.zeros((2, 5)), jnp.zeros((2, 3, 4)), jnp.zeros((2, 3, 4))),
         r"mixture_logits has shape \(2, 5\); expected \(2, 4\)"),
        (lambda: cx.categorical(1), "levels is 1; expected an integer from 2"),
        (lambda: cx.categorical(256.0), "levels is 256.0; expected an integer"),
        (lambda: cx.bitwise_categorical(0), "bits is 0; expected an integer from 1 to 24"),
        (lambda: cx.logistic_mixture(0), "components is 0; expected an integer from 1"),
        (lambda: cx.logistic_mixture(min_log_scale=float("nan")), "min_log_scale is nan; expected"),
        (lambda: cx.discretized_logistic(True), "levels is True; expected an integer"),
        (lambda: cx.logistic_mixture(2).nll({}, {}, jnp.zeros((2, 4)), jnp.zeros((2, 1))),
         "outputs has 4 channels; expected 2 and a multiple of 4"),
        (lambda: cx.categorical().nll({}, {}, jnp.zeros((2, 300)), jnp.zeros((2, 1))),
         "outputs has 300 channels; expected a multiple of 256"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)
