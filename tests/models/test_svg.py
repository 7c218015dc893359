"""The video model against a plain, unrolled float64 computation; its layers are in `test_svg_layers`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from test_svg_layers import (
    moved,
    plain,
    plain_dcgan_decoder,
    plain_dcgan_encoder,
    plain_dense,
    plain_lstm_cell,
    sigmoid,
)

import calibrax as cx
from calibrax.models import SVG
from calibrax.objectives import beta_to_sigma

# Half the time: what is compiled here runs once.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
BATCH, BETA = 3, 1e-2


def tiny(**options):
    sizes = {"g_dim": 5, "z_dim": 3, "rnn_size": 6, "features": 2}
    return SVG((64, 64, 2), 2, **{"backbone": "dcgan", **sizes, **options})


def videos(batch=BATCH, frames=4):
    return np.random.default_rng(3).uniform(size=(batch, frames, 64, 64, 2))


def single(array):
    return jnp.asarray(array, jnp.float32)


def keys(batch=BATCH):
    return jax.random.split(jax.random.key(5), batch)


@functools.cache
def variables_of(model=None):
    model = model or tiny()
    variables = quick_jit(model.init)(jax.random.key(0), single(videos()), keys())
    return {**variables, "params": moved(variables["params"])}


def params_of(model=None):
    return {"params": variables_of(model)["params"]}


@functools.cache
def compiled(model):
    return quick_jit(model.apply, static_argnames=("train", "n_past", "method", "num_frames", "to_image", "mutable"))


def predict(num_frames, x_past, noise_keys=None, temperature=1.0, model=None, variables=None):
    return compiled(model or tiny())(
        variables or params_of(),
        x_past,
        keys(len(x_past)) if noise_keys is None else noise_keys,
        num_frames=num_frames,
        to_image=jax.nn.sigmoid,
        temperature=temperature,
        method="predict",
    )


def loss_of(forward, x):
    """What the original minimises, with sums over steps: mean squared error + β KL."""
    error = jnp.square(jax.nn.sigmoid(forward.outputs) - x[:, 1:])
    return jnp.sum(jnp.mean(error, axis=(0, 2, 3, 4))) + BETA * jnp.mean(forward.kl)


class Plain:
    """The original's loops in NumPy: `train` and `plot` of `train_svg_lp.py`, for the two-layer predictor."""

    def __init__(self, params, batch=BATCH, size=6):
        self.p = plain(params)
        self.states = {name: [(np.zeros((batch, size)),) * 2 for _ in range(2)] for name in self.p["dynamics"]}

    def encode(self, x):
        return plain_dcgan_encoder(self.p["encoder"], x)

    def decode(self, h, skips):
        return plain_dcgan_decoder(self.p["decoder"], h, skips)

    def lstm(self, name, x):
        p = self.p["dynamics"][name]["lstm"]
        h = plain_dense(p["embed"], x)
        for layer in range(len(p) - 1):
            self.states[name][layer] = plain_lstm_cell(p[f"cell_{layer}"], *self.states[name][layer], h)
            h = self.states[name][layer][0]
        return h

    def gaussian(self, name, x):
        h = self.lstm(name, x)
        return [plain_dense(self.p["dynamics"][name][head], h) for head in ("mean", "log_var")]

    def predictor(self, h, z):
        p = self.p["dynamics"]["predictor"]["code"]
        return np.tanh(plain_dense(p, self.lstm("predictor", np.concatenate([h, z], -1))))

    def train(self, x, noise, n_past):
        """x and noise have time first. The loss, outputs and KL of every step."""
        squared_error, kl, outputs = 0.0, [], []
        for i in range(1, len(x)):
            h, skip_now = self.encode(x[i - 1])
            target, _ = self.encode(x[i])
            if i < n_past:
                skip = skip_now
            mean, log_var = self.gaussian("posterior", target)
            prior_mean, prior_log_var = self.gaussian("prior", h)
            z = mean + np.exp(log_var / 2) * noise[i - 1]
            outputs.append(self.decode(self.predictor(h, z), skip))
            squared_error += np.mean((sigmoid(outputs[-1]) - x[i]) ** 2)
            ratio = (np.exp(log_var) + (mean - prior_mean) ** 2) / (2 * np.exp(prior_log_var))
            kl.append(np.sum((prior_log_var - log_var) / 2 + ratio - 0.5, axis=-1))
        return squared_error + BETA * np.sum(kl) / len(kl[0]), outputs, kl

    def predict(self, x_past, noise, temperature):
        outputs, x_in = [], x_past[0]
        for i in range(1, len(noise) + 1):
            h, skip_now = self.encode(x_in)
            if i < len(x_past) or i == 1:
                skip = skip_now
            prior_mean, prior_log_var = self.gaussian("prior", h)
            if i < len(x_past):
                mean, log_var = self.gaussian("posterior", self.encode(x_past[i])[0])
                self.predictor(h, mean + np.exp(log_var / 2) * noise[i - 1])
                x_in = x_past[i]
            else:
                z = prior_mean + temperature * np.exp(prior_log_var / 2) * noise[i - 1]
                outputs.append(self.decode(self.predictor(h, z), skip))
                x_in = sigmoid(outputs[-1])
        return outputs


def noise_of(noise_keys, steps):
    """[steps, B, z_dim]: the key of the example with the number of the step folded in."""
    draw = [
        [jax.random.normal(jax.random.fold_in(key, step), (3,), jnp.float32) for key in noise_keys]
        for step in range(1, steps + 1)
    ]
    return np.asarray(draw, np.float64)


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


@pytest.mark.parametrize("n_past", [1, 2, 3, 9])
def test_a_training_step_is_the_plain_loop(n_past, x64):
    model, x = tiny(dtype=jnp.float64), videos()
    forward = compiled(model)(params_of(), jnp.asarray(x), keys(), train=True, n_past=n_past)
    frames = x.swapaxes(0, 1)
    loss, outputs, kl = Plain(params_of()["params"]).train(frames, noise_of(keys(), 3), max(n_past, 2))
    np.testing.assert_allclose(loss_of(forward, x), loss, rtol=1e-8)
    np.testing.assert_allclose(forward.outputs.swapaxes(0, 1), outputs, atol=1e-6)
    np.testing.assert_allclose(forward.kl, np.sum(kl, axis=0), rtol=1e-6)
    assert np.mean(forward.kl) > 0.1  # counts in the loss


def test_a_training_step_in_single_precision_is_the_plain_loop_in_double():
    x = single(videos())
    forward = compiled(tiny())(params_of(), x, keys(), train=True)
    loss, *_ = Plain(params_of()["params"]).train(np.float64(x).swapaxes(0, 1), noise_of(keys(), 3), 2)
    np.testing.assert_allclose(loss_of(forward, x), loss, rtol=1e-6)


def test_the_original_s_loss_is_a_gaussian_s_bound():
    """σ² = βD/2: the loss over β is -ELBO up to the Gaussian's constant."""
    x, size = single(videos()), 64 * 64 * 2
    forward = compiled(tiny())(params_of(), x, keys(), train=True)
    variance = BETA * size / 2
    likelihood = cx.gaussian(float(beta_to_sigma(BETA * size)))
    params, state = likelihood.init(tiny().target(x).shape[1:])
    nll, _ = likelihood.nll(params, state, forward.outputs, tiny().target(x))
    constant = 3 * size / 2 * np.log(2 * np.pi * variance)
    np.testing.assert_allclose(jnp.mean(nll + forward.kl), loss_of(forward, x) / BETA + constant, rtol=1e-5)


@pytest.mark.parametrize("axis", [None, (0, 2, 3, 4)])
def test_the_likelihood_scores_frames_after_the_first(axis):
    x, likelihood = np.uint8(255 * videos()), cx.optimal_sigma(axis=axis)
    forward = compiled(tiny())(params_of(), x, keys(), train=True)
    np.testing.assert_array_equal(tiny().target(x), x[:, 1:])
    params, state = likelihood.init(tiny().target(x).shape[1:])
    nll, stats = likelihood.nll(params, state, forward.outputs, tiny().target(x))
    assert nll.shape == (BATCH,)
    assert stats["log_sigma"].shape == (() if axis is None else (3,))  # one for each of T - 1 frames


@pytest.mark.parametrize(("n_past", "temperature"), [(1, 1.0), (2, 1.0), (3, 0.5)])
def test_prediction_is_the_plain_loop(n_past, temperature, x64):
    x = videos()[:, :n_past]
    outputs = predict(3, jnp.asarray(x), temperature=temperature, model=tiny(dtype=jnp.float64))
    assert outputs.shape == (BATCH, 3, 64, 64, 2)
    noise = noise_of(keys(), n_past + 2)
    expected = Plain(params_of()["params"]).predict(x.swapaxes(0, 1), noise, temperature)
    np.testing.assert_allclose(outputs.swapaxes(0, 1), expected, atol=1e-6)


def test_more_frames_go_on_where_fewer_end():
    x = single(videos()[:, :2])
    longer = predict(4, x)
    np.testing.assert_allclose(predict(2, x), longer[:, :2], atol=1e-5)
    other = predict(4, x, noise_keys=jax.random.split(jax.random.key(9), BATCH))
    assert np.abs(other - longer).max() > 1e-3
    cold = [predict(4, x, noise_keys=jax.random.key(seed), temperature=0.0) for seed in (0, 1)]
    assert np.abs(cold[0] - cold[1]).max() > 1e-6  # the posterior's draw of the conditioning step stays


def test_bytes_are_read_as_fractions_of_255():
    x = np.random.default_rng(3).integers(0, 256, (BATCH, 4, 64, 64, 2), np.uint8)
    run = functools.partial(compiled(tiny()), params_of())
    for one, other in zip(run(x, keys()), run(single(x / 255), keys()), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_allclose(predict(2, x[:, :2]), predict(2, single(x[:, :2] / 255)), atol=1e-4)


def test_noise_belongs_to_the_example():
    x = single(videos())
    run = functools.partial(compiled(tiny()), params_of())
    forward, backwards = run(x, keys()), run(x[::-1], keys()[::-1])
    np.testing.assert_allclose(backwards.outputs[::-1], forward.outputs, atol=1e-4)
    np.testing.assert_allclose(backwards.kl[::-1], forward.kl, rtol=1e-4)
    one_key = run(x, jax.random.key(5))
    np.testing.assert_allclose(one_key.kl, forward.kl, rtol=1e-5)


def test_running_averages_take_every_frame_once():
    x = single(videos())
    _, new = compiled(tiny())(variables_of(), x, keys(), train=True, mutable=("batch_stats",))
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
    together = compiled(model)(variables_of(), x, keys())
    alone = compiled(model)(variables_of(), x[:1], keys()[:1])
    np.testing.assert_allclose(alone.outputs, together.outputs[:1], atol=1e-5)
    np.testing.assert_allclose(alone.kl, together.kl[:1], rtol=1e-5)
    options = {"model": model, "variables": variables_of()}
    several = predict(2, x[:, :2], **options)
    np.testing.assert_allclose(predict(2, x[:1, :2], keys()[:1], **options), several[:1], atol=1e-5)
    # In training the batch counts, as it does at test without the setting.
    trained, plain_test = compiled(model)(params_of(), x, keys(), train=True), compiled(tiny())(params_of(), x, keys())
    np.testing.assert_allclose(trained.outputs, plain_test.outputs, atol=1e-5)
    assert np.abs(trained.outputs - together.outputs).max() > 1e-2


@pytest.mark.parametrize("task", ["gradient", "recomputed gradient", "prediction"])
def test_the_program_does_not_grow_with_time(task):
    model, params = tiny(remat="recomputed" in task), params_of()

    def loss(params, x):
        return loss_of(model.apply(params, x, keys(), train=True), x)

    def lowered_size(frames):
        x = jax.ShapeDtypeStruct((BATCH, frames, 64, 64, 2), jnp.float32)
        if "gradient" in task:
            lowered = jax.jit(jax.grad(loss)).lower(params, x)
        else:
            lowered = compiled(tiny()).lower(
                params, x, keys(), num_frames=frames, to_image=jax.nn.sigmoid, method="predict"
            )
        return len(lowered.as_text())

    assert lowered_size(30) < 1.1 * lowered_size(6)


def test_a_scan_is_the_loop_that_shows_its_insides():
    x, seen = single(videos(frames=3)), []

    def watch(call, args, kwargs, context):
        seen.append("/".join(context.module.path))
        return call(*args, **kwargs)

    @quick_jit
    def both(variables):
        apply = functools.partial(SVG.apply, variables=variables, x=x, key=keys(), train=True, mutable=["batch_stats"])
        scanned = apply(tiny())
        with nn.intercept_methods(watch):
            return scanned, apply(tiny(unroll=True, remat=True))

    scanned, unrolled = both(variables_of())
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), scanned, unrolled)
    assert {"encoder/layer_0/conv", "dynamics/prior/lstm/cell_0", "decoder/outputs"} <= set(seen)


@functools.cache
def value_and_grads(model):
    def loss(params, x):
        return loss_of(model.apply(params, x, keys(), train=True), x)

    return quick_jit(jax.value_and_grad(loss))(params_of(), single(videos()))


def test_recomputation_changes_nothing():
    (value, grads), (again, grads_again) = value_and_grads(tiny()), value_and_grads(tiny(remat=True))
    np.testing.assert_allclose(again, value, rtol=1e-6)
    scale = optax.tree.norm(grads)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-4 * scale), grads, grads_again)


def test_every_parameter_has_a_gradient():
    _, grads = value_and_grads(tiny())
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        names = [entry.key for entry in path]
        before_norm = names[-2:] == ["conv", "bias"]  # the mean is subtracted again
        assert np.all(np.isfinite(leaf)), names
        assert before_norm or np.abs(leaf).max() > 1e-7, names


def test_half_precision_stays_close():
    x, model = single(videos()), tiny(dtype=jnp.bfloat16)
    narrow, wide = (compiled(m)(params_of(), x, keys(), train=True) for m in (model, tiny()))
    assert [leaf.dtype for leaf in narrow] == [jnp.float32, jnp.float32]
    assert np.corrcoef(np.ravel(narrow.outputs), np.ravel(wide.outputs))[0, 1] > 0.99
    np.testing.assert_allclose(narrow.kl, wide.kl, rtol=0.2)
    outputs = predict(2, x[:, :2], model=model)
    assert outputs.dtype == jnp.float32
    assert np.all(np.isfinite(outputs))


def test_eight_devices_train_as_one():
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

    grad = quick_jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    (value, new), grads = grad(params, tiny(), x, noise_keys)
    assert jax.device_count() == 8
    spread = x.reshape(8, 2, *x.shape[1:]), noise_keys.reshape(8, 2)
    many = jax.pmap(on_a_device, "batch", in_axes=(None, 0, 0))(params, *spread)
    scale = float(optax.tree.norm(grads))
    for part, expected, atol in zip(many, (value, new, grads), (0, 1e-5, 1e-4 * scale), strict=True):
        for one, devices in zip(jax.tree.leaves(expected), jax.tree.leaves(part), strict=True):
            np.testing.assert_allclose(devices, np.broadcast_to(one, devices.shape), rtol=1e-4, atol=atol)


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


def test_an_adam_for_each_part_is_one_adam():
    """The original has five; Adam treats every weight alone."""
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
