"""Question: is it calibrated? Coverage of intervals, per pixel and per image, after training; not in the paper.

Command:   make question-calibrated     (or: python -m experiments.question_calibrated --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      24 runs of 10 epochs, of which `table2-svhn` shares 18 and `learned-scales` 3 more; on two CPU cores, 3
           minutes per run on 9,000 images, and 15 minutes with the logistic mixture. To draw for the test takes half a
           minute more per run, and four minutes with the mixture.
Expected:  the unit Gaussian's intervals hold all pixels, those of a σ that fits the mean error about as many as they
           should. Per image they fail: a single σ predicts nearly the same error for all images.

A pixel's interval is that of its value. An image's interval is that of its mean squared error from the decoder's mean:
the error of the image itself is compared with the errors of draws from p(x|z). Both are ranks among draws.
"""

import functools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from calibrax.evaluation import Calibration, Trained, calibrate_on, evaluate_calibration, evaluate_likelihood
from calibrax.evaluation.trained import example_batches
from calibrax.likelihoods import Likelihood
from calibrax.runs import Run
from examples.covariance_decoder import optimal_covariance
from experiments import decoders, paper_figure, report
from experiments.figures.coverage import Observed, save_coverage
from experiments.paper_figure import Figure, FigureData

NAME = "question-calibrated"
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
KINDS = {"pixel": "pixels", "image": "errors of images"}


def measure(run: Run) -> dict[str, Any]:
    """Calibration by pixel and by image; for the optimal σ also what a covariance of the channels gains."""
    trained = run.trained()
    latent_key, pixel_key, image_key = jax.random.split(run.eval_key, 3)
    pairs = functools.partial(outputs_and_images, trained, run.test, latent_key)
    parts = trained.params["likelihood"], trained.likelihood_state
    by_pixel = evaluate_calibration(trained.likelihood, *parts, pairs(), key=pixel_key, levels=LEVELS)
    errors = ((outputs, image_error(x, trained.mean(outputs))) for outputs, x in pairs())
    by_image = evaluate_calibration(of_errors(trained.likelihood), *parts, errors, key=image_key, levels=LEVELS)
    found: dict[str, Any] = {"pixel": kept(by_pixel), "image": kept(by_image)}
    if run.likelihood_name == "optimal-sigma":
        found["covariance gain"] = covariance_gain(run, trained)
    return found


def outputs_and_images(trained: Trained, images: np.ndarray, key: jax.Array) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The decoder's outputs for one posterior sample of each image, and the images."""
    for x, keys in example_batches(images, key, 64):
        yield trained.outputs(x, keys), jnp.asarray(x)


def image_error(x: jax.Array, mean: jax.Array) -> jax.Array:
    """The mean squared error of each image, [B]; x is uint8, or a float in [0, 1]."""
    unit = x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x
    return jnp.mean(jnp.square(unit - mean), axis=(1, 2, 3))


@functools.lru_cache(maxsize=16)
def of_errors(likelihood: Likelihood) -> Likelihood:
    """The distribution that a decoder predicts for `image_error`, as far as `evaluate_calibration` needs it."""

    def sample(key, params, state, outputs):
        draw = likelihood.sample(key, params, state, outputs)
        return image_error(draw, likelihood.mean(params, state, outputs))

    def mean(params, state, outputs):  # only for the ratio of errors, which is not shown for images
        return jnp.zeros(len(outputs))

    return likelihood._replace(sample=sample, mean=mean)


def kept(result: Calibration) -> dict[str, Any]:
    """What the answer and the figure need."""
    return {
        "coverage": {f"{level:g}": coverage.observed for level, coverage in result.coverage.items()},
        "below": np.cumsum(result.pit_counts) / result.num_values,  # share of values up to each of 20 quantiles
        "sigma_ratio": result.sigma_ratio,
    }


def covariance_gain(run: Run, trained: Trained) -> float:
    """By how many nats per test image a covariance of the channels is better than one σ.

    The means stay as they are; both scales are fitted after training, to the training images.
    """
    train, test = (np.asarray(part, np.float32) / 255 for part in (run.train_part, run.test))
    neg_elbos = []
    for likelihood in (trained.likelihood, optimal_covariance()):
        other = trained._replace(likelihood=likelihood)
        state = calibrate_on(other, train, key=run.eval_key)
        neg_elbos.append(evaluate_likelihood(other._replace(likelihood_state=state), test, key=run.eval_key).neg_elbo)
    return neg_elbos[0] - neg_elbos[1]


def by_decoder(figure_data: FigureData) -> dict[str, list[dict[str, Any]]]:
    """What was measured on the runs of each decoder, by its label."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in figure_data.results:
        found.setdefault(result.case.label, []).append(result.record[NAME])
    return found


def draw(path: Path, figure_data: FigureData) -> None:
    kinds = {
        name: {
            label: Observed(
                with_stderr([list(record[kind]["coverage"].values()) for record in records]),
                with_stderr([record[kind]["below"] for record in records]),
            )
            for label, records in by_decoder(figure_data).items()
        }
        for kind, name in KINDS.items()
    }
    save_coverage(path, kinds, LEVELS, title=figure_data.title)


def with_stderr(values: Sequence[Sequence[float]]) -> np.ndarray:
    """Mean and standard error over seeds, [2, n], of values [seeds, n]."""
    means = [report.mean_of(column) for column in zip(*values, strict=True)]
    return np.array([[mean.value for mean in means], [mean.stderr or 0.0 for mean in means]])


def answer(figure_data: FigureData) -> str:
    """The table of coverage, the decoders that are nearest to calibrated, and what a covariance gains."""
    found = by_decoder(figure_data)
    rows = []
    for label, records in found.items():
        shares = [coverage(records, kind, level) for kind in KINDS for level in ("0.5", "0.9")]
        ratio = report.mean_of([record["pixel"]["sigma_ratio"] for record in records])
        rows.append([label, *shares, report.cell(ratio, ".3f")])
    headings = ["decoder", "pixels in 50 %", "pixels in 90 %", "errors of images in 50 %", "errors of images in 90 %"]
    lines = report.grid([*headings, "actual / predicted error"], rows)
    lines += ["", "Per cent of the test images' pixels, and of their mean squared errors, in central intervals.", ""]
    for kind, name in KINDS.items():
        gaps = {label: report.mean_of([gap(record[kind]) for record in records]) for label, records in found.items()}
        best = min(gaps, key=lambda label: gaps[label].value)
        lines.append(
            f"Of the {name}, the decoder “{best}” comes nearest to what its intervals claim: it is off by at most "
            f"{report.cell(gaps[best], '.1f')} percentage points at any level."
        )
        if (ours := decoders.OPTIMAL.label) in gaps and ours != best:
            lines.append(f"The {ours} is off by {report.cell(gaps[ours], '.1f')}.")
    if (ours := decoders.OPTIMAL.label) in found:
        gain = report.mean_of([record["covariance gain"] for record in found[ours]])
        lines.append(
            f"A covariance of the channels, fitted after training, gains the {ours} {report.cell(gain, '.0f')} nats "
            "per test image at unchanged means."
        )
    return "\n".join(lines)


def coverage(records: Sequence[dict[str, Any]], kind: str, level: str) -> str:
    """The cell of the table, in per cent."""
    return report.cell(report.mean_of([100 * record[kind]["coverage"][level] for record in records]), ".1f")


def gap(calibration: dict[str, Any]) -> float:
    """The largest distance between observed and nominal coverage, in percentage points."""
    return max(100 * abs(observed - float(level)) for level, observed in calibration["coverage"].items())


STARTED = "started from the data"
FIGURE = Figure(
    name=NAME,
    title="Is it calibrated?",
    source="svhn",
    cases=(
        decoders.GAUSSIAN,
        decoders.beta_vae(0.01),
        decoders.OPTIMAL,
        decoders.OPTIMAL_IMAGE,
        decoders.PIXEL,
        decoders.SHARED.with_settings(start_scales=True)._replace(label=f"Shared σ-VAE, {STARTED}"),
        decoders.DISCRETIZED_GAUSSIAN.with_settings(start_scales=True)._replace(
            label=f"Discretised Gaussian σ-VAE, {STARTED}"
        ),
        decoders.MIXTURE,
    ),
    draw=draw,
    answer=answer,
    measure=measure,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
