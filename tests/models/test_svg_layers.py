"""SVG's layers against plain float64 NumPy, which `test_svg` uses for whole videos."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from calibrax.models.svg.batch_norm import BatchNorm
from calibrax.models.svg.dcgan import DCGANDecoder, DCGANEncoder
from calibrax.models.svg.layers import Conv, Dense
from calibrax.models.svg.lstm import GaussianLSTM, LSTMCell, LSTMState
from calibrax.models.svg.vgg import VGGDecoder, VGGEncoder


def plain_conv(p, x, stride=1, padding=0):
    """PyTorch's Conv2d, one tap of the kernel at a time."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    kh, kw = p["kernel"].shape[:2]
    height, width = ((n - k) // stride + 1 for n, k in zip(x.shape[1:3], (kh, kw), strict=True))
    y = np.zeros((len(x), height, width, p["kernel"].shape[3]))
    for a in range(kh):
        for b in range(kw):
            y += x[:, a : a + height * stride : stride, b : b + width * stride : stride] @ p["kernel"][a, b]
    return y + p["bias"]


def plain_conv_transpose(p, x, stride=1, padding=0):
    """PyTorch's ConvTranspose2d, one tap of the kernel at a time."""
    (batch, height, width, _), (kh, kw, _, channels) = x.shape, p["kernel"].shape
    y = np.zeros((batch, (height - 1) * stride + kh, (width - 1) * stride + kw, channels))
    for a in range(kh):
        for b in range(kw):
            rows, columns = (slice(i, i + (n - 1) * stride + 1, stride) for i, n in ((a, height), (b, width)))
            y[:, rows, columns] += x @ p["kernel"][a, b]
    return y[:, padding : y.shape[1] - padding, padding : y.shape[2] - padding] + p["bias"]


def plain_batch_norm(p, x):
    """PyTorch's BatchNorm2d in training mode: the biased variance."""
    mean = x.mean((0, 1, 2))
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean((0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def plain_block(p, x, conv=plain_conv, activation=leaky, **geometry):
    return activation(plain_batch_norm(p["norm"], conv(p["conv"], x, **geometry)))


def plain_dense(p, x):
    return x @ p["kernel"] + p["bias"]


def plain_dcgan_encoder(p, x):
    skips = []
    for layer in range(4):
        x = plain_block(p[f"layer_{layer}"], x, stride=2, padding=1)
        skips.append(x)
    return plain_block(p["code"], x, activation=np.tanh)[:, 0, 0], skips


def plain_dcgan_decoder(p, code, skips):
    x = plain_block(p["code"], code[:, None, None], plain_conv_transpose)
    for layer in range(3):
        x = np.concatenate([x, skips[3 - layer]], -1)
        x = plain_block(p[f"layer_{layer}"], x, plain_conv_transpose, stride=2, padding=1)
    return plain_conv_transpose(p["outputs"], np.concatenate([x, skips[0]], -1), stride=2, padding=1)


def plain_vgg_encoder(p, x):
    h1 = layers(p, layers(p, x, "group_0_0"), "group_0_1")
    h2 = layers(p, halved(h1), "group_1_0", "group_1_1")
    h3 = layers(p, halved(h2), "group_2_0", "group_2_1", "group_2_2")
    h4 = layers(p, halved(h3), "group_3_0", "group_3_1", "group_3_2")
    return plain_block(p["code"], halved(h4), activation=np.tanh)[:, 0, 0], [h1, h2, h3, h4]


def plain_vgg_decoder(p, code, skips):
    d1 = plain_block(p["code"], code[:, None, None], plain_conv_transpose)
    d2 = layers(p, np.concatenate([doubled(d1), skips[3]], -1), "group_0_0", "group_0_1", "group_0_2")
    d3 = layers(p, np.concatenate([doubled(d2), skips[2]], -1), "group_1_0", "group_1_1", "group_1_2")
    d4 = layers(p, np.concatenate([doubled(d3), skips[1]], -1), "group_2_0", "group_2_1")
    d5 = layers(p, np.concatenate([doubled(d4), skips[0]], -1), "group_3_0")
    return plain_conv_transpose(p["outputs"], d5, padding=1)


def layers(p, x, *names):
    for name in names:
        x = plain_block(p[name], x, padding=1)
    return x


def halved(x):
    return np.max([x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], axis=0)


def doubled(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_lstm_cell(p, h, c, x):
    """The formula of PyTorch's LSTMCell."""
    gates = x @ p["kernel_ih"] + p["bias_ih"] + h @ p["kernel_hh"] + p["bias_hh"]
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def plain(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def moved(params, seed=0):
    """Away from the initial values, so that biases and scales show."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return treedef.unflatten([leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


BACKBONES = {
    "vgg": (VGGEncoder, VGGDecoder, plain_vgg_encoder, plain_vgg_decoder),
    "dcgan": (DCGANEncoder, DCGANDecoder, plain_dcgan_encoder, plain_dcgan_decoder),
}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_encoder_and_decoder_are_the_plain_computation(backbone, x64):
    make_encoder, make_decoder, plain_encoder, plain_decoder = BACKBONES[backbone]
    encoder, decoder = make_encoder(5, 2, dtype=jnp.float64), make_decoder(4, 2, dtype=jnp.float64)
    x = normal(3, 64, 64, 2)

    @jax.jit
    def init(key, x):
        encoder_params = encoder.init(key, x)["params"]
        return encoder_params, decoder.init(key, *encoder.apply({"params": encoder_params}, x))["params"]

    @jax.jit
    def run(encoder_params, decoder_params, x):
        code, skips = encoder.apply({"params": encoder_params}, x)
        return code, skips, decoder.apply({"params": decoder_params}, code, skips)

    params = moved(init(jax.random.key(0), jnp.asarray(x)))
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
    params = moved(layer.init(jax.random.key(0), jnp.asarray(x, jnp.float32))["params"])
    y = layer.apply({"params": params}, jnp.asarray(x, jnp.float32))
    form = plain_conv_transpose if transpose else plain_conv
    np.testing.assert_allclose(y, form(plain(params), x, stride, padding), atol=1e-5)


def test_the_lstm_cell_is_pytorch_s():
    cell, rng = LSTMCell(4), np.random.default_rng(0)
    x, h, c = (rng.normal(size=(3, n)) for n in (5, 4, 4))
    state = LSTMState(jnp.asarray(h, jnp.float32), jnp.asarray(c, jnp.float32))
    params = cell.init(jax.random.key(0), state, jnp.asarray(x, jnp.float32))["params"]
    shapes = {"kernel_ih": (5, 16), "kernel_hh": (4, 16), "bias_ih": (16,), "bias_hh": (16,)}
    assert {name: leaf.shape for name, leaf in params.items()} == shapes
    new = cell.apply({"params": params}, state, jnp.asarray(x, jnp.float32))
    expected_h, expected_c = plain_lstm_cell(plain(params), h, c, x)
    np.testing.assert_allclose(new.h, expected_h, atol=1e-6)
    np.testing.assert_allclose(new.c, expected_c, atol=1e-6)


def test_lstm_cells_begin_uniform_in_an_inverse_root_of_their_size():
    zeros = jnp.zeros((1, 256))
    params = LSTMCell(256).init(jax.random.key(0), LSTMState(zeros, zeros), zeros)["params"]
    for leaf in jax.tree.leaves(params):
        assert np.abs(leaf).max() <= 1 / 16
        np.testing.assert_allclose(np.std(leaf), 1 / 16 / np.sqrt(3), rtol=0.05)


def test_an_extreme_log_variance_is_bounded_and_a_normal_one_is_not_moved():
    layer, zeros = GaussianLSTM(2, 3), jnp.zeros((1, 3))
    states = (LSTMState(zeros, zeros),)
    params = layer.init(jax.random.key(0), states, zeros)["params"]
    for bias, expected, atol in ((1e4, 20, 1e-3), (-1e4, -20, 1e-3), (3.2, 3.2, 4e-6), (-6, -6, 4e-6), (-9, -9, 3e-5)):
        params["log_var"] = {"kernel": jnp.zeros((3, 2)), "bias": jnp.full((2,), float(bias))}
        _, (_, log_var) = layer.apply({"params": params}, states, zeros)
        np.testing.assert_allclose(log_var, expected, atol=atol)


def test_initial_weights():
    x = jnp.zeros((1, 4, 4, 64))
    for params in (
        Conv(64, 4).init(jax.random.key(0), x)["params"],
        Conv(64, 4, transpose=True).init(jax.random.key(0), x)["params"],
        Dense(256).init(jax.random.key(0), jnp.zeros((1, 256)))["params"],
    ):
        np.testing.assert_allclose(np.std(params["kernel"]), 0.02, rtol=0.03)
        np.testing.assert_allclose(np.mean(params["kernel"]), 0, atol=5e-4)
        assert not np.any(params["bias"])
    params = BatchNorm().init(jax.random.key(0), jnp.zeros((2, 1, 1, 4096)))["params"]
    np.testing.assert_allclose(np.std(params["scale"]), 0.02, rtol=0.05)
    np.testing.assert_allclose(np.mean(params["scale"]), 1, atol=2e-3)
    assert not np.any(params["bias"])


@jax.jit
def two_batches(variables, first, second):
    for x in (first, second):
        y, new = BatchNorm().apply(variables, x, mutable=["batch_stats"])
        variables = {**variables, **new}
    return y, new["batch_stats"], BatchNorm().apply(variables, first, running=True)


def test_batch_norm_and_its_running_averages_are_pytorch_s():
    first, second = normal(3, 2, 2, 4), 2 + 3 * normal(3, 2, 2, 4, seed=2)
    x, y = (jnp.asarray(batch, jnp.float32) for batch in (first, second))
    variables = BatchNorm().init(jax.random.key(0), x)
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
    variables = BatchNorm().init(jax.random.key(0), x)
    expected = BatchNorm().apply(variables, x)
    np.testing.assert_array_equal(BatchNorm().apply({"params": variables["params"]}, x), expected)
    with pytest.raises(ValueError, match="batch_stats is missing from the variables; expected the running averages"):
        BatchNorm().apply({"params": variables["params"]}, x, running=True)


def test_batch_norm_of_half_precision_computes_in_float32():
    x = 100 + jnp.asarray(normal(64, 4, 4, 2), jnp.float32)
    variables = BatchNorm().init(jax.random.key(0), x)
    y = BatchNorm().apply(variables, x.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    expected = plain_batch_norm(plain(variables["params"]), np.asarray(x.astype(jnp.bfloat16), np.float64))
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("kind", ["one value", "a part of several"])
def test_a_single_value_has_no_statistics_of_its_own(kind):
    x = jnp.asarray(normal(8, 1, 1, 2), jnp.float32)
    variables = BatchNorm("batch").init(jax.random.key(0), x[:1])
    if kind == "one value":
        with pytest.raises(ValueError, match=r"x has shape \(1, 1, 1, 2\); expected several values of a channel"):
            BatchNorm().apply(variables, x[:1])
        return
    y = jax.vmap(lambda part: BatchNorm("batch").apply(variables, part), axis_name="batch")(x[:, None])
    np.testing.assert_allclose(y[:, 0], BatchNorm().apply(variables, x), atol=1e-6)


def test_batch_norm_over_eight_devices_is_that_of_the_global_batch():
    x = jnp.asarray(normal(16, 2, 2, 3), jnp.float32)
    weights = jnp.asarray(normal(16, 2, 2, 3, seed=3), jnp.float32)
    variables = BatchNorm().init(jax.random.key(0), x)

    def loss(params, norm, x, weights):
        y, new = norm.apply({**variables, "params": params}, x, mutable=["batch_stats"])
        return jnp.mean(weights * y**2), (y, new)

    def on_a_device(params, *data):
        (_, (y, new)), grads = jax.value_and_grad(loss, has_aux=True)(params, BatchNorm("batch"), *data)
        return y, new, jax.lax.pmean(grads, "batch")

    (_, (y, new)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)(
        variables["params"], BatchNorm(), x, weights
    )
    assert jax.device_count() == 8
    spread = [value.reshape(8, 2, *value.shape[1:]) for value in (x, weights)]
    many = jax.pmap(on_a_device, "batch", in_axes=(None, 0, 0))(variables["params"], *spread)
    np.testing.assert_allclose(many[0].reshape(y.shape), y, atol=1e-6)
    for one, spread_value in zip(jax.tree.leaves((new, grads)), jax.tree.leaves(many[1:]), strict=True):
        np.testing.assert_allclose(spread_value, np.broadcast_to(one, spread_value.shape), rtol=1e-5, atol=1e-6)


def test_flax_s_batch_norm_averages_another_variance():
    """Why there is one of our own: Flax averages the biased variance."""
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
