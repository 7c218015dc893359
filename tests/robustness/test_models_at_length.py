"""Models on eight devices, with rematerialisation, and SVG for every way to condition: what compiles for long."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from plain_svg import (
    BATCH,
    PlainSVG,
    compiled,
    keys,
    loss_of,
    noise_of,
    params_of,
    predict,
    single,
    tiny,
    variables_of,
    videos,
)

from calibrax.models.hvae import HVAE, StageSpec


def hvae(**options):
    return HVAE((8, 8, 2), 3, (StageSpec(4, 3, 2, 2, None),), num_blocks=1, **options)


def images(batch=16):
    return jnp.asarray(np.random.default_rng(7).uniform(size=(batch, 8, 8, 2)), jnp.float32)


@functools.cache
def initialised():
    return jax.jit(functools.partial(hvae().init, train=True))(jax.random.key(0), images(), keys(16))


@pytest.mark.parametrize("kind", ["pmap", "sharded"])
def test_eight_devices_initialise_a_hierarchical_vae_as_one(kind):
    x, key = images(), jax.random.key(0)
    assert jax.device_count() == 8
    if kind == "pmap":
        init = functools.partial(hvae(axis_name="batch").init, train=True)
        spread = jax.pmap(init, "batch", in_axes=(None, 0, 0))
        variables = spread(key, x.reshape(8, 2, *x.shape[1:]), keys(16).reshape(8, 2))
        for leaf in jax.tree.leaves(variables):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        variables = jax.tree.map(lambda leaf: leaf[0], variables)
    else:
        mesh = Mesh(np.array(jax.devices()), ("batch",))
        whole, parts = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
        init = functools.partial(hvae().init, train=True)
        spread = jax.jit(init, in_shardings=(whole, parts, parts), out_shardings=whole)
        variables = spread(key, jax.device_put(x, parts), jax.device_put(keys(16), parts))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), variables, initialised())


def test_rematerialisation_of_a_hierarchical_vae_changes_neither_values_nor_gradients():
    def loss(variables, model):
        outputs, kl = model.apply(variables, images(), keys(16), train=True)
        return jnp.mean(jnp.square(outputs)) + jnp.mean(kl)

    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.5 * jnp.ones_like(leaf) if path[-1].key == "g" else leaf, initialised()
    )
    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    results = [run(variables, hvae(remat=remat)) for remat in (False, True)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), *results)


@pytest.mark.parametrize("n_past", [1, 2, 9])
def test_a_training_step_of_svg_is_the_plain_loop(n_past, x64):
    model, x = tiny(dtype=jnp.float64), videos()
    forward = compiled(model)(params_of(), jnp.asarray(x), keys(), train=True, n_past=n_past)
    frames = x.swapaxes(0, 1)
    loss, outputs, kl = PlainSVG(params_of()["params"]).train(frames, noise_of(keys(), 3), max(n_past, 2))
    np.testing.assert_allclose(loss_of(forward, x), loss, rtol=1e-8)
    np.testing.assert_allclose(forward.outputs.swapaxes(0, 1), outputs, atol=1e-6)
    np.testing.assert_allclose(forward.kl, np.sum(kl, axis=0), rtol=1e-6)


@pytest.mark.parametrize("n_past", [1, 2])
def test_a_prediction_of_svg_is_the_plain_loop(n_past, x64):
    x = videos()[:, :n_past]
    outputs = predict(3, jnp.asarray(x), model=tiny(dtype=jnp.float64))
    assert outputs.shape == (BATCH, 3, 64, 64, 2)
    expected = PlainSVG(params_of()["params"]).predict(x.swapaxes(0, 1), noise_of(keys(), n_past + 2), 1.0)
    np.testing.assert_allclose(outputs.swapaxes(0, 1), expected, atol=1e-6)


def test_rematerialisation_of_svg_changes_neither_values_nor_gradients():
    def loss(params, model):
        x = single(videos())
        return loss_of(model.apply(params, x, keys(), train=True), x)

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    (value, grads), (again, grads_again) = (run(params_of(), tiny(remat=remat)) for remat in (False, True))
    np.testing.assert_allclose(again, value, rtol=1e-6)
    atol = 1e-4 * float(optax.tree.norm(grads))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol), grads, grads_again)


def test_the_program_of_a_rematerialised_svg_does_not_grow_with_time():
    def loss(params, x):
        return loss_of(tiny(remat=True).apply(params, x, keys(), train=True), x)

    def size(frames):
        return len(str(jax.make_jaxpr(jax.grad(loss))(params_of(), single(videos(frames=frames)))))

    assert size(30) < 1.1 * size(6)


def test_eight_devices_train_svg_as_one():
    x, noise_keys = single(videos(16, 3)), keys(16)
    averages, params = variables_of()["batch_stats"], params_of()["params"]

    def loss(params, model, x, noise_keys):
        variables = {"params": params, "batch_stats": averages}
        forward, new = model.apply(variables, x, noise_keys, train=True, mutable=["batch_stats"])
        return loss_of(forward, x), new

    def on_a_device(params, x, noise_keys):
        model = tiny().clone(axis_name="batch")
        (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params, model, x, noise_keys)
        return jax.lax.pmean(value, "batch"), new, jax.lax.pmean(grads, "batch")

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (value, new), grads = grad(params, tiny(), x, noise_keys)
    assert jax.device_count() == 8
    spread = x.reshape(8, 2, *x.shape[1:]), noise_keys.reshape(8, 2)
    many = jax.pmap(on_a_device, "batch", in_axes=(None, 0, 0))(params, *spread)
    scale = float(optax.tree.norm(grads))
    for part, expected, atol in zip(many, (value, new, grads), (0, 1e-5, 1e-4 * scale), strict=True):
        for one, devices in zip(jax.tree.leaves(expected), jax.tree.leaves(part), strict=True):
            np.testing.assert_allclose(devices, np.broadcast_to(one, devices.shape), rtol=1e-4, atol=atol)


def test_an_adam_for_each_part_is_one_adam():
    """The original of SVG has five; Adam treats every weight alone."""
    names = ("encoder", "decoder", "predictor", "posterior", "prior")
    params = {name: jnp.linspace(-1.0, 1.0, 4) * size for size, name in enumerate(names, start=1)}
    five = optax.multi_transform({name: optax.adam(2e-3) for name in names}, {name: name for name in names})
    updated = []
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        for optimizer in (optax.adam(2e-3), five):
            update, state, updates = jax.jit(optimizer.update), optimizer.init(params), params
            for step in range(3):
                grads = {name: np.cos(leaf + step) for name, leaf in params.items()}
                updates, state = update(grads, state)
            updated.append(updates)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *updated)
