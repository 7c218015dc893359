"""Sizes, initialisation, noise and sampling of the hierarchical VAE; `test_hvae_layers` checks its arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn

from calibrax.models.hvae import CIFAR_STAGES, DENSE_STAGES, HVAE, StageSpec
from calibrax.models.hvae.weight_norm import WeightNormConv, WeightNormDense
from calibrax.models.layers import conv_transpose

# Half the time: what is compiled here runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TINY = (StageSpec(5, 3, 2, 3, 4), StageSpec(6, 3, 2, 2, None))


def tiny(**options):
    """Two layers: a latent map under a latent vector, with skips, strides and every kind of layer."""
    return HVAE(**{"image_shape": (8, 8, 2), "output_channels": 3, "stages": TINY, "num_blocks": 1, **options})


def single(**options):
    """One layer, which compiles quickly."""
    return tiny(stages=(StageSpec(4, 3, 2, 2, None),), **options)


def images(batch=6, shape=(8, 8, 2)):
    return jnp.asarray(np.random.default_rng(7).uniform(size=(batch, *shape)), jnp.float32)


def keys(batch=6):
    return jax.random.split(jax.random.key(8), batch)


@functools.cache
def initialised(model):
    """Outputs and variables from `init`, and what every weight-normalised layer emits in it, before any cropping."""

    @quick_jit
    def init(key, x, noise_keys):
        found = {}

        def record(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, WeightNormConv | WeightNormDense) and context.method_name == "__call__":
                found["/".join(context.module.path)] = before_cropping(context.module, args[0], y)
            return y

        with nn.intercept_methods(record):
            forward, variables = model.init_with_output(key, x, noise_keys, train=True)
        return forward, variables, found

    return init(jax.random.key(0), images(16), keys(16))


def before_cropping(layer, x, y):
    if not getattr(layer, "transpose", False):
        return y
    v, g, b = (layer.get_variable("params", name) for name in "vgb")
    kernel = v / jnp.linalg.norm(v.reshape(-1, v.shape[-1]), axis=0).reshape(1, 1, 1, -1)
    return conv_transpose(x, kernel * g.reshape(1, 1, 1, -1), layer.stride) + b.reshape(1, 1, 1, -1)


@functools.cache
def variables_of(model):
    """Initialised variables with larger gains, so that every connection shows in the outputs."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: 0.5 * jnp.ones_like(leaf) if path[-1].key == "g" else leaf, initialised(model)[1]
    )


@functools.cache
def compiled(model):
    return quick_jit(model.apply, static_argnames=("train", "method", "num"))


@functools.cache
def abstract(model, batch=2):
    x = jax.ShapeDtypeStruct((batch, *model.image_shape), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))["params"], x


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(("skip", "expected"), [(True, 54_402_880), (False, 53_022_784)])
def test_parameter_counts_are_the_original_s(skip, expected):
    assert count(abstract(HVAE((32, 32, 3), 100, skip=skip))[0]) == expected


def test_every_stage_has_the_original_s_parameters():
    params, _ = abstract(HVAE((32, 32, 3), 100))
    stages = [params[f"stage_{layer}"] for layer in range(15)]
    middle = [4_790_096 - 200_080 * i for i in range(8)]
    top = [2_009_808, 1_809_728, 1_757_104, 1_704_480, 1_408_552]
    assert [count(stage) for stage in stages] == [7_994_704, 4_990_176, *middle, *top]
    parts = {"posterior": 15_023_520, "prior": 14_992_760, "inference": 11_863_584, "generative": 12_513_216}
    for part, expected in parts.items():
        assert sum(count(p) for stage in stages for name, p in stage.items() if name.startswith(part)) == expected
    assert count(params["head"]) == 9_800


def test_the_latents_of_the_cifar_stages():
    model = HVAE((32, 32, 3), 100)
    params, x = abstract(model)
    key = jax.random.key(0)
    latents = jax.eval_shape(lambda p, x: model.apply({"params": p}, x, key, method="inference_path"), params, x)
    large = [(16, 16, n) for n in range(38, 18, -2)]
    assert [latent.z.shape[1:] for latent in latents] == [*large, *((8, 8, n) for n in (18, 16, 14, 12)), (4, 4, 10)]
    assert sum(latent.z.size for latent in latents) == 2 * 78_240
    assert model.stages == CIFAR_STAGES


def test_the_dense_stages():
    model = HVAE((28, 28, 1), 4, DENSE_STAGES)
    params, x = abstract(model)
    forward = jax.eval_shape(model.apply, {"params": params}, x, jax.random.key(0))
    assert [leaf.shape for leaf in forward] == [(2, 28, 28, 4), (2, 6)]
    assert [leaf.dtype for leaf in forward] == [jnp.float32, jnp.float32]
    assert [params[f"stage_{i}"]["posterior_head"]["parameters"]["b"].shape for i in range(6)] == [
        (2 * n,) for n in (48, 40, 32, 24, 16, 8)
    ]


def test_the_first_batch_gives_every_layer_mean_0_and_deviation_a_hundredth():
    forward, variables, found = initialised(tiny())
    assert len(found) == sum(path[-1].key == "v" for path, _ in jax.tree_util.tree_leaves_with_path(variables))
    for name, y in found.items():
        y = np.asarray(y, np.float64).reshape(-1, y.shape[-1])
        np.testing.assert_allclose(y.mean(0) / 0.01, 0, atol=1e-3, err_msg=name)
        np.testing.assert_allclose(y.std(0, ddof=1) / 0.01, 1, atol=1e-3, err_msg=name)
    again = compiled(tiny())(variables, images(16), keys(16), train=True)
    np.testing.assert_allclose(again.outputs, forward.outputs, atol=1e-6)
    np.testing.assert_allclose(again.kl, forward.kl, atol=1e-5)


def test_directions_are_drawn_with_a_deviation_of_a_twentieth():
    params = quick_jit(WeightNormConv(60, 3).init)(jax.random.key(0), images())["params"]
    np.testing.assert_allclose(np.std(params["v"]), 0.05, rtol=0.05)
    np.testing.assert_allclose(np.mean(params["v"]), 0, atol=0.005)


@pytest.mark.parametrize("layer", [WeightNormConv(4, 3, 2), WeightNormDense(4)])
def test_a_spread_batch_initialises_as_the_whole_one(layer):
    x = images(16) if isinstance(layer, WeightNormConv) else images(16).reshape(16, -1)
    spread = jax.vmap(layer.clone(axis_name="batch").init, (None, 0), axis_name="batch")
    whole, parts = quick_jit(lambda key: (layer.init(key, x), spread(key, x.reshape(8, 2, *x.shape[1:]))))(
        jax.random.key(0)
    )
    for one, many in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(many, np.broadcast_to(one, many.shape), rtol=1e-4, atol=1e-6)


def test_the_kl_is_log_q_minus_log_p_of_the_draw():
    model, x = tiny(), images()

    @quick_jit
    def everything(variables):
        latents = model.apply(variables, x, keys(), method="inference_path")
        _, priors = model.apply(variables, [latent.z for latent in latents], method="generative_path")
        return latents, priors, model.apply(variables, x, keys()).kl

    latents, priors, kl = everything(variables_of(model))
    assert kl.shape == (6, 2)
    for layer, (q, p) in enumerate(zip(latents, priors, strict=True)):
        z, *moments = (np.asarray(value, np.float64) for value in (q.z, q.mean, q.log_var, p.mean, p.log_var))
        log_q, log_p = (
            scipy.stats.norm.logpdf(z, mean, np.exp(log_var / 2)).reshape(6, -1).sum(1)
            for mean, log_var in (moments[:2], moments[2:])
        )
        np.testing.assert_allclose(kl[:, layer], log_q - log_p, atol=1e-4, rtol=1e-5)
        assert (q.log_var >= 0).all()  # softplus: no standard deviation below 1
    assert not np.any(priors[-1].mean)
    assert not np.any(priors[-1].log_var)


def test_uint8_images_are_read_as_fractions():
    x = jnp.asarray(np.random.default_rng(3).integers(0, 256, (6, 8, 8, 2)), jnp.uint8)
    run = functools.partial(compiled(tiny()), variables_of(tiny()), train=False)
    one, other = run(x, keys()), run(x.astype(jnp.float32) / 255, keys())
    np.testing.assert_allclose(one.outputs, other.outputs, atol=1e-6)
    np.testing.assert_allclose(one.kl, other.kl, atol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_an_example_s_noise_and_dropout_depend_on_its_own_key_alone(train):
    x, run = images(), functools.partial(compiled(tiny()), variables_of(tiny()), train=train)
    whole = run(x, keys())
    order = np.array([4, 2, 0, 5, 1, 3])
    mixed = run(x[order].at[:3].set(0.5), keys()[order])
    np.testing.assert_allclose(mixed.outputs[3:], whole.outputs[order[3:]], atol=1e-5)
    np.testing.assert_allclose(mixed.kl[3:], whole.kl[order[3:]], atol=1e-4)
    assert np.abs(mixed.kl[:3] - whole.kl[order[:3]]).max() > 1e-2


def test_dropout_acts_in_training_alone():
    variables, x = variables_of(single()), images()
    without = compiled(single())(variables, x, keys(), train=False)
    assert np.abs(compiled(single())(variables, x, keys(), train=True).kl - without.kl).max() > 1e-3
    at_rate_0 = compiled(single(dropout=0.0))(variables, x, keys(), train=True)
    np.testing.assert_allclose(at_rate_0.kl, without.kl, atol=1e-4)


def training_loss(variables, model):
    outputs, kl = model.apply(variables, images(), keys(), train=True)
    return jnp.mean(jnp.square(outputs)) + jnp.mean(kl)


def test_every_parameter_has_a_gradient():
    gradients = quick_jit(jax.grad(training_loss), static_argnums=1)(variables_of(single()), single())
    assert all(np.isfinite(leaf).all() and np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_rematerialisation_recomputes_blocks_and_keeps_the_parameters():
    jaxprs = [
        str(jax.make_jaxpr(training_loss, static_argnums=1)(variables_of(single()), single(remat=on)))
        for on in (False, True)
    ]
    assert jaxprs[0].count("remat") == 0 < jaxprs[1].count("remat")
    shapes = [jax.tree.map(jnp.shape, abstract(tiny(remat=on))[0]) for on in (False, True)]
    assert shapes[0] == shapes[1]


def test_bfloat16_compute_gives_float32_results_near_float32_s():
    variables = variables_of(single())
    wide, narrow = (compiled(single(dtype=dtype))(variables, images(), keys()) for dtype in (None, jnp.bfloat16))
    assert narrow.outputs.dtype == narrow.kl.dtype == jnp.float32
    np.testing.assert_allclose(narrow.outputs, wide.outputs, atol=0.05)
    np.testing.assert_allclose(narrow.kl, wide.kl, atol=0.5)


def test_samples_depend_on_their_own_keys_and_the_temperature():
    generate = functools.partial(compiled(tiny()), variables_of(tiny()), method="generate", num=6)
    samples = generate(keys(), temperature=1.0)
    assert samples.shape == (6, 8, 8, 3)
    assert samples.dtype == jnp.float32
    np.testing.assert_allclose(generate(keys()[::-1], temperature=1.0), samples[::-1], atol=1e-5)
    cold = generate(keys(), temperature=0.0)
    np.testing.assert_allclose(cold, np.broadcast_to(cold[:1], cold.shape), atol=1e-6)
    cool = generate(keys(), temperature=0.5)
    assert 0 < np.std(cool - cold) < np.std(samples - cold)


def test_a_traced_choice_of_layers_equals_leaving_them_out():
    model, x, variables = tiny(), images(), variables_of(tiny())
    z = [latent.z for latent in compiled(model)(variables, x, keys(), method="inference_path")]
    traces = []

    @quick_jit
    def masked(from_prior):
        traces.append(from_prior)
        return model.apply(variables, z, keys(), 0.7, from_prior, method="generative_path")

    for chosen in ([True, False], [False, True]):
        kept = [None if drawn else latent for drawn, latent in zip(chosen, z, strict=True)]
        expected = compiled(model)(variables, kept, keys(), 0.7, method="generative_path")
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), masked(jnp.array(chosen)), expected)
    assert len(traces) == 1


def test_a_latent_traversal():
    steps = jnp.ones((5, 2)).at[:, 0].set(jnp.linspace(-3, 3, 5))
    down = functools.partial(compiled(tiny()), variables_of(tiny()), [None, steps], method="generative_path")
    (outputs, _), (again, _) = (down(jax.random.key(seed), 0.0) for seed in (0, 1))
    np.testing.assert_array_equal(again, outputs)  # temperature 0: the layers below take the means of their priors
    assert outputs.shape == (5, 8, 8, 3)
    assert all(np.abs(np.diff(outputs, axis=0)).reshape(4, -1).max(1) > 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (8, 6, 2)}, r"image_shape is \(8, 6, 2\); expected .* multiples of 4"),
        ({"image_shape": (8, 8)}, r"image_shape is \(8, 8\); expected \(height, width, channels\)"),
        ({"stages": ()}, r"stages is \(\); expected one StageSpec or more"),
        ({"stages": ((5, 3, 2, 3, 4),)}, r"stages is \(\(5, 3, 2, 3, 4\),\); expected one StageSpec"),
        ({"log_var": "exp"}, "log_var is 'exp'; expected one of softplus, tanh, none"),
        ({"dropout": 1.0}, r"dropout is 1.0; expected a rate in \[0, 1\)"),
        ({"num_blocks": 0}, "num_blocks is 0; expected a positive whole number"),
        ({"output_channels": 0}, "output_channels is 0; expected a positive whole number"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        abstract(tiny(**options))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ((0, 3, 2, 3, 4), "filters is 0; expected a positive whole number"),
        ((5, 3, 2, 2.5, 4), "latents is 2.5; expected a positive whole number"),
        ((5, 3, 2, 3, 0), "latent_kernel is 0; expected a positive whole number"),
        ((5, 2, 3, 3, 4), "kernel_size is 2; expected at least the stride, 3"),
    ],
)
def test_wrong_stages_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        StageSpec(*fields)


@pytest.mark.parametrize(
    ("method", "args", "message"),
    [
        (
            "__call__",
            (images(6, (8, 9, 2)), keys()),
            r"x has shape \(6, 8, 9, 2\); expected .* the model's image_shape",
        ),
        ("__call__", (images(), keys(4)), "key holds 4 keys; expected one, or 6"),
        ("generate", (keys(), 4), "key holds 6 keys; expected one, or 4"),
        ("generate", (keys(), 6, -0.5), "temperature is -0.5; expected a number from 0"),
        ("generative_path", ([None, None], jax.random.key(0)), "key is a single key; expected one for each example"),
        ("generative_path", ([None, jnp.zeros((3, 2))],), "key is None; expected one"),
        ("generative_path", ([None],), "z has 1 layers; expected 2"),
        ("generative_path", ([None, None], None, 1.0, np.ones(2, bool)), "key is None; expected one, as from_prior is"),
        (
            "generative_path",
            ([None, None], keys(3), 1.0, np.ones(1, bool)),
            r"from_prior has shape \(1,\); expected \(2,\)",
        ),
        ("generative_path", ([None, jnp.zeros((3, 4))], keys(3)), r"z\[1\] has shape \(3, 4\); expected \(3, 2\)"),
    ],
)
def test_wrong_arguments_are_refused(method, args, message):
    with pytest.raises(ValueError, match=message):
        tiny().apply({}, *args, method=method)
