"""Convolutions as they run on CPUs against plain NumPy, in values and gradients; a larger grid is in robustness."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

from calibrax.models import Conv, ConvTranspose, Dense, conv, conv_transpose, cpu_conv, layers

# kernel, stride, padding, input channels, output channels, height, width
CASES = [
    (3, 1, 1, 3, 8, 7, 6),  # few channels: blocks of output pixels
    (4, 2, 1, 8, 6, 9, 7),  # phases of equally many taps
    (5, 2, 2, 6, 5, 8, 11),  # phases of their own
    (5, 1, 2, 6, 3, 6, 7),  # few output channels: larger blocks
    (2, 3, 0, 5, 6, 8, 7),  # phases without a tap
    (5, 3, 2, 2, 5, 8, 9),  # cropped
    (5, 1, 2, 4, 130, 6, 7),  # many output channels: gradients by windows
]
FORMS = {
    "conv": (cpu_conv.conv, plain.conv, plain.conv_gradients),
    "conv_transpose": (cpu_conv.conv_transpose, plain.conv_transpose, plain.conv_transpose_gradients),
}
ALIGNED = CASES[1]


def arrays(case):
    kernel, _, _, channels, features, height, width = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, height, width, channels)).astype(np.float32)
    weight = rng.normal(size=(kernel, kernel, channels, features)).astype(np.float32)
    return x, weight / np.sqrt(kernel * kernel * channels, dtype=np.float32)


def value_and_gradients(form, x, weight, grad):
    def run(x, weight, grad):
        y, gradients = jax.vjp(form, x, weight)
        return y, *gradients(grad)

    return jax.jit(run)(x, weight, grad)


def assert_close(ours, theirs, tolerance=1e-5):
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        scale = np.max(np.abs(other))
        np.testing.assert_allclose(np.asarray(one, np.float64) / scale, other / scale, atol=tolerance)


def compare(case, name, form=None, dtype=np.float32, tolerance=1e-5):
    _, stride, padding, *_ = case
    ours, reference, gradients = FORMS[name]
    x, weight = (np.asarray(jnp.asarray(array, dtype), np.float64) for array in arrays(case))  # rounded alike
    value = reference(x, weight, stride, padding)
    grad = np.asarray(jnp.asarray(np.random.default_rng(1).normal(size=value.shape), dtype), np.float64)
    found = value_and_gradients(
        lambda x, weight: (form or ours)(x, weight, stride, padding),
        *(jnp.asarray(a, dtype) for a in (x, weight, grad)),
    )
    assert {array.dtype for array in found} == {jnp.dtype(dtype)}
    assert_close(found, (value, *gradients(x, weight, grad, stride, padding)), tolerance)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FORMS)
def test_values_and_gradients_are_the_plain_computation(case, name):
    compare(case, name)


@pytest.mark.parametrize("case", [ALIGNED, CASES[-1]])
@pytest.mark.parametrize("name", FORMS)
def test_bfloat16_stays_bfloat16(name, case):
    compare(case, name, dtype=jnp.bfloat16, tolerance=2e-2)


@pytest.mark.parametrize("name", FORMS)
def test_off_the_cpu_native_convolutions_give_the_same(name, monkeypatch):
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)
    compare(ALIGNED, name, getattr(layers, name))


def test_a_bias_is_added_and_its_gradient_is_the_sum():
    rng = np.random.default_rng(0)
    y, grad = rng.normal(size=(2, 5, 9, 8, 6)).astype(np.float32)
    bias = rng.normal(size=6).astype(np.float32)
    value, grad_y, grad_bias = value_and_gradients(layers.add_bias, y, bias, grad)
    np.testing.assert_array_equal(value, y + bias)
    np.testing.assert_array_equal(grad_y, grad)
    np.testing.assert_allclose(grad_bias, grad.sum((0, 1, 2), np.float64), rtol=1e-5)


@pytest.mark.parametrize("form", [conv, conv_transpose])
def test_gradients_of_several_networks_at_once_are_those_of_each(form):
    x, weight = arrays(ALIGNED)
    xs, weights = jnp.stack([x, -x, 2 * x]), jnp.stack([weight, -weight, weight / 2])

    @jax.jit
    def gradients(x, weight):
        return jax.grad(lambda x, w: jnp.sum(jnp.sin(form(x, w, 2, 2))), (0, 1))(x, weight)

    together = jax.jit(jax.vmap(gradients))(xs, weights)
    for number in range(3):
        assert_close([leaf[number] for leaf in together], gradients(xs[number], weights[number]))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's convolutions on a CPU")
@pytest.mark.parametrize("form", [conv, conv_transpose])
def test_the_cpu_runs_no_native_gradient_of_a_strided_or_transposed_convolution(form):
    x, weight = arrays(ALIGNED)
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda x, w: jnp.sum(form(x, w, 2, 2)), (0, 1)))(x, weight))
    assert "lhs_dilation=(1, 1)" in jaxpr
    assert "lhs_dilation=(2, 2)" not in jaxpr


@pytest.mark.parametrize(
    ("layer", "fan_in"),
    [(Conv(16, 5, padding=2), 25 * 6), (ConvTranspose(16, 5, padding=2), 25 * 16), (Dense(64), 6)],
)
def test_initialisation_is_pytorch_s_default(layer, fan_in):
    params = jax.jit(layer.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 6)))["params"]
    bound = fan_in**-0.5
    for name, least in (("kernel", 0.98), ("bias", 0.7)):
        assert least * bound < np.max(np.abs(params[name])) <= bound
    np.testing.assert_allclose(np.std(params["kernel"]), bound / np.sqrt(3), rtol=0.08)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about XLA's convolutions on a CPU")
@pytest.mark.parametrize("form", [conv, conv_transpose])
def test_in_a_loop_convolutions_keep_the_order_that_is_fast(form):
    """XLA brings other orders of dimensions into the one of its fast convolutions, but not in the body of a loop."""
    x, kernel = jnp.ones((2, 8, 8, 8)), jnp.ones((4, 4, 8, 8))
    grads = jax.grad(lambda x, kernel: jnp.sum(form(x, kernel, 2, 1) ** 2), argnums=(0, 1))
    loop = jax.jit(lambda xs: jax.lax.scan(lambda carry, x: (carry, grads(x, kernel)), 0, xs)[1])
    labels = set(re.findall(r"dim_labels=([\w>-]+)", loop.lower(jnp.stack([x, x])).compile().as_text()))
    assert labels == {"b01f_01io->b01f"}
