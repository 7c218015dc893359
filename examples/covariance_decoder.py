"""A decoder of your own: a Gaussian whose full channel covariance is computed, as σ² is in the optimal σ-VAE.

Command:   python examples/covariance_decoder.py       (--help for options)
Device:    one CPU; about a minute.
Prints:    -ELBO, mean squared error and KL of three models on held-out street-digits: trained with the optimal σ;
           trained with the optimal covariance; and the first one with a covariance that is fitted after training.
Writes:    covariance-decoder.png, or the file given by --out: images, reconstructions and samples of each.

Three channels have a covariance Σ of 3×3. Its maximum-likelihood value is the mean of r rᵀ over all pixels, where r is
the residual of a pixel: for one channel, this is σ² = MSE.
"""

import argparse
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax import lax

import calibrax as cx
from calibrax import running_average

FLOOR = math.exp(-12)  # of the eigenvalues of Σ: σ = exp(-6), as for `optimal_sigma`


def residual_covariance(x, mean, axis_name=None):
    """The mean of r rᵀ over examples and positions, [C, C], for x and mean [B, ..., C]."""
    residual = (x - mean).reshape(-1, x.shape[-1])
    covariance = residual.T @ residual / len(residual)
    return covariance if axis_name is None else lax.pmean(covariance, axis_name)


def covariance_nll(x, mean, covariance):
    """-log N(x; mean, Σ) at every position, summed: [B] nats, for x and mean [B, ..., C] and Σ [C, C]."""
    channels = x.shape[-1]
    # The floor is added, not a maximum: it keeps the matrix positive definite, and its derivative simple.
    factor = jnp.linalg.cholesky(covariance + FLOOR * jnp.eye(channels))
    residual = (x - mean).reshape(len(x), -1, channels)
    whitened = lax.linalg.triangular_solve(factor, residual.reshape(-1, channels).T, left_side=True, lower=True)
    squares = jnp.sum(jnp.square(whitened), axis=0).reshape(len(x), -1)  # rᵀ Σ⁻¹ r of each position
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
    return 0.5 * jnp.sum(squares + log_det + channels * math.log(2 * math.pi), axis=1)


def optimal_covariance(decay: float = 0.99) -> cx.Likelihood:
    """A Gaussian with the residuals' own covariance between channels; its running average at test time.

    Args:
      decay: of the running average, in [0, 1).

    Returns:
      A `Likelihood` of images [B, ..., C] in [0, 1] with C outputs, which a sigmoid turns into the mean. Its state is
      the average of Σ, [C, C], which is the identity before the first update.
    """

    def init(event_shape):
        return {}, {"covariance": running_average.init((event_shape[-1],) * 2)}

    def running(state):
        channels = state["covariance"]["total"].shape[-1]
        started = state["covariance"]["weight"] > 0
        return jnp.where(started, running_average.value(state["covariance"], initial=0.0), jnp.eye(channels))

    def nll(params, state, outputs, x, train=True, axis_name=None):
        mean = jax.nn.sigmoid(outputs.astype(jnp.float32))
        of_batch = residual_covariance(x, mean, axis_name)
        stats = {"covariance": of_batch, "mse": jnp.trace(of_batch) / x.shape[-1]}
        return covariance_nll(x, mean, of_batch if train else running(state)), stats

    def update(state, stats):
        return {"covariance": running_average.update(state["covariance"], stats["covariance"], decay=decay)}

    def mean(params, state, outputs):
        return jax.nn.sigmoid(outputs.astype(jnp.float32))

    def sample(key, params, state, outputs):
        center, covariance = mean(params, state, outputs), running(state)
        factor = jnp.linalg.cholesky(covariance + FLOOR * jnp.eye(len(covariance)))
        return center + jax.random.normal(key, center.shape) @ factor.T

    return cx.Likelihood(init, nll, update, mean, sample, output_channels=lambda channels: channels)


class VAE(nn.Module):
    """A small dense VAE: the posterior's mean and log variance, and the decoder's outputs for latents z."""

    event_shape: tuple[int, ...]
    latents: int = 16
    hidden: int = 256

    def setup(self):
        self.encoder = nn.Sequential([nn.Dense(self.hidden), nn.relu, nn.Dense(2 * self.latents)])
        self.decoder = nn.Sequential([nn.Dense(self.hidden), nn.relu, nn.Dense(math.prod(self.event_shape))])

    def __call__(self, x, key):
        mean, log_var = jnp.split(self.encoder(x.reshape(len(x), -1)), 2, axis=-1)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        return self.decode(z), cx.objectives.gaussian_kl(mean, log_var)

    def decode(self, z):
        return self.decoder(z).reshape(len(z), *self.event_shape)


class Fit(NamedTuple):
    """A trained model: variables of the network, and the likelihood's state."""

    model: VAE
    variables: dict
    state: dict


def fit(likelihood: cx.Likelihood, images, *, steps: int, batch_size: int = 128, seed: int = 0) -> Fit:
    """Train the VAE on images [N, H, W, C] in [0, 1] with Adam; the loss is nll + KL."""
    model = VAE(images.shape[1:])
    init_key, train_key = jax.random.split(jax.random.key(seed))
    variables = model.init(init_key, images[:1], init_key)
    _, state = likelihood.init(images.shape[1:])
    optimizer = optax.adam(1e-3)

    def loss_fn(variables, state, x, key):
        outputs, kl = model.apply(variables, x, key)
        nll, stats = likelihood.nll({}, state, outputs, x)
        return jnp.mean(nll + kl), likelihood.update(state, stats)

    @jax.jit
    def step(variables, opt_state, state, key):
        x = images[jax.random.randint(key, (batch_size,), 0, len(images))]
        grads, state = jax.grad(loss_fn, has_aux=True)(variables, state, x, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(variables, updates), opt_state, state

    opt_state = optimizer.init(variables)
    for key in jax.random.split(train_key, steps):
        variables, opt_state, state = step(variables, opt_state, state, key)
    return Fit(model, variables, state)


def calibrated(fitted: Fit, likelihood: cx.Likelihood, images, batch_size: int = 500) -> Fit:
    """The same network with the state of another likelihood, computed over the images."""
    batches = (images[i : i + batch_size] for i in range(0, len(images), batch_size))
    pairs = ((fitted.model.apply(fitted.variables, x, jax.random.key(0))[0], x) for x in batches)
    return fitted._replace(state=cx.calibrate(likelihood, {}, pairs))


def measure(fitted: Fit, likelihood: cx.Likelihood, images) -> dict[str, float]:
    """-ELBO and KL in nats per image, and the mean squared error, with the test-time scale."""
    outputs, kl = fitted.model.apply(fitted.variables, images, jax.random.key(1))
    nll, stats = likelihood.nll({}, fitted.state, outputs, images, train=False)
    return {"neg_elbo": float(jnp.mean(nll + kl)), "mse": float(stats["mse"]), "kl": float(jnp.mean(kl))}


def compare(train, test, *, steps: int) -> dict[str, tuple[Fit, cx.Likelihood]]:
    """The three models of this example, by name."""
    sigma, covariance = cx.optimal_sigma(), optimal_covariance()
    by_sigma = fit(sigma, train, steps=steps)
    return {
        "optimal σ": (by_sigma, sigma),
        "trained with Σ": (fit(covariance, train, steps=steps), covariance),
        "Σ after training": (calibrated(by_sigma, covariance, train), covariance),
    }


def picture(models: dict[str, tuple[Fit, cx.Likelihood]], images, out: str | None = None, *, samples: bool = True):
    """Images, and the reconstructions and samples of each model, one row each; a Matplotlib figure."""
    import matplotlib.pyplot as plt

    rows = {"images": images}
    for name, (fitted, likelihood) in models.items():
        outputs, _ = fitted.model.apply(fitted.variables, images, jax.random.key(1))
        rows[f"{name}: reconstructions"] = likelihood.mean({}, fitted.state, outputs)
        if samples:
            z = jax.random.normal(jax.random.key(2), (len(images), fitted.model.latents))
            outputs = fitted.model.apply(fitted.variables, z, method="decode")
            rows[f"{name}: samples"] = likelihood.mean({}, fitted.state, outputs)
    figure, axes = plt.subplots(len(rows), 1, figsize=(7, 0.85 * len(rows)), layout="constrained")
    for axis, (title, row) in zip(axes, rows.items(), strict=True):
        axis.imshow(np.concatenate(np.clip(np.asarray(row), 0, 1), axis=1))
        axis.set_title(title, fontsize=8, loc="left", pad=2)
        axis.axis("off")
    if out:
        figure.savefig(out, dpi=150)
    return figure


def main() -> None:
    import calibrax.data

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", default="street-digits", help="a data set, an .npz file or a folder of images")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of each model")
    parser.add_argument("--out", default="covariance-decoder.png", help="the PNG to write")
    options = parser.parse_args()
    data = calibrax.data.load(options.data, image_size=options.size)
    train, test = (jnp.asarray(split[:], jnp.float32) / 255 for split in (data.train, data.test))
    models = compare(train, test, steps=options.steps)
    print(f"{'':<20}{'-ELBO, nats':>12}{'MSE':>9}{'KL, nats':>10}")
    for name, (fitted, likelihood) in models.items():
        result = measure(fitted, likelihood, test)
        print(f"{name:<20}{result['neg_elbo']:>12.0f}{result['mse']:>9.4f}{result['kl']:>10.1f}")
    picture(models, test[:12], options.out)
    print(options.out)


if __name__ == "__main__":
    main()
