"""SVG's layers against plain float64 NumPy, which `test_svg` uses for whole videos."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from plain_svg import (
    moved,
    normal,
    plain,
    plain_batch_norm,
    plain_conv,
    plain_conv_transpose,
    plain_dcgan_decoder,
    plain_dcgan_encoder,
    plain_lstm_cell,
    plain_vgg_decoder,
    plain_vgg_encoder,
    quick_jit,
)

from calibrax.models.svg.backbone import Decoder, Encoder
from calibrax.models.svg.batch_norm import BatchNorm
from calibrax.models.svg.layers import Conv, Dense
from calibrax.models.svg.lstm import GaussianLSTM, LSTMCell, LSTMState

BACKBONES = {"vgg": (plain_vgg_encoder, plain_vgg_decoder), "dcgan": (plain_dcgan_encoder, plain_dcgan_decoder)}


def drawn(shapes):
    """Parameters of these shapes by NumPy, so that no initialisation needs to be compiled."""
    rng = np.random.default_rng(4)

    def draw(path, leaf):
        return jnp.asarray((path[-1].key == "scale") + 0.02 * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def norm_variables(channels):
    return quick_jit(BatchNorm().init)(jax.random.key(0), jnp.zeros((2, 1, 1, channels)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_encoder_and_decoder_are_the_plain_computation(backbone, x64):
    plain_encoder, plain_decoder = BACKBONES[backbone]
    encoder, decoder = (part(backbone, size, 2, dtype=jnp.float64) for part, size in ((Encoder, 5), (Decoder, 4)))
    x = normal(3, 64, 64, 2)

    def init(key, x):
        encoder_params = encoder.init(key, x)["params"]
        return encoder_params, decoder.init(key, *encoder.apply({"params": encoder_params}, x))["params"]

    @quick_jit
    def run(encoder_params, decoder_params, x):
        code, skips = encoder.apply({"params": encoder_params}, x)
        return code, skips, decoder.apply({"params": decoder_params}, code, skips)

    params = moved(drawn(jax.eval_shape(init, jax.random.key(0), jnp.asarray(x))))
    code, skips, outputs = run(*params, jnp.asarray(x))
    encoder_params, decoder_params = plain(params)
    expected_code, expected_skips = plain_encoder(encoder_params, x)
    assert [skip.shape for skip in skips] == [skip.shape for skip in expected_skips]
    for skip, expected in zip(skips, expected_skips, strict=True):
        np.testing.assert_allclose(skip, expected, atol=1e-10)
    np.testing.assert_allclose(code, expected_code, atol=1e-9)
    assert outputs.shape == (3, 64, 64, 4)
    np.testing.assert_allclose(outputs, plain_decoder(decoder_params, expected_code, expected_skips), atol=1e-8)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "padding", "size"), [(3, 1, 1, 6), (4, 2, 1, 8), (4, 1, 0, 4)])
def test_convolutions(kernel, stride, padding, size, transpose):
    layer, x = Conv(3, kernel, stride, padding, transpose), normal(2, size, size, 2)
    params = moved(drawn(jax.eval_shape(layer.init, jax.random.key(0), jnp.asarray(x, jnp.float32))["params"]))
    y = quick_jit(layer.apply)({"params": params}, jnp.asarray(x, jnp.float32))
    form = plain_conv_transpose if transpose else plain_conv
    np.testing.assert_allclose(y, form(plain(params), x, stride, padding), atol=1e-5)


def test_the_lstm_cell_is_pytorch_s():
    cell, rng = LSTMCell(4), np.random.default_rng(0)
    x, h, c = (rng.normal(size=(3, n)) for n in (5, 4, 4))
    state = LSTMState(jnp.asarray(h, jnp.float32), jnp.asarray(c, jnp.float32))
    params = moved(drawn(jax.eval_shape(cell.init, jax.random.key(0), state, jnp.asarray(x, jnp.float32))["params"]))
    shapes = {"kernel_ih": (5, 16), "kernel_hh": (4, 16), "bias_ih": (16,), "bias_hh": (16,)}
    assert {name: leaf.shape for name, leaf in params.items()} == shapes
    new = quick_jit(cell.apply)({"params": params}, state, jnp.asarray(x, jnp.float32))
    expected_h, expected_c = plain_lstm_cell(plain(params), h, c, x)
    np.testing.assert_allclose(new.h, expected_h, atol=1e-6)
    np.testing.assert_allclose(new.c, expected_c, atol=1e-6)


def test_lstm_cells_begin_uniform_in_an_inverse_root_of_their_size():
    zeros = jnp.zeros((1, 256))
    params = quick_jit(LSTMCell(256).init)(jax.random.key(0), LSTMState(zeros, zeros), zeros)["params"]
    for leaf in jax.tree.leaves(params):
        assert np.abs(leaf).max() <= 1 / 16
        np.testing.assert_allclose(np.std(leaf), 1 / 16 / np.sqrt(3), rtol=0.05)


def test_an_extreme_log_variance_is_bounded_and_a_normal_one_is_not_moved():
    layer, zeros = GaussianLSTM(2, 3), jnp.zeros((1, 3))
    states = (LSTMState(zeros, zeros),)
    shapes, run = jax.eval_shape(layer.init, jax.random.key(0), states, zeros)["params"], quick_jit(layer.apply)
    params = drawn(shapes)
    for bias, expected, atol in ((1e4, 20, 1e-3), (-1e4, -20, 1e-3), (3.2, 3.2, 4e-6), (-6, -6, 4e-6), (-9, -9, 3e-5)):
        params["log_var"] = {"kernel": jnp.zeros((3, 2)), "bias": jnp.full((2,), float(bias))}
        _, (_, log_var) = run({"params": params}, states, zeros)
        np.testing.assert_allclose(log_var, expected, atol=atol)


def test_parameters_are_float32_where_the_computation_is_float64(x64):
    for layer, shape in ((Conv(2, 4), (1, 4, 4, 3)), (Dense(2), (1, 3)), (BatchNorm(), (2, 4, 4, 3))):
        shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros(shape, jnp.float64))
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


def test_initial_weights():
    x = jnp.zeros((1, 4, 4, 64))
    for params in (
        quick_jit(Conv(64, 4).init)(jax.random.key(0), x)["params"],
        quick_jit(Dense(256).init)(jax.random.key(0), jnp.zeros((1, 256)))["params"],
    ):
        np.testing.assert_allclose(np.std(params["kernel"]), 0.02, rtol=0.03)
        np.testing.assert_allclose(np.mean(params["kernel"]), 0, atol=5e-4)
        assert not np.any(params["bias"])
    params = norm_variables(4096)["params"]
    np.testing.assert_allclose(np.std(params["scale"]), 0.02, rtol=0.05)
    np.testing.assert_allclose(np.mean(params["scale"]), 1, atol=2e-3)
    assert not np.any(params["bias"])


@quick_jit
def two_batches(variables, first, second):
    for x in (first, second):
        y, new = BatchNorm().apply(variables, x, mutable=["batch_stats"])
        variables = {**variables, **new}
    return y, new["batch_stats"], BatchNorm().apply(variables, first, running=True)


def test_batch_norm_and_its_running_averages_are_pytorch_s():
    first, second = normal(3, 2, 2, 4), 2 + 3 * normal(3, 2, 2, 4, seed=2)
    x, y = (jnp.asarray(batch, jnp.float32) for batch in (first, second))
    variables = norm_variables(4)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)  # `init` is no update
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)
    variables = {**variables, "params": moved(variables["params"])}
    normalised, averages, by_averages = two_batches(variables, x, y)
    p, (mean, variance) = plain(variables["params"]), (0.0, 1.0)
    np.testing.assert_allclose(normalised, plain_batch_norm(p, second), atol=1e-5)
    for batch in (first, second):
        mean = 0.9 * mean + 0.1 * batch.mean((0, 1, 2))
        variance = 0.9 * variance + 0.1 * batch.reshape(-1, 4).var(0, ddof=1)
    np.testing.assert_allclose(averages["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(averages["var"], variance, rtol=1e-6)
    expected = (first - mean) / np.sqrt(variance + 1e-5) * p["scale"] + p["bias"]
    np.testing.assert_allclose(by_averages, expected, atol=1e-5)


def test_batch_norm_does_without_averages():
    x = jnp.asarray(normal(3, 2, 2, 4), jnp.float32)
    variables, apply = norm_variables(4), quick_jit(BatchNorm().apply)
    expected = apply(variables, x)
    np.testing.assert_array_equal(apply({"params": variables["params"]}, x), expected)
    with pytest.raises(ValueError, match="batch_stats is missing from the variables; expected the running averages"):
        BatchNorm().apply({"params": variables["params"]}, x, running=True)


def test_batch_norm_of_half_precision_computes_in_float32():
    x = 100 + jnp.asarray(normal(64, 4, 4, 2), jnp.float32)
    variables = norm_variables(2)
    y = quick_jit(BatchNorm().apply)(variables, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    expected = plain_batch_norm(plain(variables["params"]), np.asarray(x.astype(jnp.bfloat16), np.float64))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0.01, atol=0.01)


def test_a_single_value_has_no_statistics_of_its_own():
    with pytest.raises(ValueError, match=r"x has shape \(1, 1, 1, 2\); expected several values of a channel"):
        BatchNorm().apply(norm_variables(2), jnp.zeros((1, 1, 1, 2)))


@pytest.mark.parametrize("shape", [(8, 2, 2, 2, 3), (8, 1, 1, 1, 3)])  # parts with statistics of their own, and without
def test_batch_norm_over_a_mapped_axis_is_that_of_the_global_batch(shape):
    x, weights = (jnp.asarray(normal(*shape, seed=seed), jnp.float32) for seed in (1, 3))
    variables = norm_variables(3)

    def loss(params, norm, x, weights):
        y, new = norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.mean(weights * y**2), (y, new)

    def on_a_device(params, *data):
        (_, (y, new)), grads = jax.value_and_grad(loss, has_aux=True)(params, BatchNorm("batch"), *data)
        return y, new, jax.lax.pmean(grads, "batch")

    @quick_jit
    def both(params):
        whole = (value.reshape(-1, *shape[2:]) for value in (x, weights))
        (_, (y, new)), grads = jax.value_and_grad(loss, has_aux=True)(params, BatchNorm(), *whole)
        return (y, new, grads), jax.vmap(on_a_device, (None, 0, 0), axis_name="batch")(params, x, weights)

    (y, *one), (parts, *many) = both(variables["params"])
    np.testing.assert_allclose(parts.reshape(y.shape), y, atol=1e-5)
    for whole, spread in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(spread, np.broadcast_to(whole, spread.shape), rtol=1e-4, atol=1e-5)


def test_flax_s_batch_norm_averages_another_variance():
    """The reason for a batch norm of our own: Flax averages the biased variance."""
    x = jnp.asarray(normal(2, 1, 1, 3), jnp.float32)
    flax_norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
    variables = flax_norm.init(jax.random.key(0), x)
    y, new = flax_norm.apply(variables, x, mutable=["batch_stats"])
    own = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    own_y, own_new = BatchNorm().apply(own, x, mutable=["batch_stats"])
    np.testing.assert_allclose(own_y, y, atol=1e-5)
    np.testing.assert_allclose(own_new["batch_stats"]["mean"], new["batch_stats"]["mean"], rtol=1e-5)
    biased, unbiased = (value["batch_stats"]["var"] - 0.9 for value in (new, own_new))
    np.testing.assert_allclose(unbiased, 2 * biased, rtol=1e-4)
