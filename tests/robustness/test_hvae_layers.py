"""Layers, blocks, stages and the whole hierarchical VAE against a plain NumPy computation in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from calibrax.models.hvae import HVAE, StageSpec
from calibrax.models.hvae.block import GatedBlock
from calibrax.models.hvae.latent import Gaussian, GaussianHead, Latent, sampled_kl
from calibrax.models.hvae.noise import POSTERIOR, dropout_masks, layer_noise
from calibrax.models.hvae.weight_norm import WeightNormConv, WeightNormDense

# Half the time: what is compiled here runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def weight(params):
    v = np.asarray(params["v"], np.float64)
    return np.asarray(params["g"]) * v / np.sqrt((v**2).sum(tuple(range(v.ndim - 1))))


def windows(x, size, stride):
    pads = [(0, 0), *((p // 2, p - p // 2) for p in (padding(n, size, stride) for n in x.shape[1:3])), (0, 0)]
    return sliding_window_view(np.pad(x, pads), (size, size), (1, 2))[:, ::stride, ::stride]


def padding(n, size, stride):
    return max((-(-n // stride) - 1) * stride + size - n, 0)


def conv(x, params, stride=1):
    kernel = weight(params)
    return np.einsum("bijcuv,uvco->bijo", windows(x, len(kernel), stride), kernel) + params["b"]


def conv_transpose(x, params, stride):
    kernel = weight(params)
    size, (batch, height, width, _) = len(kernel), x.shape
    whole = np.zeros((batch, (height - 1) * stride + size, (width - 1) * stride + size, kernel.shape[3]))
    for i in range(height):
        for j in range(width):
            part = np.einsum("bc,uvco->buvo", x[:, i, j], kernel)
            whole[:, i * stride : i * stride + size, j * stride : j * stride + size] += part
    first = (size - stride) // 2
    return whole[:, first : first + height * stride, first : first + width * stride] + params["b"]


def dense(x, params):
    return x.reshape(len(x), -1) @ weight(params) + params["b"]


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def gated_block(x, params, *, stride=1, transpose=False, residual=True, aux=None):
    y = conv(elu(x) if residual else x, params["conv_1"])
    if aux is not None:
        if aux.shape[1] < x.shape[1]:
            y += conv_transpose(elu(aux), params["conv_aux"], x.shape[1] // aux.shape[1])
        else:
            y += conv(elu(aux), params["conv_aux"], aux.shape[1] // x.shape[1])
    enlarges = transpose and stride > 1
    y = conv_transpose(elu(y), params["conv_2"], stride) if enlarges else conv(elu(y), params["conv_2"], stride)
    features = y.shape[-1] // 2
    y = y[..., :features] / (1 + np.exp(-y[..., features:]))
    if residual and not enlarges and x.shape[-1] >= features:
        y = y + (x if stride == 1 else windows(x, 3, stride).mean((-1, -2)))[..., :features]
    return y


def numpy_hvae(model, params, x, noise):
    """Outputs and KL per layer, for conv and dense latents, given each layer's standard normal noise."""
    top, layers = len(model.stages) - 1, [params[f"stage_{layer}"] for layer in range(len(model.stages))]
    last = model.num_blocks - 1
    below, h, z, posteriors = 2 * x.astype(np.float64) - 1, None, [], []
    for layer, (spec, p) in enumerate(zip(model.stages, layers, strict=True)):
        skip = h if model.skip else None
        shape = None if h is None else h.shape
        h = below if below.ndim == 4 else dense(below, p["features_of_latent_below"]).reshape(shape)
        for j in range(model.num_blocks):
            stride = spec.stride if j == last else 1
            h = gated_block(h, p[f"inference_{j}"], stride=stride, residual=layer + j > 0, aux=skip)
        posteriors.append((gaussian(h, p["posterior_head"]), h.shape))
        mean, log_var = posteriors[-1][0]
        below = mean + np.exp(log_var / 2) * noise[layer]
        z.append(below)
    skips, kl = None, []
    for layer, spec in reversed(list(enumerate(model.stages))):
        p, (posterior, shape) = layers[layer], posteriors[layer]
        prior = 2 * [np.zeros_like(z[layer])] if layer == top else gaussian(d, p["prior_head"])
        kl.append((log_normal(z[layer], *posterior) - log_normal(z[layer], *prior)).reshape(len(x), -1).sum(1))
        d = z[layer] if z[layer].ndim == 4 else dense(z[layer], p["features_of_latent"]).reshape(shape)
        outputs = []
        for j in range(model.num_blocks):
            aux = None if skips is None else skips[j]
            stride = spec.stride if j == 0 else 1
            d = gated_block(d, p[f"generative_{j}"], stride=stride, transpose=True, residual=j > 0, aux=aux)
            outputs.append(d)
        skips = outputs if model.skip else None
    return conv(elu(d), params["head"]), np.stack(kl[::-1], 1)


def gaussian(h, params):
    form = conv if params["parameters"]["v"].ndim == 4 else dense
    mean, raw = np.split(form(elu(h), params["parameters"]), 2, -1)
    return mean, np.logaddexp(raw, 0)


def log_normal(z, mean, log_var):
    return -0.5 * ((z - mean) ** 2 / np.exp(log_var) + log_var + np.log(2 * np.pi))


def random_params(module, *args, seed=0):
    """Parameters of order one everywhere, so that every gain, bias and shortcut shows in the outputs."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.uniform(0.3, 0.7, leaf.shape) if path[-1].key == "g" else 0.3 * rng.normal(size=leaf.shape)
        return values.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# kernel, stride, transposed, height, width
CONVOLUTIONS = [
    (1, 2, False, 6, 4),
    (3, 1, False, 5, 4),
    (5, 1, False, 4, 6),
    (4, 1, False, 5, 6),
    (16, 1, False, 4, 4),
    (3, 2, False, 6, 4),
    (5, 2, False, 8, 6),
    (5, 2, False, 7, 6),
    (3, 2, True, 4, 3),
    (5, 2, True, 3, 4),
    (4, 2, True, 3, 3),
    (2, 2, True, 3, 2),
    (5, 3, True, 2, 3),
]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolutions(case):
    kernel, stride, transpose, height, width = case
    layer, x = WeightNormConv(4, kernel, stride, transpose), normal(2, height, width, 3)
    params = random_params(layer, x)
    expected = conv_transpose(x, params, stride) if transpose else conv(x, params, stride)
    y = quick_jit(layer.apply)({"params": params}, x)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_dense_layers():
    x = normal(3, 7)
    params = random_params(WeightNormDense(5), x)
    np.testing.assert_allclose(WeightNormDense(5).apply({"params": params}, x), dense(x, params), atol=1e-5)


# name, block, input channels, height and width of the auxiliary input
BLOCKS = [
    ("plain", GatedBlock(4, 3), 4, None),
    ("first of the image", GatedBlock(4, 5, residual=False), 3, None),
    ("fewer channels, no shortcut", GatedBlock(4, 3), 2, (6, 4)),
    ("more channels, cut", GatedBlock(4, 3), 6, None),
    ("even kernel", GatedBlock(4, 4), 4, (6, 4)),
    ("average pool", GatedBlock(4, 3, 2), 4, (6, 4)),
    ("average pool, 5×5", GatedBlock(4, 5, 2), 4, None),
    ("average pool, more channels", GatedBlock(4, 3, 2), 5, None),
    ("stride, not residual", GatedBlock(4, 3, 2, residual=False), 4, None),
    ("transposed", GatedBlock(4, 3, 2, transpose=True), 4, (6, 4)),
    ("transposed, 5×5, latents", GatedBlock(4, 5, 2, transpose=True, residual=False), 2, None),
    ("transposed without stride", GatedBlock(4, 3, transpose=True), 4, (6, 4)),
    ("larger auxiliary input", GatedBlock(4, 3), 4, (12, 8)),
    ("smaller auxiliary input", GatedBlock(4, 5), 4, (3, 2)),
]


@pytest.mark.parametrize(("name", "block", "channels", "aux_size"), BLOCKS, ids=[case[0] for case in BLOCKS])
def test_blocks(name, block, channels, aux_size):
    x, aux = normal(2, 6, 4, channels), None if aux_size is None else normal(2, *aux_size, 5, seed=2)
    params = random_params(block, x, aux)
    expected = gated_block(x, params, stride=block.stride, transpose=block.transpose, residual=block.residual, aux=aux)
    y = quick_jit(block.apply)({"params": params}, x, aux)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_dropout_in_a_block_acts_before_the_second_convolution():
    x, mask = normal(3, 4, 4, 4), np.random.default_rng(3).uniform(size=(3, 4, 4, 4)) < 0.5
    block = GatedBlock(4, 3, dropout=0.5)
    params = random_params(block, x)
    y = conv(2 * mask * elu(conv(elu(x), params["conv_1"])), params["conv_2"])
    expected = y[..., :4] / (1 + np.exp(-y[..., 4:])) + x
    np.testing.assert_allclose(quick_jit(block.apply)({"params": params}, x, None, mask), expected, atol=1e-4)


def test_dropout_masks_are_false_at_the_rate_and_differ_by_example_and_layer():
    keys = jax.random.split(jax.random.key(0), 8)
    draw = quick_jit(dropout_masks, static_argnums=(2, 3))
    one, two = (np.asarray(draw(keys, layer, (3, 20, 50), 0.2)) for layer in (0, 1))
    np.testing.assert_allclose([(~one).mean(), (~two).mean()], 0.2, atol=0.01)
    assert len({mask.tobytes() for mask in (*one, *two)}) == 16


def test_the_kl_is_exact_where_posterior_and_prior_nearly_agree():
    rng = np.random.default_rng(0)
    noise, mean, log_var = (rng.normal(size=(4, 1000)).astype(np.float32) for _ in range(3))
    step = (1e-5 * rng.normal(size=(2, 4, 1000))).astype(np.float32)
    prior = Gaussian(jnp.asarray(mean + step[0]), jnp.asarray(log_var + step[1]))
    q = [np.asarray(value, np.float64) for value in (noise, mean, log_var)]
    z = q[1] + np.exp(q[2] / 2) * q[0]
    p = [np.asarray(value, np.float64) for value in prior]
    expected = (log_normal(z, *q[1:]) - log_normal(z, *p)).sum(1)
    ours = quick_jit(sampled_kl)(Latent(jnp.asarray(z, jnp.float32), *map(jnp.asarray, (noise, mean, log_var))), prior)
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("log_var", "function"),
    [("softplus", lambda raw: np.logaddexp(raw, 0)), ("tanh", np.tanh), ("none", lambda raw: raw)],
)
def test_log_variances(log_var, function):
    head, h = GaussianHead(3, 4, log_var), normal(2, 4, 4, 5)
    params = random_params(head, h)
    mean, raw = np.split(conv(elu(h), params["parameters"]), 2, -1)
    gaussian = quick_jit(head.apply)({"params": params}, h)
    np.testing.assert_allclose(gaussian.mean, mean, atol=1e-4)
    np.testing.assert_allclose(gaussian.log_var, function(raw), atol=1e-4)


@pytest.mark.parametrize(("kernels", "skip"), [((4, 3, None), True), ((None, 4), False)])
def test_the_whole_model(kernels, skip):
    sizes = [(6, 5, 2, 4), (6, 3, 1, 6), (5, 3, 2, 2)][: len(kernels)]
    stages = [StageSpec(*size, kernel) for size, kernel in zip(sizes, kernels, strict=True)]
    model, keys = HVAE((8, 12, 2), 5, stages, skip, num_blocks=2), jax.random.split(jax.random.key(3), 3)
    x = np.random.default_rng(0).uniform(size=(3, 8, 12, 2)).astype(np.float32)
    params = random_params(model, x, keys)
    outputs, kl = quick_jit(model.apply)({"params": params}, x, keys)
    maps = [(4, 6), (4, 6), (2, 3)]
    shapes = [
        (latents,) if kernel is None else (*size, latents)
        for size, (*_, latents), kernel in zip(maps, sizes, kernels, strict=False)
    ]
    noise = layer_noise(keys, POSTERIOR, shapes)
    expected_outputs, expected_kl = numpy_hvae(model, params, x, [np.asarray(values) for values in noise])
    np.testing.assert_allclose(outputs, expected_outputs, atol=1e-4)
    np.testing.assert_allclose(kl, expected_kl, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("module", "shapes", "message"),
    [
        (WeightNormConv(4, 1, 2, True), [(1, 4, 4, 3)], "kernel_size is 1; expected at least the stride, 2"),
        (GatedBlock(4, 3), [(1, 4, 4, 3), (1, 6, 6, 3)], r"aux has shape \(1, 6, 6, 3\); expected a whole multiple"),
        (GatedBlock(4, 3), [(1, 4, 4, 3), (1, 8, 4, 3)], r"aux has shape \(1, 8, 4, 3\); expected a whole multiple"),
    ],
)
def test_what_does_not_fit_is_refused(module, shapes, message):
    arrays = [jnp.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), *arrays)
