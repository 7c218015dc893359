"""The video model against a plain, unrolled float64 computation; `test_svg_layers` checks its layers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from plain_svg import (
    BATCH,
    BETA,
    PlainSVG,
    compiled,
    keys,
    loss_of,
    noise_of,
    params_of,
    plain,
    predict,
    quick_jit,
    single,
    tiny,
    variables_of,
    videos,
)

import calibrax as cx
from calibrax.models import SVG
from calibrax.objectives import beta_to_sigma


@functools.cache
def forward():
    """The forward pass in training, which several tests look at, and the averages after it."""
    return compiled(tiny())(variables_of(), single(videos()), keys(), train=True, mutable=("batch_stats",))


@pytest.mark.parametrize(
    ("backbone", "total", "encoder", "decoder"),
    [("vgg", 22_831_747, 8_689_600, 11_822_659), ("dcgan", 12_689_539, 3_807_424, 6_562_627)],
)
def test_parameter_counts_are_the_original_s(backbone, total, encoder, decoder):
    model, x = SVG((64, 64, 3), 3, backbone), jax.ShapeDtypeStruct((2, 12, 64, 64, 3), jnp.uint8)
    params = jax.eval_shape(model.init, jax.random.key(0), x, jax.random.key(0))["params"]

    def count(tree):
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    assert count(params) == total
    assert count(params["encoder"]) == encoder
    assert count(params["decoder"]) == decoder
    dynamics = {"predictor": 1_134_976, "posterior": 592_256, "prior": 592_256}
    assert {name: count(part) for name, part in params["dynamics"].items()} == dynamics
    forward = jax.eval_shape(functools.partial(model.apply, train=True), {"params": params}, x, jax.random.key(0))
    assert [leaf.shape for leaf in forward] == [(2, 11, 64, 64, 3), (2,)]
    assert model.latent_shapes == ((64,),)


@pytest.mark.parametrize("n_past", [3])  # more in robustness
def test_a_training_step_is_the_plain_loop(n_past, x64):
    model, x = tiny(dtype=jnp.float64), videos()
    forward = compiled(model)(params_of(), jnp.asarray(x), keys(), train=True, n_past=n_past)
    frames = x.swapaxes(0, 1)
    loss, outputs, kl = PlainSVG(params_of()["params"]).train(frames, noise_of(keys(), 3), max(n_past, 2))
    np.testing.assert_allclose(loss_of(forward, x), loss, rtol=1e-8)
    np.testing.assert_allclose(forward.outputs.swapaxes(0, 1), outputs, atol=1e-6)
    np.testing.assert_allclose(forward.kl, np.sum(kl, axis=0), rtol=1e-6)
    assert np.mean(forward.kl) > 0.1  # counts in the loss


def test_a_training_step_in_single_precision_is_the_plain_loop_in_double():
    x = single(videos())
    loss, *_ = PlainSVG(params_of()["params"]).train(np.float64(x).swapaxes(0, 1), noise_of(keys(), 3), 2)
    np.testing.assert_allclose(loss_of(forward()[0], x), loss, rtol=1e-6)


def test_the_original_s_loss_is_a_gaussian_s_bound():
    """σ² = βD/2: the loss over β is -ELBO up to the Gaussian's constant."""
    x, size = single(videos()), 64 * 64 * 2
    variance = BETA * size / 2
    likelihood = cx.gaussian(float(beta_to_sigma(BETA * size)))
    params, state = likelihood.init(tiny().target(x).shape[1:])
    nll, _ = likelihood.nll(params, state, forward()[0].outputs, tiny().target(x))
    constant = 3 * size / 2 * np.log(2 * np.pi * variance)
    np.testing.assert_allclose(jnp.mean(nll + forward()[0].kl), loss_of(forward()[0], x) / BETA + constant, rtol=1e-5)


@pytest.mark.parametrize("axis", [None, (0, 2, 3, 4)])
def test_the_likelihood_scores_frames_after_the_first(axis):
    x, likelihood = np.uint8(255 * videos()), cx.optimal_sigma(axis=axis)
    np.testing.assert_array_equal(tiny().target(x), x[:, 1:])
    params, state = likelihood.init(tiny().target(x).shape[1:])
    nll, stats = jax.eval_shape(likelihood.nll, params, state, forward()[0].outputs, tiny().target(x))
    assert nll.shape == (BATCH,)
    assert stats["log_sigma"].shape == (() if axis is None else (3,))  # one for each of T - 1 frames


@pytest.mark.parametrize(("n_past", "temperature"), [(3, 0.5)])  # more in robustness
def test_prediction_is_the_plain_loop(n_past, temperature, x64):
    x = videos()[:, :n_past]
    outputs = predict(3, jnp.asarray(x), temperature=temperature, model=tiny(dtype=jnp.float64))
    assert outputs.shape == (BATCH, 3, 64, 64, 2)
    noise = noise_of(keys(), n_past + 2)
    expected = PlainSVG(params_of()["params"]).predict(x.swapaxes(0, 1), noise, temperature)
    np.testing.assert_allclose(outputs.swapaxes(0, 1), expected, atol=1e-6)


def test_more_frames_go_on_where_fewer_end():
    x = single(videos()[:, :2])
    longer = predict(4, x)
    np.testing.assert_allclose(predict(2, x), longer[:, :2], atol=1e-5)
    other = jax.random.split(jax.random.key(9), BATCH)
    assert np.abs(predict(4, x, other) - longer).max() > 1e-3
    cold = [predict(4, x, noise_keys, temperature=0.0) for noise_keys in (keys(), other)]
    assert np.abs(cold[0] - cold[1]).max() > 1e-6  # the posterior's draw of the conditioning step stays


def test_bytes_are_read_as_fractions_of_255():
    x = np.random.default_rng(3).integers(0, 256, (BATCH, 2, 64, 64, 2), np.uint8)
    np.testing.assert_allclose(predict(2, x), predict(2, single(x / 255)), atol=1e-4)


def test_noise_belongs_to_the_example():
    x = single(videos())
    backwards, _ = compiled(tiny())(variables_of(), x[::-1], keys()[::-1], train=True, mutable=("batch_stats",))
    np.testing.assert_allclose(backwards.outputs[::-1], forward()[0].outputs, atol=1e-4)
    np.testing.assert_allclose(backwards.kl[::-1], forward()[0].kl, rtol=1e-4)


def test_running_averages_take_every_frame_once():
    x = single(videos())
    _, new = forward()
    p = plain(params_of()["params"])["encoder"]["layer_0"]["conv"]
    mean, variance = np.zeros(2), np.ones(2)
    for frame in np.float64(x).swapaxes(0, 1):
        padded = np.pad(frame, [(0, 0), (1, 1), (1, 1), (0, 0)])
        taps = [padded[:, a : a + 64 : 2, b : b + 64 : 2] @ p["kernel"][a, b] for a in range(4) for b in range(4)]
        y = (sum(taps) + p["bias"]).reshape(-1, 2)
        mean, variance = 0.9 * mean + 0.1 * y.mean(0), 0.9 * variance + 0.1 * y.var(0, ddof=1)
    averages = new["batch_stats"]["encoder"]["layer_0"]["norm"]
    np.testing.assert_allclose(averages["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(averages["var"], variance, rtol=1e-5)
    for average in jax.tree.leaves(new["batch_stats"]):
        assert not np.any(np.isin(average, (0.0, 1.0)))  # none is left at its initial value


def test_with_running_averages_an_example_stands_alone():
    model, x = tiny(running_average_at_test=True), single(videos())
    others = x.at[1:].set(x[1:] / 2)

    @quick_jit
    def run(x):
        past = functools.partial(model.apply, x_past=x[:, :2], key=keys(), num_frames=2, to_image=jax.nn.sigmoid)
        return model.apply(variables_of(), x, keys()), past(variables_of(), method="predict")

    for one, other in zip(jax.tree.leaves(run(x)), jax.tree.leaves(run(others)), strict=True):
        np.testing.assert_allclose(other[:1], one[:1], atol=1e-5)
        assert np.abs(other[1:] - one[1:]).max() > 1e-3


@pytest.mark.parametrize("setting", [False, True])
def test_running_averages_are_used_at_test_if_asked_for(setting):
    """In training the batch counts in either case."""
    model, x = tiny(running_average_at_test=setting), single(videos(frames=2))
    programs = [
        str(jax.make_jaxpr(functools.partial(m.apply, train=train))(variables_of(), x, keys()))
        for m, train in ((model, True), (model, False), (tiny(), True))
    ]
    assert programs[0] == programs[2]
    assert (programs[1] == programs[0]) != setting


@pytest.mark.parametrize("task", ["gradient", "prediction"])
def test_the_program_does_not_grow_with_time(task):
    params = params_of()

    def loss(params, x):
        return loss_of(tiny().apply(params, x, keys(), train=True), x)

    def future(params, x):
        return tiny().apply(params, x, keys(), x.shape[1], jax.nn.sigmoid, method="predict")

    def size(frames):
        x = jax.ShapeDtypeStruct((BATCH, frames, 64, 64, 2), jnp.float32)
        return len(str(jax.make_jaxpr(jax.grad(loss) if task == "gradient" else future)(params, x)))

    assert size(30) < 1.1 * size(6)


def test_a_scan_is_the_loop_that_shows_its_insides():
    seen = []

    def watch(call, args, kwargs, context):
        seen.append("/".join(context.module.path))
        return call(*args, **kwargs)

    @quick_jit
    def unrolled(variables):
        model = tiny(unroll=True, remat=True)
        with nn.intercept_methods(watch):
            return model.apply(variables, single(videos()), keys(), train=True, mutable=["batch_stats"])

    tree = unrolled(variables_of())
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), tree, forward())
    assert {"encoder/layer_0/conv", "dynamics/prior/lstm/cell_0", "decoder/outputs"} <= set(seen)


def test_every_parameter_has_a_gradient():
    x = single(videos(frames=3))
    grads = quick_jit(jax.grad(lambda params: loss_of(tiny().apply(params, x, keys(), train=True), x)))(params_of())
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        names = [entry.key for entry in path]
        before_norm = names[-2:] == ["conv", "bias"]  # the batch norm subtracts it again
        assert np.all(np.isfinite(leaf)), names
        assert before_norm or np.abs(leaf).max() > 1e-7, names


def test_half_precision_stays_close():
    model = tiny(dtype=jnp.bfloat16)
    narrow, wide = compiled(model)(params_of(), single(videos()), keys(), train=True), forward()[0]
    assert [leaf.dtype for leaf in narrow] == [jnp.float32, jnp.float32]
    assert np.corrcoef(np.ravel(narrow.outputs), np.ravel(wide.outputs))[0, 1] > 0.99
    np.testing.assert_allclose(narrow.kl, wide.kl, rtol=0.2)
    future = functools.partial(model.apply, num_frames=2, to_image=jax.nn.sigmoid, method="predict")
    assert jax.eval_shape(future, params_of(), single(videos(frames=2)), keys()).dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_shape": (32, 32, 2)}, r"image_shape is \(32, 32, 2\); expected \(64, 64, channels\)"),
        ({"image_shape": (64, 64)}, r"image_shape is \(64, 64\); expected \(64, 64, channels\)"),
        ({"backbone": "resnet"}, "backbone is 'resnet'; expected one of vgg, dcgan"),
        ({"output_channels": 0}, "output_channels is 0; expected a positive whole number"),
        ({"rnn_size": 2.5}, "rnn_size is 2.5; expected a positive whole number"),
        ({"prior_layers": 0}, "prior_layers is 0; expected a positive whole number"),
        ({"n_past": 0}, "n_past is 0; expected a positive whole number"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny().clone(**options).init, jax.random.key(0), single(videos()), keys())


FORWARD = {"x": np.zeros((3, 4, 64, 64, 2), np.float32), "key": jax.random.split(jax.random.key(0), 3)}
PREDICT = {"x_past": FORWARD["x"][:, :2], "key": FORWARD["key"], "num_frames": 2, "to_image": jax.nn.sigmoid}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({**FORWARD, "x": np.zeros((3, 64, 64, 2))}, r"x has shape \(3, 64, 64, 2\); expected \(B, T, 64, 64, 2\)"),
        ({**FORWARD, "x": FORWARD["x"][:, :1]}, r"x has shape \(3, 1, 64, 64, 2\); expected .* with T 2 or more"),
        ({**FORWARD, "x": FORWARD["x"][..., :1]}, r"x has shape \(3, 4, 64, 64, 1\); expected"),
        ({**FORWARD, "key": FORWARD["key"][:2]}, "key holds 2 keys; expected one, or 3"),
        ({**FORWARD, "n_past": 0}, "n_past is 0; expected a positive whole number"),
        ({**FORWARD, "x": FORWARD["x"][:1], "key": FORWARD["key"][0]}, "expected several values of a channel"),
        ({**PREDICT, "x_past": FORWARD["x"][:, :0]}, r"x_past has shape \(3, 0, 64, 64, 2\); .* with T 1 or more"),
        ({**PREDICT, "num_frames": 0}, "num_frames is 0; expected a positive whole number"),
        ({**PREDICT, "temperature": -1.0}, "temperature is -1.0; expected a number from 0"),
        ({**PREDICT, "to_image": lambda outputs: outputs[..., :1]}, r"to_image gives shape \(3, 64, 64, 1\); expected"),
    ],
)
def test_wrong_arguments_are_refused(args, message):
    method = "predict" if "x_past" in args else "__call__"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda params: tiny().apply(params, **args, method=method), params_of())
