"""SVG in plain float64 NumPy, from its layers to training and prediction, beside a tiny SVG to compare it with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from plain import conv, conv_transpose

from calibrax.models import SVG


def plain_conv(p, x, stride=1, padding=0):
    return conv(x, p["kernel"], stride, padding) + p["bias"]


def plain_conv_transpose(p, x, stride=1, padding=0):
    return conv_transpose(x, p["kernel"], stride, padding) + p["bias"]


def plain_batch_norm(p, x):
    """PyTorch's BatchNorm2d in training mode: the biased variance."""
    mean = x.mean((0, 1, 2))
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean((0, 1, 2)) + 1e-5) * p["scale"] + p["bias"]


def leaky(x):
    return np.where(x > 0, x, 0.2 * x)


def plain_block(p, x, conv=plain_conv, activation=leaky, **geometry):
    return activation(plain_batch_norm(p["norm"], conv(p["conv"], x, **geometry)))


def plain_dense(p, x):
    return x @ p["kernel"] + p["bias"]


def plain_dcgan_encoder(p, x):
    skips = []
    for layer in range(4):
        x = plain_block(p[f"layer_{layer}"], x, stride=2, padding=1)
        skips.append(x)
    return plain_block(p["code"], x, activation=np.tanh)[:, 0, 0], skips


def plain_dcgan_decoder(p, code, skips):
    x = plain_block(p["code"], code[:, None, None], plain_conv_transpose)
    for layer in range(3):
        x = np.concatenate([x, skips[3 - layer]], -1)
        x = plain_block(p[f"layer_{layer}"], x, plain_conv_transpose, stride=2, padding=1)
    return plain_conv_transpose(p["outputs"], np.concatenate([x, skips[0]], -1), stride=2, padding=1)


def plain_vgg_encoder(p, x):
    h1 = layers(p, layers(p, x, "group_0_0"), "group_0_1")
    h2 = layers(p, halved(h1), "group_1_0", "group_1_1")
    h3 = layers(p, halved(h2), "group_2_0", "group_2_1", "group_2_2")
    h4 = layers(p, halved(h3), "group_3_0", "group_3_1", "group_3_2")
    return plain_block(p["code"], halved(h4), activation=np.tanh)[:, 0, 0], [h1, h2, h3, h4]


def plain_vgg_decoder(p, code, skips):
    d1 = plain_block(p["code"], code[:, None, None], plain_conv_transpose)
    d2 = layers(p, np.concatenate([doubled(d1), skips[3]], -1), "group_0_0", "group_0_1", "group_0_2")
    d3 = layers(p, np.concatenate([doubled(d2), skips[2]], -1), "group_1_0", "group_1_1", "group_1_2")
    d4 = layers(p, np.concatenate([doubled(d3), skips[1]], -1), "group_2_0", "group_2_1")
    d5 = layers(p, np.concatenate([doubled(d4), skips[0]], -1), "group_3_0")
    return plain_conv_transpose(p["outputs"], d5, padding=1)


def layers(p, x, *names):
    for name in names:
        x = plain_block(p[name], x, padding=1)
    return x


def halved(x):
    return np.max([x[:, a::2, b::2] for a in (0, 1) for b in (0, 1)], axis=0)


def doubled(x):
    return x.repeat(2, axis=1).repeat(2, axis=2)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def plain_lstm_cell(p, h, c, x):
    """The formula of PyTorch's LSTMCell."""
    gates = x @ p["kernel_ih"] + p["bias_ih"] + h @ p["kernel_hh"] + p["bias_hh"]
    i, f, g, o = np.split(gates, 4, axis=-1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def plain(tree):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def moved(params, seed=0):
    """Parameters away from their initial values, so that biases and scales show."""
    leaves, treedef = jax.tree.flatten(params)
    rng = np.random.default_rng(seed)
    return treedef.unflatten([leaf + jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype) for leaf in leaves])


def normal(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


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
    """Variables of the model's shapes by NumPy: of order one, so that every connection shows, and without compiling."""
    shapes = jax.eval_shape((model or tiny()).init, jax.random.key(0), single(videos()), keys())
    variables = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full(leaf.shape, float(path[-1].key in ("scale", "var")), leaf.dtype), shapes
    )
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
    """The original's loss: mean squared error + β KL, summed over the steps."""
    error = jnp.square(jax.nn.sigmoid(forward.outputs) - x[:, 1:])
    return jnp.sum(jnp.mean(error, axis=(0, 2, 3, 4))) + BETA * jnp.mean(forward.kl)


class PlainSVG:
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
