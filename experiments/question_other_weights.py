"""Other ways to be rid of the weight: GECO and Beta-Sigma VAE, the sweep of β and the optimal σ; not in the paper.

Command:   make question-other-weights  (or: python -m experiments.question_other_weights --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      60 runs of 10 epochs: 20 decoders with 3 seeds. 39 of them are those of `question-beta`, which are shared. On
           two CPU cores, 3 minutes per run on 9,000 images.
Expected:  every other method is told something. The error hardly depends on σ where -ELBO is low, so a tolerance is
           hard to choose: on 9,000 images 0.05 is out of reach, and GECO's σ falls to the end. Nor does λ settle there
           in 700 steps: for κ = 0.07, one seed ended at σ = 0.12 with an error of 0.06.

GECO (Rezende and Viola 2018, `experiments/geco.py`) is told the error to reach. Beta-Sigma VAE (Kim and Lee 2024,
arXiv:2409.09361) computes σ² and weighs the KL by β all the same. The -ELBO of a method is that of its Gaussian, at
its last σ. "At its best σ" is D/2·log(2πe·MSE) plus the rate: what is left if σ is fitted afterwards.
"""

import functools
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import calibrax as cx
from calibrax.likelihoods._value import constructor
from experiments import decoders, paper_figure, question_beta, report
from experiments.figures.series import Panel, Place, Series, save_series
from experiments.geco import geco
from experiments.paper_figure import Figure, FigureData
from experiments.question_beta import FID, NEG_ELBO
from experiments.report import Column, Mean
from experiments.sweep import Case, Result


@constructor
def beta_sigma(beta: float) -> cx.Likelihood:
    """The objective of Beta-Sigma VAE in training, and at test time the Gaussian without the weight.

    The authors' code (overnap/BS-VAE, model.py) minimises D/2·(log(2π·MSE) + 1) + β·KL with the MSE of each image. That
    is -log p(x|z) under a σ² per image; its weight here is 1/β, and that of the KL stays 1. At test time σ² is the
    average over training, because that of an image is unknown before it is seen.

    Args:
      beta: the weight of the KL.

    Returns:
      A `Likelihood` like `optimal_sigma(axis="image")`.
    """
    plain = cx.optimal_sigma(axis="image")
    weighted = cx.tempered(plain, 1 / beta)

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        likelihood = weighted if train else plain
        return likelihood.nll(params, state, outputs, x, train=train, axis_name=axis_name, mask=mask)

    return plain._replace(nll=nll)


def other(method: str, told: str, likelihood: cx.Likelihood, nearest: str) -> Case:
    """A method that the command line lacks; `nearest` is the name of the one that is most like it."""
    return Case(f"{method}, {told}", {"likelihood": nearest}, likelihood=likelihood)


# A label is the name of the method and, after a comma, what it is told.
OPTIMAL = decoders.OPTIMAL
CASES = (
    *question_beta.SWEPT,
    *(other("GECO", f"κ = {error:g}", geco(error), "gaussian") for error in (0.05, 0.07, 0.1)),
    other("Beta-Sigma VAE", "β = 0.5", beta_sigma(0.5), "optimal-sigma-per-image"),
    decoders.OPTIMAL_IMAGE._replace(label="Beta-Sigma VAE, β = 1"),
    *(other("Beta-Sigma VAE", f"β = {beta:g}", beta_sigma(beta), "optimal-sigma-per-image") for beta in (2.0, 10.0)),
    OPTIMAL,
)
SIGMA, RATE = Column("σ", "sigma", ".4f"), Column("rate", "rate")
LABELLED = tuple(map(decoders.beta_vae, (0.001, 0.01, 0.1, 1.0, 10.0)))  # of the sweep


def method_of(case: Case) -> str:
    return case.label.partition(", ")[0]


def told_of(case: Case) -> str:
    return case.label.partition(", ")[2] or "nothing"


def root_error(results: Sequence[Result], case: Case) -> Mean | None:
    """The root mean square error on the training images, which is what GECO constrains."""
    errors = report.by_seed(results, case, "mse", split="train").values()
    return report.mean_of([math.sqrt(error) for error in errors]) if errors else None


def at_best_sigma(results: Sequence[Result], case: Case, dimensions: int) -> Mean | None:
    """The -ELBO with the σ² that is the mean squared error on the test images."""
    rates, errors = (report.by_seed(results, case, field) for field in ("rate", "mse"))
    nats = [rate + dimensions / 2 * math.log(2 * math.pi * math.e * errors[seed]) for seed, rate in rates.items()]
    return report.mean_of(nats) if nats else None


def draw(path: Path, figure_data: FigureData) -> None:
    results = figure_data.results
    methods: dict[str, list[Place]] = {method_of(case): [] for case in CASES}
    for case in CASES:
        rate = report.mean(results, case, RATE)
        if rate is not None:
            is_labelled = case in LABELLED or case not in (*question_beta.SWEPT, OPTIMAL)
            label = told_of(case).replace(" = ", " ") if is_labelled else ""
            values = report.difference(results, case, OPTIMAL, "neg_elbo"), report.mean(results, case, FID)
            methods[method_of(case)].append(Place(label, rate, values))
    panels = (
        Panel("−ELBO above optimal σ's (nats; linear below 10)", "symlog", line=0.0),
        Panel(f"{report.fid_name(results, 'fid')} of samples"),
    )
    series = [Series(name, places) for name, places in methods.items()]
    x_label, title = "rate: KL from the prior (nats per image)", f"{figure_data.title}, {figure_data.over_seeds}"
    save_series(path, series, panels, x_label=x_label, title=title)


def answer(figure_data: FigureData) -> str:
    """What each method is told, where it lands, and how far the best of each is from the optimal σ."""
    results, rows = figure_data.results, []
    dimensions = math.prod(figure_data.data.event_shape)
    for case in CASES:
        numbers = [
            (report.mean(results, case, SIGMA), SIGMA.form),
            (root_error(results, case), ".4f"),
            (report.mean(results, case, RATE), RATE.form),
            (report.mean(results, case, NEG_ELBO), NEG_ELBO.form),
            (report.difference(results, case, OPTIMAL, "neg_elbo"), ".1f"),
            (at_best_sigma(results, case, dimensions), ".1f"),
            (report.mean(results, case, FID), FID.form),
        ]
        if any(number for number, _ in numbers):
            rows.append([method_of(case), told_of(case), *(report.cell(number, form) for number, form in numbers)])
    headings = ["method", "told", "σ", "RMSE, training images", "rate", "−ELBO", "above the optimal σ's"]
    headings += ["−ELBO at its best σ", report.fid_name(results, "fid")]
    return "\n".join([*report.grid(headings, rows), "", verdict(results)])


def verdict(results: Sequence[Result]) -> str:
    """How far the best setting of each method is from the optimal σ, and the errors that GECO reaches."""
    sentences = []
    for column, unit in ((NEG_ELBO, " nats"), (FID, "")):
        name = report.fid_name(results, "fid") if column is FID else column.heading
        parts = []
        for method in dict.fromkeys(method_of(case) for case in CASES if case != OPTIMAL):
            cases = [case for case in CASES if method_of(case) == method]
            apart = [(case, report.difference(results, case, OPTIMAL, column.field)) for case in cases]
            known = [(difference.value, case, difference) for case, difference in apart if difference is not None]
            if known:
                _, best, difference = min(known, key=lambda one: one[0])
                parts.append(f"{best.label}, {report.in_words(difference, column.form, unit)}")
        if parts:
            best_of_each = f"{name} of each method's best setting, chosen by the test images"
            sentences.append(f"{best_of_each}, beside the optimal σ's, which is told nothing: {'; '.join(parts)}.")
    ends = [(case, root_error(results, case)) for case in CASES if method_of(case) == "GECO"]
    errors = [f"{report.cell(error, '.4f')} for {told_of(case)}" for case, error in ends if error is not None]
    if errors:
        sentences.append(f"GECO's error on the training images ends at {', '.join(errors)}.")
    return " ".join(sentences)


FIGURE = Figure(
    name="question-other-weights",
    title="Other ways to be rid of the weight",
    source="svhn",
    cases=CASES,
    draw=draw,
    answer=answer,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
