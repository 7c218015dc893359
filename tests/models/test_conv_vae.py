import jax
import jax.numpy as jnp
import numpy as np
import pytest

from calibrax.models import ConvVAE


def make(image_shape, output_channels=None, **options):
    return ConvVAE(image_shape=image_shape, output_channels=output_channels or image_shape[-1], **options)


def initialised(model, batch=2):
    x = jnp.zeros((batch, *model.image_shape))
    return jax.jit(model.init)(jax.random.key(0), x, jax.random.key(1)), x


@pytest.mark.parametrize(("image_shape", "count"), [((28, 28, 3), 992_427), ((28, 28, 1), 990_249)])
def test_parameter_counts_are_the_authors(image_shape, count):
    model = make(image_shape)
    x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == count


@pytest.mark.parametrize("image_shape", [(28, 28, 3), (28, 20, 1), (32, 32, 3), (30, 30, 3), (5, 4, 2), (13, 27, 4)])
@pytest.mark.parametrize("outputs_per_channel", [1, 2])
def test_any_image_shape(image_shape, outputs_per_channel):
    model = make(image_shape, outputs_per_channel * image_shape[-1], features=4)
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
    model = make((13, 9, 1), features=2)
    variables, x = initialised(model)
    outputs, kl = jax.jit(model.apply)(variables, x, jax.random.key(0))
    assert outputs.shape == x.shape
    assert np.isfinite(outputs).all()
    assert np.isfinite(kl).all()


def test_uint8_images_are_read_as_fractions():
    model = make((8, 8, 3), features=4)
    variables, _ = initialised(model)
    x = jax.random.randint(jax.random.key(3), (5, 8, 8, 3), 0, 256).astype(jnp.uint8)
    one = model.apply(variables, x, jax.random.key(0))
    other = model.apply(variables, x.astype(jnp.float32) / 255, jax.random.key(0))
    np.testing.assert_allclose(one.outputs, other.outputs, atol=1e-6)


def test_the_kl_stays_finite_for_absurd_inputs():
    model = make((8, 8, 3), features=4)
    variables, x = initialised(model)
    for scale in (1e4, -1e4, 1e8):
        _, kl = model.apply(variables, x + scale, jax.random.key(0))
        grads = jax.grad(lambda v, s=scale: jnp.sum(model.apply(v, x + s, jax.random.key(0)).kl))(variables)
        assert np.isfinite(kl).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_an_example_s_noise_depends_on_its_own_key_alone():
    model = make((8, 8, 3), features=4)
    variables, _ = initialised(model)
    x = jax.random.uniform(jax.random.key(1), (6, 8, 8, 3))
    keys = jax.random.split(jax.random.key(2), 6)
    whole = model.apply(variables, x, keys).outputs
    halves = [model.apply(variables, x[part], keys[part]).outputs for part in (slice(0, 2), slice(2, 6))]
    np.testing.assert_allclose(jnp.concatenate(halves), whole, atol=1e-6)
    raw = model.apply(variables, x, jax.random.key_data(keys)).outputs  # legacy uint32 keys
    np.testing.assert_allclose(raw, whole, atol=1e-6)


def test_bfloat16_compute_gives_float32_results_near_float32_s():
    model, half = make((8, 8, 3), features=4), make((8, 8, 3), features=4, dtype=jnp.bfloat16)
    variables, _ = initialised(model)
    x = jax.random.uniform(jax.random.key(1), (6, 8, 8, 3))
    wide, narrow = (m.apply(variables, x, jax.random.key(0)) for m in (model, half))
    assert narrow.outputs.dtype == narrow.kl.dtype == jnp.float32
    np.testing.assert_allclose(narrow.outputs, wide.outputs, atol=0.05)


@pytest.mark.parametrize("shape", [(2, 8, 9, 3), (2, 8, 8, 1), (8, 8, 3)])
def test_another_image_shape_is_refused(shape):
    model = make((8, 8, 3), features=4)
    variables, _ = initialised(model)
    with pytest.raises(ValueError, match=r"x has shape .*the model's image_shape"):
        model.apply(variables, jnp.zeros(shape), jax.random.key(0))
