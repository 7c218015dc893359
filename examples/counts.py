"""A VAE of counts: four decoders on scikit-learn's digits, images of 8×8 counts from 0 to 16, in bits per pixel.

Command:   make counts                (or: python -m examples.counts --help)
Device:    one CPU; about 3 minutes on two cores.
Prints:    for each decoder the bits per pixel of held-out images: by the ELBO and by a tighter bound of 64 samples.
Writes:    table.md, table.csv, provenance.json and samples.png into runs/counts or the folder given by --out.

A pixel is how many of 4×4 black-and-white pixels were on. `binomial(16)` and `poisson` see it as a count,
`categorical(17)` as one of 17 levels. For `optimal_sigma` it is a brightness in [0, 1]; its density is trained, and in
the table it is integrated over the bin of each level, which gives a probability that compares with those of the others.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.scipy.special import log_ndtr

import calibrax as cx
from calibrax import cli
from calibrax.objectives import bits_per_dim, elbo, gaussian_kl, importance_bound

TOTAL = 16  # the largest count
SHAPE = (8, 8, 1)
LATENTS, HIDDEN, BATCH = 8, 256, 128


class Decoder(NamedTuple):
    """A likelihood, and what it sees for a count: itself, or a brightness in [0, 1]."""

    likelihood: cx.Likelihood
    scale: int  # x = count / scale


DECODERS = {
    "binomial(16)": Decoder(cx.binomial(TOTAL), 1),
    "poisson": Decoder(cx.poisson(), 1),
    "categorical(17)": Decoder(cx.categorical(TOTAL + 1), TOTAL),
    "optimal_sigma": Decoder(cx.optimal_sigma(), TOTAL),
}


def load(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Training, validation and test images [N, 8, 8, 1], of counts from 0 to 16."""
    from sklearn.datasets import load_digits

    images = load_digits().images[..., None].astype(np.float32)
    train, validation, test = np.split(images[np.random.default_rng(seed).permutation(len(images))], [1200, 1400])
    return jnp.asarray(train), jnp.asarray(validation), jnp.asarray(test)


class VAE(nn.Module):
    """A small dense VAE whose decoder emits the outputs of the likelihood."""

    channels: int

    def setup(self):
        self.encoder = nn.Sequential([nn.Dense(HIDDEN), nn.silu, nn.Dense(HIDDEN), nn.silu, nn.Dense(2 * LATENTS)])
        self.decoder = nn.Sequential(
            [nn.Dense(HIDDEN), nn.silu, nn.Dense(HIDDEN), nn.silu, nn.Dense(64 * self.channels)]
        )

    def encode(self, counts):
        """The posterior's mean and log variance, [B, latents]."""
        return jnp.split(self.encoder(counts.reshape(len(counts), -1) / TOTAL), 2, axis=-1)

    def decode(self, z):
        return self.decoder(z).reshape(len(z), 8, 8, self.channels)

    def __call__(self, counts, key):
        mean, log_var = self.encode(counts)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        return self.decode(z), z, mean, log_var


def gaussian_level_nll(x: jax.Array, mean: jax.Array, sigma: jax.Array) -> jax.Array:
    """-log P in nats, [B], of levels x = i / 16: N(mean, σ²) integrated over i ± 1/2, the outer two bins being open."""
    center, half = -jnp.abs(x - mean) / sigma, 0.5 / TOTAL / sigma  # mirrored below the mean, where log_ndtr is exact
    upper = log_ndtr(center + half)
    lower = jnp.where((x == 0) | (x == 1), -jnp.inf, log_ndtr(center - half))  # the mean is in [0, 1]
    return -jnp.sum(upper + jnp.log1p(-jnp.exp(lower - upper)), axis=(1, 2, 3))


def level_nll(decoder: Decoder, state: Any, outputs: jax.Array, counts: jax.Array) -> jax.Array:
    """-log P of the counts in nats, [B], at test time."""
    likelihood, x = decoder.likelihood, counts / decoder.scale
    if likelihood.marginal.is_discrete:
        return likelihood.nll({}, state, outputs, x, train=False)[0]
    assert likelihood.marginal.variance is not None
    sigma = jnp.sqrt(likelihood.marginal.variance({}, state, outputs))
    return gaussian_level_nll(x, likelihood.mean({}, state, outputs), sigma)


class Fit(NamedTuple):
    """What training leaves: the network's variables and the likelihood's state."""

    variables: Any
    state: Any


def fit(decoder: Decoder, train: jax.Array, validation: jax.Array, key: jax.Array, steps: int) -> Fit:
    """Train with the loss nll + KL; the checkpoint of every 100 steps with the lowest -ELBO on validation is kept."""
    likelihood = decoder.likelihood
    model = VAE(likelihood.output_channels(1))
    _, state = likelihood.init(SHAPE)
    init_key, train_key, validation_key = jax.random.split(key, 3)
    variables = model.init(init_key, train[:1], init_key)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

    def loss_fn(variables, state, counts, key):
        outputs, _, mean, log_var = model.apply(variables, counts, key)
        nll, stats = likelihood.nll({}, state, outputs, counts / decoder.scale)
        return jnp.mean(nll + gaussian_kl(mean, log_var)), likelihood.update(state, stats)

    def step(carry, key):
        variables, opt_state, state = carry
        counts = train[jax.random.randint(key, (BATCH,), 0, len(train))]
        grads, state = jax.grad(loss_fn, has_aux=True)(variables, state, counts, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(variables, updates), opt_state, state), None

    def checkpoint(carry, keys):
        training, best, lowest = carry
        training, _ = jax.lax.scan(step, training, keys)
        variables, _, state = training
        outputs, _, mean, log_var = model.apply(variables, validation, validation_key)
        loss = jnp.mean(level_nll(decoder, state, outputs, validation) + gaussian_kl(mean, log_var))
        found = Fit(variables, state)
        best = jax.tree.map(lambda new, old: jnp.where(loss < lowest, new, old), found, best)
        return (training, best, jnp.minimum(loss, lowest)), None

    carry = (variables, optimizer.init(variables), state), Fit(variables, state), jnp.inf
    keys = jax.random.split(train_key, steps).reshape(-1, min(steps, 100))
    (_, best, _), _ = jax.lax.scan(checkpoint, carry, keys)
    return best


class Scores(NamedTuple):
    """Of held-out images, in bits per pixel."""

    neg_elbo: Any
    bound: Any  # -log P of the image, bounded from above by importance sampling
    kl: Any


def score(decoder: Decoder, fitted: Fit, test: jax.Array, key: jax.Array, num_samples: int = 64) -> Scores:
    model = VAE(decoder.likelihood.output_channels(1))

    def sample(key):
        outputs, z, mean, log_var = model.apply(fitted.variables, test, key)
        nll = level_nll(decoder, fitted.state, outputs, test)
        noise = (z - mean) * jnp.exp(-log_var / 2)
        log_ratio = 0.5 * jnp.sum(noise**2 + log_var - z**2, axis=1)  # log p(z) - log q(z | x)
        return elbo(nll, gaussian_kl(mean, log_var)), log_ratio - nll, gaussian_kl(mean, log_var)

    elbos, log_weights, kl = jax.lax.map(sample, jax.random.split(key, num_samples))
    found = Scores(-elbos, -importance_bound(log_weights), kl)
    return Scores(*(jnp.mean(bits_per_dim(nats, SHAPE)) for nats in found))


def draw(decoder: Decoder, fitted: Fit, key: jax.Array, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Means and draws of x for latents from the prior, as counts [num, 8, 8, 1]."""
    latents, x = jax.random.split(key)
    model = VAE(decoder.likelihood.output_channels(1))
    outputs = model.apply(fitted.variables, jax.random.normal(latents, (num, LATENTS)), method="decode")
    mean = decoder.likelihood.mean({}, fitted.state, outputs)
    drawn = decoder.likelihood.sample(x, {}, fitted.state, outputs)
    return np.asarray(mean * decoder.scale), np.asarray(drawn * decoder.scale)


def picture(test: np.ndarray, samples: dict[str, tuple[np.ndarray, np.ndarray]], path: str) -> None:
    """Held-out images, and means and draws of each decoder, one row each."""
    from calibrax.evaluation.figures._style import figure_file

    rows = {"held-out images": test}
    for name, (mean, drawn) in samples.items():
        rows |= {f"{name}: means of x given z from the prior": mean, f"{name}: draws of x given the same z": drawn}
    num, rows_of_two = len(test), len(rows)
    with figure_file(path, 60 * num, 84 * rows_of_two) as figure:
        for axes, (title, images) in zip(figure.subplots(rows_of_two, 1), rows.items(), strict=True):
            spaced = np.pad(images[..., 0], ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
            axes.imshow(np.concatenate(spaced, axis=1)[:, :-1], cmap="gray_r", vmin=0, vmax=TOTAL)
            axes.set_title(title, fontsize=10, loc="left", pad=3)
            axes.axis("off")


def run(out: str, *, quick: bool, argv: Sequence[str] = ()) -> None:
    from examples import _results

    started = time.monotonic()
    _results.check_installed("sklearn")
    num_seeds, steps = (2, 100) if quick else (3, 6000)
    train, validation, test = load()
    samples, rows = {}, []
    for name, decoder in DECODERS.items():
        keys = jax.random.split(jax.random.key(0), (num_seeds, 2))
        fits = jax.jit(jax.vmap(lambda key, decoder=decoder: fit(decoder, train, validation, key, steps)))(keys[:, 0])
        scores = jax.vmap(lambda fitted, key, decoder=decoder: score(decoder, fitted, test, key))(fits, keys[:, 1])
        columns = ("bits per pixel, -ELBO", "bits per pixel, bound of 64 samples", "KL in it")
        rows.append({"decoder": name, **dict(zip(columns, map(mean_stderr, scores), strict=True))})
        samples[name] = draw(decoder, jax.tree.map(lambda leaf: leaf[0], fits), jax.random.key(1), 16)
    picture(np.asarray(test[:16]), samples, f"{out}/samples.png")
    remark = f"""\
{len(test)} held-out images of 8×8 counts from 0 to 16; {len(train)} for training, {len(validation)} to choose the
checkpoint. Means ± standard errors over {num_seeds} seeds of initialisation and training, on the same split; all
decoders have the same network but for its last layer, and the same steps. All are bits of probabilities of counts:
`optimal_sigma`'s Gaussian is integrated over the bin of each level. `poisson` also gives probability to counts over 16.
A uniform distribution over the 17 levels has {np.log2(TOTAL + 1):.3f} bits per pixel."""
    forms = dict.fromkeys(list(rows[0])[1:], ".3f")
    _results.write(
        out, "Counts: bits per pixel of scikit-learn's digits", remark, rows, forms, module="examples.counts",
        argv=argv, settings={"steps": steps, "seeds": list(range(num_seeds))}, packages=("scikit-learn",),
        started=started,
    )  # fmt: skip


def mean_stderr(values: jax.Array) -> tuple[float, float]:
    """The mean over seeds and its standard error."""
    return float(jnp.mean(values)), float(jnp.std(values, ddof=1) / len(values) ** 0.5)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="counts", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/counts", help="the folder to write")
    parser.add_argument("--quick", action="store_true", help="few steps, to see that it runs")
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    return cli.guarded(lambda: run(options.out, quick=options.quick, argv=argv))


if __name__ == "__main__":
    sys.exit(main())
