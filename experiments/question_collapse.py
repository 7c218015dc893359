"""When does a VAE encode nothing? Active units and rate against a constant σ, beside the optimal linear VAE.

Command:   make question-collapse       (or: python -m experiments.question_collapse --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      24 runs of 10 epochs: 8 decoders with 3 seeds. 15 of them are Table 1's, which are shared. On two CPU cores,
           3 minutes per run on 9,000 images.
Expected:  both fall as σ rises. The linear VAE encodes nothing from σ = 8.7 (β = 152) on, on the SVHN subset. A network
           has a rate near the linear VAE's at every σ, but may spread it over more units: at β = 10, 1.46 nats in 6
           units, where the linear VAE has 1.50 in 3.

The linear VAE is probabilistic PCA of the training images (Tipping and Bishop 1999; Lucas et al. 2019, "Don't Blame the
ELBO!"). At a constant σ it has one active unit for each eigenvalue λ > σ², at most as many as there are latents, and a
rate of ½ Σ log(λ/σ²). A unit of a network is active if its posterior mean varies by more than 0.01 over the test images
(Burda et al. 2016).
"""

import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibrax.data import first
from calibrax.evaluation.metrics.linear_vae import principal_variances
from experiments import decoders, paper_figure, report
from experiments.figures.collapse import Point, linear_vae, save_collapse
from experiments.paper_figure import Figure, FigureData

BETAS = (0.01, 0.1, 1.0, 10.0, 30.0, 100.0, 300.0)  # the linear VAE's limit: 152 for the SVHN subset, 10 for MNIST


def points(figure_data: FigureData) -> list[Point]:
    """One point per decoder, over its seeds."""
    found = []
    for case in dict.fromkeys(result.case.label for result in figure_data.results):
        runs = [result for result in figure_data.results if result.case.label == case]
        information = [run.record["information"] for run in runs]
        found.append(
            Point(
                label=case,
                sigma=report.mean_of([report.value(run.record, "sigma") or math.nan for run in runs]),
                active=report.mean_of([info["num_active"] for info in information]),
                rate=report.mean_of([info["rate"] for info in information]),
                is_constant="beta" in runs[0].case.settings,
            )
        )
    return found


def variances(figure_data: FigureData) -> np.ndarray:
    """The largest eigenvalues of the training images' covariance, one for each latent of the network."""
    num_latents = len(figure_data.results[0].record["information"]["variance_of_mean"])
    return principal_variances(first(figure_data.data.train), num_latents)


def draw(path: Path, figure_data: FigureData) -> None:
    title = f"{figure_data.title}, {figure_data.over_seeds}"
    save_collapse(path, points(figure_data), variances(figure_data), title=title)


def answer(figure_data: FigureData) -> str:
    """The numbers of every decoder beside the linear VAE's, and where both encode nothing."""
    found, eigenvalues = points(figure_data), variances(figure_data)
    rows = []
    for point in found:
        sigma = point.sigma.value
        active, rate = linear_vae(eigenvalues, sigma)
        units, rates = [report.cell(point.active, ".1f"), str(active)], [report.cell(point.rate, ".2f"), f"{rate:.2f}"]
        rows.append([point.label, report.cell(point.sigma, ".4f"), f"{2 * sigma**2:.3g}", *units, *rates])
    headings = ["decoder", "σ", "β = 2σ²", "active units", "linear VAE's", "rate (nats)", "linear VAE's"]
    return "\n".join([*report.grid(headings, rows), "", verdict(found, math.sqrt(eigenvalues[0]))])


def verdict(found: Sequence[Point], limit: float) -> str:
    """From which σ on the network encodes nothing, beside the linear VAE's limit, as far as the sweep tells."""
    swept = sorted((point for point in found if point.is_constant), key=lambda point: point.sigma.value)
    encoding = [point for point in swept if point.active.value > 0]
    if not encoding or encoding[-1] == swept[-1]:
        every = "every" if encoding else "no"
        return f"The network has active units at {every} σ of the sweep; the linear VAE has none from {at(limit)} on."
    last, silent = encoding[-1], swept[swept.index(encoding[-1]) + 1]
    low, high = last.sigma.value, silent.sigma.value
    network = f"The network has {report.cell(last.active, '.1f')} active units at {at(low)} and none from {at(high)} on"
    if low < limit <= high:
        return f"{network}; the linear VAE's limit, {at(limit)}, lies between these two, {high / low:.2g}-fold apart."
    order = "earlier" if high < limit else "later"
    return f"{network}: it collapses {order} than the linear VAE, which has none from {at(limit)} on."


def at(sigma: float) -> str:
    return f"σ = {sigma:.3g} (β = {2 * sigma**2:.3g})"


FIGURE = Figure(
    name="question-collapse",
    title="When does a VAE encode nothing?",
    source="svhn",
    cases=(*map(decoders.beta_vae, BETAS), decoders.OPTIMAL),
    draw=draw,
    answer=answer,
    information=True,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
