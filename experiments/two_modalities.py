"""Two modalities on very different scales in one VAE, with no weights between them (`calibrax.joint`).

Command:   make two-modalities            (or: python -m experiments.two_modalities --help)
Device:    one CPU; about 20 seconds.
Expected:  with the joint likelihood, the error and σ of each modality are within 5 % of that modality's noise. With a
           plain sum of mean squared errors, neither error is. The state's larger numbers dominate: the image's error is
           more than twice its noise, and the state's own noise is encoded, so that its error is a fourth below it.
Writes:    a table, and runs/two-modalities.png or the file given by --out.

The data are drawn: images of 12×12 pixels with values near 0.5 and noise of 0.02, and a state of five numbers in the
hundreds with noise of 8. Both are linear in four hidden factors. One factor moves only the image, one only the state.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import calibrax as cx
from calibrax import cli
from calibrax.linen import Decode
from calibrax.objectives import gaussian_kl
from calibrax.runs.platforms import check_platforms
from experiments.figures.panels import save_comparison

NOISE = {"image": 0.02, "state": 8.0}  # standard deviations, in each modality's own units
SHAPES = {"image": (12, 12, 1), "state": (5,)}
NUM_TRAIN, NUM_TEST, BATCH = 8192, 2048, 256


def draw_data(seed: int, num: int) -> dict[str, jax.Array]:
    """Images [num, 12, 12, 1] and states [num, 5]. Every seed has the same map from hidden factors to data."""
    column, row = np.meshgrid(np.linspace(0, np.pi, 12), np.linspace(0, np.pi, 12))
    waves = np.stack([np.cos(column), np.cos(row), np.cos(column) * np.cos(row), np.zeros_like(row)])
    to_state = 150.0 * np.random.default_rng(7).normal(size=(4, 5)) * np.array([[1], [1], [0], [1]])
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(num, 4))
    image = 0.5 + 0.08 * np.tensordot(factors, waves, 1)[..., None]
    data = {"image": image, "state": 300 + factors @ to_state}
    noisy = {name: value + NOISE[name] * rng.normal(size=value.shape) for name, value in data.items()}
    return {name: jnp.asarray(value, jnp.float32) for name, value in noisy.items()}


class TwoModalities(nn.Module):
    """A VAE of an image and a state. The loss is `nll + kl`, without a weight, whatever the likelihood."""

    likelihood: cx.Likelihood
    state_mean: tuple[float, ...]
    state_scale: tuple[float, ...]
    latent_dim: int = 6

    @nn.compact
    def __call__(self, x, key, *, train: bool):
        """-ELBO [B] (nats), and E[x | z] of each modality."""
        batch = x["image"].shape[0]
        center, scale = (jnp.asarray(value)[None] for value in (self.state_mean, self.state_scale))
        both = jnp.concatenate([4 * (x["image"].reshape(batch, -1) - 0.5), (x["state"] - center) / scale], axis=1)
        h = jnp.concatenate([nn.relu(nn.Dense(128)(both)), both], axis=1)
        mean, log_var = nn.Dense(self.latent_dim)(h), nn.Dense(self.latent_dim)(h)
        z = mean + jnp.exp(log_var / 2) * jax.random.normal(key, mean.shape)
        h = jnp.concatenate([nn.relu(nn.Dense(128)(z)), z], axis=1)
        outputs = {
            "image": nn.Dense(144)(h).reshape(x["image"].shape),
            "state": center + scale * nn.Dense(5)(h),
        }
        decode = Decode(self.likelihood, name="decode")
        nll, stats = decode(outputs, x, train=train)
        means = {"image": jax.nn.sigmoid(outputs["image"]), "state": outputs["state"]}
        return nll + gaussian_kl(mean, log_var), means, stats


class Result(NamedTuple):
    """The error of one modality on held-out data, in its own units."""

    rmse: float  # of E[x | z], with z from the posterior
    sigma: float | None  # the likelihood's σ; None if it has none


def fit(likelihood: cx.Likelihood, *, steps: int = 6000, seed: int = 0) -> tuple[dict[str, Result], dict[str, Any]]:
    """Train on drawn data; returns the result of each modality, and held-out data with their reconstructions."""
    data = draw_data(seed + 1, NUM_TRAIN)
    center, scale = (tuple(np.asarray(f(data["state"], axis=0)).tolist()) for f in (jnp.mean, jnp.std))
    model = TwoModalities(likelihood, center, scale)
    init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    variables = model.init(init_key, jax.tree.map(lambda leaf: leaf[:1], data), init_key, train=True)
    calibration = variables.get("calibration", {})
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))

    def loss_fn(params, calibration, x, key):
        variables = {"params": params, "calibration": calibration}
        applied: Any = model.apply(variables, x, key, train=True, mutable=["calibration"])
        (loss, _, _), updates = applied
        return jnp.mean(loss), updates.get("calibration", {})

    def step(carry, key):
        params, opt_state, calibration = carry
        rows = jax.random.randint(key, (BATCH,), 0, NUM_TRAIN)
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        grads, calibration = jax.grad(loss_fn, has_aux=True)(params, calibration, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, calibration), None

    params = variables["params"]
    carry = (params, optimizer.init(params), calibration)
    (params, _, calibration), _ = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys))(
        carry, jax.random.split(train_key, steps)
    )
    test = draw_data(seed + 2, NUM_TEST)
    applied: Any = model.apply({"params": params, "calibration": calibration}, test, test_key, train=False)
    _, means, stats = applied
    results = {}
    for name in SHAPES:
        rmse = float(jnp.sqrt(jnp.mean(jnp.square(means[name] - test[name]))))
        log_sigma = stats.get(f"{name}/log_sigma")
        results[name] = Result(rmse, None if log_sigma is None else float(jnp.exp(log_sigma)))
    return results, {"test": test, "reconstruction": means}


def plain_sum_of_mse() -> cx.Likelihood:
    """The common loss MSE(image) + MSE(state) + KL, each MSE a mean over values, as a likelihood."""
    gaussians = {"image": cx.gaussian(), "state": cx.gaussian(link="identity")}
    # The nll of a unit Gaussian is SSE / 2 plus a constant; times 2 / D, it is the mean squared error plus a constant.
    return cx.joint({name: cx.tempered(part, 2 / math.prod(SHAPES[name])) for name, part in gaussians.items()})


def calibrated() -> cx.Likelihood:
    return cx.joint({"image": cx.optimal_sigma(), "state": cx.optimal_sigma(link="identity")})


def compare(out: str | Path, *, steps: int, seed: int) -> None:
    check_platforms()
    fits = {name: fit(make(), steps=steps, seed=seed) for name, make in
            (("joint, no weights", calibrated), ("sum of MSEs", plain_sum_of_mse))}  # fmt: skip
    print(f"{'held-out error (RMSE)':<24}{'image':>10}{'state':>10}")
    print(f"{'the noise itself':<24}{NOISE['image']:>10.4f}{NOISE['state']:>10.2f}")
    for name, (results, _) in fits.items():
        print(f"{name:<24}{results['image'].rmse:>10.4f}{results['state'].rmse:>10.2f}")
    sigma = {name: result.sigma for name, result in fits["joint, no weights"][0].items()}
    print(f"{'its σ, computed':<24}{sigma['image']:>10.4f}{sigma['state']:>10.2f}")
    images = fits["joint, no weights"][1]["test"]["image"][:24]
    panels = [("held-out images, noise included", images)]
    panels += [(name, arrays["reconstruction"]["image"][:24]) for name, (_, arrays) in fits.items()]
    save_comparison(out, [(title, np.clip(np.asarray(panel), 0, 1)) for title, panel in panels])
    print(out)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="two-modalities", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/two-modalities.png", help="the PNG to write")
    parser.add_argument("--steps", type=int, default=6000, help="training steps")
    parser.add_argument("--seed", type=int, default=0, help="draws the data and the parameters")
    options = parser.parse_args(argv)
    if options.steps < 1 or options.seed < 0:
        return cli.fail("--steps is at least 1 and --seed at least 0")
    return cli.guarded(lambda: compare(options.out, steps=options.steps, seed=options.seed))


if __name__ == "__main__":
    sys.exit(main())
