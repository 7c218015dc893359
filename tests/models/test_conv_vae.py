import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calibrax.models import ConvVAE


def make(image_shape=(8, 8, 3), output_channels=None, **options):
    return ConvVAE(image_shape, output_channels or image_shape[-1], **{"features": 4, **options})


@functools.cache
def variables_of(model):
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((2, *model.image_shape)), jax.random.key(1))


@functools.cache
def compiled(model):
    return jax.jit(functools.partial(model.apply, variables_of(model.clone(dtype=None))))


def images(batch=6):
    return jax.random.randint(jax.random.key(3), (batch, 8, 8, 3), 0, 256).astype(jnp.uint8)


def keys(batch=6):
    return jax.random.split(jax.random.key(2), batch)


@pytest.mark.parametrize(("image_shape", "count"), [((28, 28, 3), 992_427), ((28, 28, 1), 990_249)])
def test_parameter_counts_are_the_authors(image_shape, count):
    model = make(image_shape, features=32)
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


@pytest.mark.parametrize("image_shape", [(28, 28, 3), (28, 20, 1), (30, 30, 3), (5, 4, 2), (13, 27, 4)])
def test_any_image_shape(image_shape):
    model = make(image_shape, 2 * image_shape[-1])
    x, key = jnp.zeros((2, *image_shape)), jax.random.key(0)

    def everything():
        variables = model.init(key, x, key)
        return model.apply(variables, x, key), model.apply(variables, key, 3, method="generate")

    (outputs, kl), generated = jax.eval_shape(everything)
    assert outputs.shape == (*x.shape[:-1], model.output_channels)
    assert outputs.dtype == kl.dtype == jnp.float32
    assert kl.shape == (2,)
    assert generated.shape == (3, *outputs.shape[1:])


def test_an_image_of_odd_sides_passes_through():
    model, x = make((13, 9, 1), features=2), jnp.zeros((2, 13, 9, 1))
    outputs, kl = compiled(model)(x, jax.random.key(0))
    assert outputs.shape == x.shape
    assert np.isfinite(outputs).all()
    assert np.isfinite(kl).all()


def test_uint8_images_are_read_as_fractions():
    one = compiled(make())(images(), keys())
    other = compiled(make())(images().astype(jnp.float32) / 255, keys())
    np.testing.assert_allclose(one.outputs, other.outputs, atol=1e-6)


def test_the_kl_stays_finite_for_absurd_inputs():
    @jax.jit
    def value_and_grad(variables, x):
        return jax.value_and_grad(lambda v: jnp.sum(make().apply(v, x, keys()).kl))(variables)

    for scale in (1e4, -1e4, 1e8):
        for leaf in jax.tree.leaves(value_and_grad(variables_of(make()), jnp.full((6, 8, 8, 3), scale))):
            assert np.isfinite(leaf).all()


def test_an_example_s_noise_depends_on_its_own_key_alone():
    order = np.array([4, 2, 0, 5, 1, 3])
    whole = compiled(make())(images(), keys())
    mixed = compiled(make())(images()[order].at[:3].set(0), keys()[order])
    np.testing.assert_allclose(mixed.outputs[3:], whole.outputs[order[3:]], atol=1e-6)
    other = compiled(make())(images(), keys()[::-1])
    assert np.abs(other.outputs - whole.outputs).max() > 1e-3


def test_bfloat16_compute_gives_float32_results_near_float32_s():
    wide, narrow = (compiled(make(dtype=dtype))(images(), keys()) for dtype in (None, jnp.bfloat16))
    assert narrow.outputs.dtype == narrow.kl.dtype == jnp.float32
    np.testing.assert_allclose(narrow.outputs, wide.outputs, atol=0.05)


@pytest.mark.parametrize("shape", [(2, 8, 9, 3), (2, 8, 8, 1), (8, 8, 3)])
def test_another_image_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"x has shape .*the model's image_shape"):
        make().apply({}, jnp.zeros(shape), jax.random.key(0))
