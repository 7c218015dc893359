"""The fused categorical head equals a linear layer with a soft-max, in memory that does not grow with the image."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx as flax_nnx

import calibrax as cx
from calibrax import linen, nnx
from calibrax.likelihoods import categorical_nll, categorical_nll_from_features

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.integers(0, 256, (2, 7, 5, 3)), jnp.uint8)
FEATURES = jnp.asarray(RNG.normal(size=(2, 7, 5, 6)), jnp.float32)
KERNEL = jnp.asarray(RNG.normal(size=(6, 3 * 256)) / 3, jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=3 * 256), jnp.float32)
MASK = jnp.asarray(RNG.random(X.shape) > 0.3)


def plain(features, kernel, bias, mask):
    logits = (features @ kernel + bias.reshape(1, 1, 1, -1)).reshape(*X.shape, 256)
    return categorical_nll(X, logits, mask=mask)[0]


# Of 2 examples with 35 positions: one position at a time, four with a remainder, and as many as there are.
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


def linen_head(kernel, bias, **options):
    head = linen.CategoricalHead(channels=3, levels=16, **options)
    variables = {"params": {"kernel": kernel, "bias": bias}}
    return {
        "nll": lambda features, x, **mask: head.apply(variables, features, x, **mask),
        "mean": lambda features: head.apply(variables, features, method="mean"),
        "sample": lambda key, features: head.apply(variables, key, features, method="sample"),
    }


def nnx_head(kernel, bias, **options):
    head = nnx.CategoricalHead(len(kernel), channels=3, levels=16, rngs=flax_nnx.Rngs(0), **options)
    shapes = jax.tree.map(jnp.shape, flax_nnx.to_pure_dict(flax_nnx.state(head)))
    assert shapes == {"kernel": (6, 48), "bias": (48,)}
    assert 0.3 < float(jnp.std(head.kernel[...])) * math.sqrt(len(kernel)) < 1.2  # LeCun's variance, 1 / F
    assert not head.bias[...].any()
    flax_nnx.update(head, {"kernel": kernel, "bias": bias})
    return {"nll": head, "mean": head.mean, "sample": head.sample}


@pytest.mark.parametrize("options", [{}, {"max_chunk_logits": 48}])
@pytest.mark.parametrize("make", [linen_head, nnx_head])
def test_the_heads_of_flax_are_dense_under_decode(make, options):
    kernel, bias, x = KERNEL[:, :48], BIAS[:48], X // 16
    head, likelihood = make(kernel, bias, **options), cx.categorical(16)
    outputs = FEATURES @ kernel + bias.reshape(1, 1, 1, -1)
    nll, stats = head["nll"](FEATURES, x)
    np.testing.assert_allclose(nll, likelihood.nll({}, {}, outputs, x)[0], rtol=1e-5)
    assert stats == {}
    hidden, _ = head["nll"](FEATURES, x, mask=MASK)
    np.testing.assert_allclose(hidden, likelihood.nll({}, {}, outputs, x, mask=MASK)[0], rtol=1e-5)
    chex.assert_trees_all_close(head["mean"](FEATURES), likelihood.mean({}, {}, outputs), rtol=1e-5)
    key = jax.random.key(1)
    chex.assert_trees_all_close(head["sample"](key, FEATURES), likelihood.sample(key, {}, {}, outputs))
    for bad, match in ((X[..., :2], "x has shape .*; expected 3 channels"), (X[:, :3] // 16, "x has shape")):
        with pytest.raises(ValueError, match=match):
            head["nll"](FEATURES, bad)
    with pytest.raises(ValueError, match=r"features has shape \(6,\); expected"):
        head["mean"](FEATURES[0, 0, 0])


def test_the_linen_head_draws_its_parameters():
    variables = linen.CategoricalHead(channels=3, levels=16).init(jax.random.key(0), FEATURES, X // 16)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"kernel": (6, 48), "bias": (48,)}}


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"channels": 0}, "channels is 0; expected an integer from 1"),
        ({"channels": 3, "levels": 1}, "levels is 1; expected an integer from 2"),
        ({"channels": 3, "in_features": 0}, "in_features is 0; expected an integer from 1"),
    ],
)
def test_numbers_out_of_range_are_errors_of_the_heads(setting, match):
    with pytest.raises(ValueError, match=match):
        nnx.CategoricalHead(**({"in_features": 6} | setting), rngs=flax_nnx.Rngs(0))
    if "in_features" not in setting:
        with pytest.raises(ValueError, match=match):
            linen.CategoricalHead(**setting)


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
