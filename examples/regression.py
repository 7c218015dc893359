"""Regression with intervals: calibrax's likelihoods on scikit-learn's data, beside Bayesian linear regression.

Command:   make regression            (or: python -m examples.regression --help)
Device:    one CPU; about 3 minutes on two cores.
Prints:    for each data set and likelihood: the nll of held-out targets, in nats per example and in the units of the
           data; how many held-out targets the intervals of 50 % and 90 % hold; the error of the mean.
Writes:    table.md, table.csv, provenance.json and coverage.png into runs/regression or the folder given by --out.

All likelihoods train the same network, for the same steps, from the same initial weights up to the last layer. A fifth
of the training data chooses the step that is kept, and gives the optimal σ. Targets are standardised with the mean and
deviation of the training targets; `transformed(..., affine(mean, deviation))` takes account of that, so that every nll
is that of the targets as they came.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import calibrax as cx
from calibrax import cli

TEST_FRACTION = VALIDATION_FRACTION = 0.2  # the second is a part of the training data
STEPS = 600
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
PACKAGES = ("scikit-learn", "numpyro")


def gaussian_mixture() -> cx.Likelihood:
    return cx.mixture(cx.pixel_sigma(link="identity"), components=3)


LIKELIHOODS: dict[str, Callable[[], cx.Likelihood]] = {
    "optimal_sigma": lambda: cx.optimal_sigma(link="identity"),
    "pixel_sigma": lambda: cx.pixel_sigma(link="identity"),
    "pixel_sigma, beta_nll=0.5": lambda: cx.pixel_sigma(link="identity", beta_nll=0.5),
    "pixel_sigma, faithful": lambda: cx.pixel_sigma(link="identity", faithful=True),
    "student_t": lambda: cx.student_t(link="identity"),
    "mixture of 3 pixel_sigma": gaussian_mixture,
}


class Split(NamedTuple):
    """Training and held-out data; inputs [N, D] are standardised, targets [N, 1] are as they came."""

    train_inputs: jax.Array
    train_targets: jax.Array
    test_inputs: jax.Array
    test_targets: jax.Array


class Scores(NamedTuple):
    """What held-out targets say about a fit."""

    nll: Any  # nats per example, of the targets as they came
    covered: Any  # [levels], fraction of targets inside of the central interval of each level
    rmse: Any  # in the units of the targets


def load() -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Data that scikit-learn ships: the unit of the target, inputs [N, 10], targets [N]."""
    from sklearn.datasets import load_breast_cancer, load_diabetes

    diabetes, cancer = load_diabetes(scaled=False), load_breast_cancer()
    area = list(cancer.feature_names).index("worst area")
    return {
        # The progression of the disease after a year.
        "diabetes": ("score", diabetes.data, diabetes.target),
        # The area of the largest nuclei of a sample from the means over all nuclei: the error grows with the area.
        "breast cancer, worst area": ("pixels", cancer.data[:, :10], cancer.data[:, area]),
    }


def split(inputs: np.ndarray, targets: np.ndarray, seed: int) -> Split:
    """A random split; the training inputs have mean 0 and variance 1."""
    order = np.random.default_rng(seed).permutation(len(inputs))
    test, train = np.split(order, [round(TEST_FRACTION * len(order))])
    inputs = (inputs - inputs[train].mean(axis=0)) / inputs[train].std(axis=0)
    arrays = inputs[train], targets[train, None], inputs[test], targets[test, None]
    return Split(*(jnp.asarray(array, jnp.float32) for array in arrays))


class Network(nn.Module):
    """A small perceptron."""

    outputs: int

    @nn.compact
    def __call__(self, inputs):
        hidden = nn.tanh(nn.Dense(50)(inputs))
        hidden = nn.tanh(nn.Dense(50)(hidden))
        return nn.Dense(self.outputs)(hidden)


def fit_and_score(make: Callable[[], cx.Likelihood], data: Split, key: jax.Array, steps: int) -> Scores:
    """Train the network with a likelihood, keep the step of the lowest validation nll, and score the held-out data."""
    center, scale = jnp.mean(data.train_targets), jnp.std(data.train_targets)
    likelihood = cx.transformed(make(), cx.affine(center, scale))
    params, initial = likelihood.init((1,))
    network = Network(likelihood.output_channels(1))
    at = round(VALIDATION_FRACTION * len(data.train_inputs))  # splits are in random order
    (held_inputs, inputs), (held_targets, targets) = (
        jnp.split(array, [at]) for array in (data.train_inputs, data.train_targets)
    )

    def nll_of(trained, inputs, targets):
        outputs = network.apply(trained["network"], inputs)
        nll, stats = likelihood.nll(trained["likelihood"], initial, outputs, targets)
        return jnp.mean(nll), stats

    def step(carry, _):
        trained, opt_state, best, lowest = carry
        grads, _ = jax.grad(nll_of, has_aux=True)(trained, inputs, targets)
        updates, opt_state = optimizer.update(grads, opt_state)
        trained = optax.apply_updates(trained, updates)
        nll, _ = nll_of(trained, held_inputs, held_targets)
        best = jax.tree.map(lambda new, old: jnp.where(nll < lowest, new, old), trained, best)
        return (trained, opt_state, best, jnp.minimum(nll, lowest)), None

    trained = {"network": network.init(key, inputs), "likelihood": params}
    optimizer = optax.adam(1e-3)
    carry = trained, optimizer.init(trained), trained, jnp.inf
    (_, _, best, _), _ = jax.lax.scan(step, carry, length=steps)
    # The σ of `optimal_sigma` at test time: after one update, the running average is the value of that batch.
    _, stats = nll_of(best, held_inputs, held_targets)
    state = likelihood.update(initial, stats)
    predicted = best["likelihood"], state, network.apply(best["network"], data.test_inputs)
    nll, _ = likelihood.nll(*predicted, data.test_targets, train=False)

    def covered(level):
        low, high = cx.interval(likelihood, *predicted, level, key=key)  # the key is for the mixture, which needs draws
        return jnp.mean((low < data.test_targets) & (data.test_targets < high))

    rmse = jnp.sqrt(jnp.mean(jnp.square(likelihood.mean(*predicted) - data.test_targets)))
    return Scores(jnp.mean(nll), jnp.stack([covered(level) for level in LEVELS]), rmse)


def bayesian_ridge(data: Split) -> Scores:
    """scikit-learn's Bayesian linear regression, whose predictions are Gaussian."""
    from scipy.stats import norm
    from sklearn.linear_model import BayesianRidge

    train_inputs, train_targets, test_inputs, test_targets = (np.asarray(array, np.float64) for array in data)
    center, scale = train_targets.mean(), train_targets.std()
    model = BayesianRidge().fit(train_inputs, (train_targets[:, 0] - center) / scale)
    mean, std = model.predict(test_inputs, return_std=True)
    predicted = norm(center + scale * mean, scale * std)
    target = test_targets[:, 0]
    inside = [np.mean(np.abs(predicted.cdf(target) - 0.5) < level / 2) for level in LEVELS]
    rmse = np.sqrt(np.mean(np.square(predicted.mean() - target)))
    return Scores(-np.mean(predicted.logpdf(target)), np.array(inside), rmse)


def linear_in_numpyro(num_samples: int) -> Callable[[Split, jax.Array], Scores]:
    """NumPyro's NUTS on a linear regression with one σ; the nll is that of the posterior predictive density."""
    import numpyro
    from numpyro import distributions as dist
    from numpyro.infer import MCMC, NUTS

    def model(inputs, targets):
        weights = numpyro.sample("weights", dist.Normal(0, 1).expand([inputs.shape[1]]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        numpyro.sample("targets", dist.Normal(inputs @ weights, sigma), obs=targets)

    # All splits share one compilation.
    settings = {"num_warmup": num_samples, "num_samples": num_samples, "progress_bar": False, "jit_model_args": True}
    mcmc = MCMC(NUTS(model), **settings)

    def score(data, key):
        center, scale = jnp.mean(data.train_targets), jnp.std(data.train_targets)
        mcmc.run(key, data.train_inputs, (data.train_targets[:, 0] - center) / scale)
        draws = mcmc.get_samples()
        target = data.test_targets[:, 0]
        mean = center + scale * draws["weights"] @ data.test_inputs.T  # [S, N]
        predicted = dist.Normal(mean, scale * draws["sigma"][:, None])
        nll = jnp.log(num_samples) - jax.nn.logsumexp(predicted.log_prob(target), axis=0)
        below = jnp.mean(predicted.cdf(target), axis=0)  # P(draw < target)
        inside = [jnp.mean(jnp.abs(below - 0.5) < level / 2) for level in LEVELS]
        rmse = jnp.sqrt(jnp.mean(jnp.square(jnp.mean(mean, axis=0) - target)))
        return Scores(jnp.mean(nll), jnp.stack(inside), rmse)

    return score


def compare(inputs, targets, *, num_splits: int, steps: int, num_samples: int) -> dict[str, Scores]:
    """The scores of all, each with a leading axis of splits."""
    splits = [split(inputs, targets, seed) for seed in range(num_splits)]
    keys = jax.random.split(jax.random.key(0), num_splits)

    def stacked(scores):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *scores)

    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *splits)
    found = {}
    for name, make in LIKELIHOODS.items():
        fits = jax.jit(jax.vmap(lambda data, key, make=make: fit_and_score(make, data, key, steps)))
        found[name] = jax.tree.map(np.asarray, fits(together, keys))
    found["linear, scikit-learn"] = stacked([bayesian_ridge(data) for data in splits])
    pairs = zip(splits, keys, strict=True)
    score = linear_in_numpyro(num_samples)
    found["linear, NumPyro"] = stacked([score(data, key) for data, key in pairs])
    return found


def mean_stderr(values: np.ndarray) -> tuple[float, float]:
    """The mean over splits and its standard error."""
    return float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values)))


def table(results: dict[str, dict[str, Scores]]) -> list[dict[str, Any]]:
    """One row per data set and likelihood, each number with its standard error over splits."""
    rows = []
    for data_set, scores in results.items():
        for name, found in scores.items():
            row: dict[str, Any] = {"data": data_set, "likelihood": name, "nll": mean_stderr(found.nll)}
            row["nll − linear's"] = mean_stderr(found.nll - scores["linear, scikit-learn"].nll)
            for level in (0.5, 0.9):
                row[f"inside {level:.0%}"] = mean_stderr(found.covered[:, LEVELS.index(level)])
            rows.append(row | {"RMSE": mean_stderr(found.rmse)})
    return rows


def picture(results: dict[str, dict[str, Scores]], path: str) -> None:
    """Observed minus nominal coverage against the level, one panel per data set."""
    from calibrax.evaluation.figures._style import figure_file, legend_below, line_style, tidy

    with figure_file(path, 1000, 480) as figure:
        panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
        lines: list[Any] = []
        for axes, (data_set, scores) in zip(panels, results.items(), strict=True):
            axes.axhline(0, color="0.6", linewidth=1)
            lines = []
            for index, (name, found) in enumerate(scores.items()):
                excess = 100 * (found.covered.mean(axis=0) - np.array(LEVELS))
                style = line_style(index)
                if name.startswith("linear"):
                    style |= {"color": "black", "linestyle": "-" if "scikit" in name else ":"}
                (line,) = axes.plot(100 * np.array(LEVELS), excess, markersize=4, **style)
                lines.append((line, name))
            tidy(axes, "nominal coverage of the interval, %", title=data_set)
        panels[0].set_ylabel("observed − nominal, percentage points", fontsize=11)
        legend_below(figure, lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="regression", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", default="runs/regression", help="the folder to write")
    parser.add_argument("--quick", action="store_true", help="two splits and few steps, to see that it runs")
    argv = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(argv)
    return cli.guarded(lambda: run(options.out, quick=options.quick, argv=argv))


def run(out: str, *, quick: bool, argv: Sequence[str] = ()) -> None:
    from examples import _results

    started = time.monotonic()
    _results.check_installed("sklearn", "numpyro")
    settings: dict[str, Any] = {"num_splits": 10, "steps": STEPS, "num_samples": 500}
    if quick:
        settings = {"num_splits": 2, "steps": 20, "num_samples": 50}
    data = load()
    results = {name: compare(inputs, targets, **settings) for name, (_, inputs, targets) in data.items()}
    sizes = " and ".join(f"{len(inputs)} ({name})" for name, (_, inputs, _) in data.items())
    units = " and ".join(f"{unit} ({name})" for name, (unit, _, _) in data.items())
    remark = f"""\
Means ± standard errors over {settings["num_splits"]} random splits, each of which holds out {TEST_FRACTION:.0%} of the
{sizes} examples. The splits share examples, so the standard errors are somewhat too small. nll: nats per held-out
example, of the target as it came; the next column is the difference from scikit-learn's BayesianRidge on the same
split. RMSE: in {units}.

The first six train the same perceptron for the same steps, and keep the step with the lowest nll on a fifth of the
training data. The linear regressions are Bayesian and have one σ."""
    forms = {"nll": ".3f", "nll − linear's": "+.3f", "inside 50%": ".3f", "inside 90%": ".3f", "RMSE": ".1f"}
    picture(results, f"{out}/coverage.png")
    title = "Regression: held-out nll and coverage"
    _results.write(
        out, title, remark, table(results), forms, module="examples.regression", argv=argv,
        settings={**settings, "seeds": list(range(settings["num_splits"]))}, packages=PACKAGES, started=started,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
