"""The fused categorical head equals a linear layer with a soft-max, in memory that does not grow with the image."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibrax as cx
from calibrax.likelihoods import categorical_nll, categorical_nll_from_features
from calibrax.linen import CategoricalHead

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.integers(0, 256, (2, 7, 5, 3)), jnp.uint8)
FEATURES = jnp.asarray(RNG.normal(size=(2, 7, 5, 6)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(size=(6, 3 * 256)) / 3, jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=3 * 256), jnp.float32)
MASK = jnp.asarray(RNG.random(X.shape) > 0.3)


def plain(features, kernel, bias, mask):
    logits = (features @ kernel + bias.reshape(1, 1, 1, -1)).reshape(*X.shape, 256)
    return categorical_nll(X, logits, mask=mask)[0]


# Of 70 positions: one at a time, eight at a time with a remainder, and as many as there are.
@pytest.mark.parametrize(("positions", "mask"), [(1, None), (8, MASK), (1000, MASK[..., :1])])
def test_values_and_gradients_equal_those_of_the_plain_form(positions, mask):
    def fused(features, kernel, bias, mask):
        return categorical_nll_from_features(X, features, kernel, bias, max_chunk_logits=768 * positions, mask=mask)[0]

    def with_gradient(form):
        def loss(*args):
            nll = form(*args, mask)
            return jnp.sum(nll * jnp.asarray([1.0, 2.0])), nll

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(FEATURES, KERNEL, BIAS)

    (_, nll), grads = with_gradient(fused)
    (_, expected), expected_grads = with_gradient(plain)
    np.testing.assert_allclose(nll, expected, rtol=1e-5)
    for grad, exact in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(grad, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max())


def test_a_large_image_takes_half_a_gibibyte():
    """Value and gradient of one 1024×1024×3 image with 32 features, arguments and results included."""

    def loss(features, kernel, bias, x):
        return jnp.sum(categorical_nll_from_features(x, features, kernel, bias)[0])

    shapes = [((1, 1024, 1024, 32), "float32"), ((32, 768), "float32"), ((768,), "float32")]
    args = [jax.ShapeDtypeStruct(*shape) for shape in (*shapes, ((1, 1024, 1024, 3), "uint8"))]
    memory = jax.jit(jax.value_and_grad(loss, (0, 1, 2))).lower(*args).compile().memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes
    assert used <= 2**29


def test_linen_head_is_dense_under_decode():
    head = CategoricalHead(channels=3, levels=16)
    variables = head.init(jax.random.key(0), FEATURES, X // 16)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (6, 48), "bias": (48,)}}
    nll, stats = head.apply(variables, FEATURES, X // 16)
    outputs = FEATURES @ variables["params"]["kernel"]
    likelihood = cx.categorical(16)
    np.testing.assert_allclose(nll, likelihood.nll({}, {}, outputs, X // 16)[0], rtol=1e-5)
    assert stats == {}
    mean = head.apply(variables, FEATURES, method="mean")
    chex.assert_trees_all_close(mean, likelihood.mean({}, {}, outputs), rtol=1e-5)
    drawn = head.apply(variables, jax.random.key(1), FEATURES, method="sample")
    chex.assert_trees_all_close(drawn, likelihood.sample(jax.random.key(1), {}, {}, outputs))


def test_bfloat16_features_give_float32():
    fused, _ = categorical_nll_from_features(X, FEATURES.astype(jnp.bfloat16), KERNEL, BIAS)
    assert fused.dtype == jnp.float32
    np.testing.assert_allclose(
        fused, plain(FEATURES.astype(jnp.bfloat16).astype(jnp.float32), KERNEL, BIAS, None), rtol=1e-5
    )


def test_any_number_of_levels():
    x = X % 5
    nll, _ = categorical_nll_from_features(x, FEATURES, KERNEL[:, :15], BIAS[:15])
    logits = (FEATURES @ KERNEL[:, :15] + BIAS[:15].reshape(1, 1, 1, -1)).reshape(*X.shape, 5)
    np.testing.assert_allclose(nll, categorical_nll(x, logits)[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ((X[:, :3], FEATURES, KERNEL, BIAS), "x has shape"),
        ((X, FEATURES, KERNEL[:5], BIAS), r"kernel has shape \(5, 768\); expected \(6, 768\)"),
        ((X, FEATURES, KERNEL, BIAS[:-1]), r"kernel has shape \(6, 768\); expected \(6, 767\)"),
        (
            (X, FEATURES, KERNEL[:, :-1], BIAS[:-1]),
            "kernel has 767 columns; expected a multiple of the 3 channels of x",
        ),
        ((X, FEATURES, KERNEL[:, :3], BIAS[:3]), "the number of logits is 1; expected an integer from 2"),
    ],
)
def test_mistakes_are_one_line(args, match):
    with pytest.raises(ValueError, match=match):
        categorical_nll_from_features(*args)
