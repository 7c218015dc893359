"""The CPU formulation of convolutions equals the native one and Flax's, in values and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from calibrax.models import Conv, ConvTranspose, Dense, conv, conv_transpose
from calibrax.models.layers import add_bias

# kernel, stride, padding, input channels, output channels, height, width
CASES = [
    (3, 1, 1, 3, 8, 7, 6),
    (4, 2, 1, 8, 6, 8, 10),
    (4, 2, 1, 8, 6, 9, 7),
    (5, 2, 2, 6, 32, 14, 11),
    (5, 1, 2, 32, 3, 6, 7),
    (6, 2, 2, 16, 8, 7, 5),
    (6, 2, 0, 1, 8, 9, 8),
    (3, 3, 0, 5, 1, 9, 10),
    (2, 3, 0, 5, 6, 8, 7),
    (1, 1, 0, 4, 4, 3, 3),
    (7, 4, 3, 2, 5, 13, 12),
]


def arrays(case):
    kernel, _, _, channels, features, height, width = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, height, width, channels)).astype(np.float32)
    weight = rng.normal(size=(kernel, kernel, channels, features)).astype(np.float32)
    return x, weight / np.sqrt(kernel * kernel * channels, dtype=np.float32)


def value_and_gradients(form, x, weight):
    y = form(x, weight)
    tangent = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    return y, *jax.grad(lambda x, weight: jnp.sum(form(x, weight) * tangent), (0, 1))(x, weight)


def assert_close(ours, theirs, tolerance=1e-5):
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        scale = float(jnp.max(jnp.abs(other)))
        np.testing.assert_allclose(one / scale, other / scale, atol=tolerance)


def flax_conv(case):
    kernel, stride, padding, _, features, _, _ = case
    module = nn.Conv(features, (kernel, kernel), (stride, stride), [(padding, padding)] * 2, use_bias=False)
    return lambda x, weight: module.apply({"params": {"kernel": weight}}, x)


def flax_conv_transpose(case):
    kernel, stride, padding, _, features, _, _ = case
    pad = kernel - 1 - padding
    module = nn.ConvTranspose(features, (kernel, kernel), (stride, stride), [(pad, pad)] * 2, use_bias=False)
    return lambda x, weight: module.apply({"params": {"kernel": jnp.flip(weight, (0, 1))}}, x)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("form", "flax_form"), [(conv, flax_conv), (conv_transpose, flax_conv_transpose)])
def test_equal_to_flax_in_values_and_gradients(case, form, flax_form):
    _, stride, padding, *_ = case
    x, weight = arrays(case)
    theirs = value_and_gradients(flax_form(case), x, weight)
    for native in (False, True):
        ours = value_and_gradients(lambda x, weight, n=native: form(x, weight, stride, padding, native=n), x, weight)
        assert_close(ours, theirs)


def test_a_bias_is_added_and_its_gradient_is_the_sum():
    rng = np.random.default_rng(0)
    y, tangent = rng.normal(size=(2, 5, 9, 8, 6)).astype(np.float32)
    bias = rng.normal(size=6).astype(np.float32)
    for native in (False, True):
        value, vjp = jax.vjp(lambda y, bias, n=native: add_bias(y, bias, native=n), y, bias)
        np.testing.assert_array_equal(value, y + bias)
        grad_y, grad_bias = vjp(tangent)
        np.testing.assert_array_equal(grad_y, tangent)
        np.testing.assert_allclose(grad_bias, tangent.sum((0, 1, 2), np.float64), rtol=1e-5)


@pytest.mark.parametrize("form", [conv, conv_transpose])
def test_gradients_of_several_networks_at_once_are_those_of_each(form):
    x, weight = arrays(CASES[5])
    xs, weights = jnp.stack([x, -x, 2 * x]), jnp.stack([weight, -weight, weight / 2])

    def gradients(x, weight):
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(form(x, w, 2, 2, native=False))), (0, 1))(x, weight)

    together = jax.vmap(gradients)(xs, weights)
    for number in range(3):
        assert_close([leaf[number] for leaf in together], gradients(xs[number], weights[number]))


@pytest.mark.parametrize("form", [conv, conv_transpose])
def test_bfloat16_stays_bfloat16(form):
    x, weight = (jnp.asarray(array, jnp.bfloat16) for array in arrays(CASES[1]))
    ours = value_and_gradients(lambda x, weight: form(x, weight, 2, 1, native=False), x, weight)
    theirs = value_and_gradients(lambda x, weight: form(x, weight, 2, 1, native=True), x, weight)
    assert {array.dtype for array in ours} == {jnp.dtype(jnp.bfloat16)}
    assert_close(ours, theirs, 2e-2)


@pytest.mark.parametrize("form", [conv, conv_transpose])
def test_the_cpu_runs_no_native_gradient_of_a_strided_or_transposed_convolution(form):
    x, weight = arrays(CASES[5])
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x, w: jnp.sum(form(x, w, 2, 2)), (0, 1)))(x, weight))
    assert "lhs_dilation=(1, 1)" in jaxpr
    assert "lhs_dilation=(2, 2)" not in jaxpr


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(Conv(16, 5, padding=2), 25 * 6), (ConvTranspose(16, 5, padding=2), 25 * 16), (Dense(64), 6)],
)
def test_initialisation_is_pytorch_s_default(layer, fan_in):
    params = layer.init(jax.random.key(0), jnp.zeros((1, 8, 8, 6)))["params"]
    bound = fan_in**-0.5
    for name, least in (("kernel", 0.98), ("bias", 0.7)):
        assert least * bound < float(jnp.max(jnp.abs(params[name]))) <= bound
    np.testing.assert_allclose(float(jnp.std(params["kernel"])), bound / np.sqrt(3), rtol=0.08)


def test_transposed_kernels_map_to_torch_s_by_moving_axes():
    """out[stride·i + a - padding] += x[i] kernel[a], the definition that torch documents, by loops in NumPy."""
    x, weight = arrays((4, 2, 1, 2, 3, 3, 2))
    expected = np.zeros((4, 2 * 3 + 4, 2 * 2 + 4, 3))
    for i in range(3):
        for j in range(2):
            for a in range(4):
                for b in range(4):
                    expected[:, 2 * i + a, 2 * j + b] += x[:, i, j] @ weight[a, b]
    expected = expected[:, 1 : 1 + (3 - 1) * 2 + 4 - 2, 1 : 1 + (2 - 1) * 2 + 4 - 2]
    np.testing.assert_allclose(conv_transpose(x, weight, 2, 1), expected, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's convolutions on a CPU")
@pytest.mark.parametrize("form", [conv, conv_transpose])
def test_in_a_loop_convolutions_keep_the_order_that_is_fast(form):
    """XLA brings other orders of dimensions into the one of its fast convolutions, but not in the body of a loop."""
    x, kernel = jnp.ones((2, 8, 8, 8)), jnp.ones((4, 4, 8, 8))
    grads = jax.grad(lambda x, kernel: jnp.sum(form(x, kernel, 2, 1) ** 2), argnums=(0, 1))
    loop = jax.jit(lambda xs: jax.lax.scan(lambda carry, x: (carry, grads(x, kernel)), 0, xs)[1])
    labels = set(re.findall(r"dim_labels=([\w>-]+)", loop.lower(jnp.stack([x, x])).compile().as_text()))
    assert labels == {"b01f_01io->b01f"}
