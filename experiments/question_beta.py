"""Does one σ find the best β? β-VAEs over four decades of β, beside the optimal and the shared σ; not in the paper.

Command:   make question-beta           (or: python -m experiments.question_beta --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      42 runs of 10 epochs: 14 decoders with 3 seeds. 18 of them are Table 1's and 3 those of `learned-scales`;
           they are shared. On two CPU cores, 3 minutes per run on 9,000 images.
Expected:  the optimal σ lands near the β of the lowest -ELBO, and below it; FID hardly changes around there.

The five β of Table 1 are a factor of ten apart; here neighbours are a factor of two to three apart. The -ELBO of a
β-VAE is that of its own Gaussian, σ² = β/2. If the best σ² lies halfway between two neighbours, a factor of 1.4 from
both, this alone costs them 60 to 80 nats.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import decoders, paper_figure, report
from experiments.figures.series import Panel, Place, Series, save_series
from experiments.paper_figure import Figure, FigureData
from experiments.report import Column
from experiments.sweep import Case, Result

SWEPT = tuple(map(decoders.beta_vae, (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0)))
OPTIMAL, SHARED = decoders.OPTIMAL, decoders.SHARED_FROM_DATA
BETA = Column("β = 2σ²", "effective_beta", ".5f")
NEG_ELBO = Column("−ELBO", "neg_elbo")
FID = Column("FID", "fid", ".3f")
MSE = Column("MSE", "mse", ".5f")


def draw(path: Path, figure_data: FigureData) -> None:
    results = figure_data.results

    def places(*cases: Case) -> list[Place]:
        found = []
        for case in cases:
            beta, above = report.mean(results, case, BETA), report.difference(results, case, OPTIMAL, "neg_elbo")
            if beta is not None:
                found.append(Place("", beta, (above, *(report.mean(results, case, column) for column in (FID, MSE)))))
        return found

    series = [
        Series("β-VAE", places(*SWEPT)),
        Series("optimal σ", places(OPTIMAL)),
        Series("shared σ, started from the data", places(SHARED)),
    ]
    panels = (
        Panel("−ELBO above optimal σ's (nats; linear below 10)", "symlog", line=0.0),
        Panel(f"{report.fid_name(results, 'fid')} of samples"),
        Panel("mean squared error (data in [0, 1])", "log"),
    )
    save_series(path, series, panels, x_label="β = 2σ²", title=f"{figure_data.title}, {figure_data.over_seeds}")


def answer(figure_data: FigureData) -> str:
    """The numbers of every decoder, and the best β by -ELBO and by FID beside the optimal σ."""
    results = figure_data.results
    columns = (BETA, NEG_ELBO, FID._replace(heading=report.fid_name(results, "fid")), MSE)
    rows = []
    for case in (*SWEPT, OPTIMAL, SHARED):
        above = report.difference(results, case, OPTIMAL, "neg_elbo")
        numbers = [report.mean(results, case, column) for column in columns]
        cells = [report.cell(number, column.form) for number, column in zip(numbers, columns, strict=True)]
        if any(numbers):
            rows.append([case.label, *cells, report.cell(above, ".1f")])
    headings = ["decoder", *(column.heading for column in columns), "−ELBO above the optimal σ's"]
    return "\n".join([*report.grid(headings, rows), "", verdict(results)])


def verdict(results: Sequence[Result]) -> str:
    """What the optimal σ found, and how far it is from the best β, by -ELBO and by FID."""
    found = report.mean(results, OPTIMAL, BETA)
    if found is None:
        return "There is no run of the optimal σ to compare with."
    text = f"The optimal σ found β = {report.cell(found, BETA.form)}."
    for column, unit in ((NEG_ELBO, " nats"), (FID, "")):
        name = report.fid_name(results, "fid") if column is FID else column.heading
        means = [(mean.value, case) for case in SWEPT if (mean := report.mean(results, case, column)) is not None]
        if not means:
            text += f" No β-VAE has a {name}."
            continue
        _, best = min(means, key=lambda pair: pair[0])
        text += f" By {name}, the best β of the sweep is {best.settings['beta']:g}"
        for case, whose in ((OPTIMAL, "the optimal σ's"), (SHARED, "the shared σ's")):
            apart = report.difference(results, case, best, column.field)
            text += "" if apart is None else f"; {whose} {name} is {report.in_words(apart, column.form, unit)}"
        text += "."
    return f"{text} Lower is better. The best β was chosen by the test images, which favours it."


FIGURE = Figure(
    name="question-beta",
    title="Does one σ find the best β?",
    source="svhn",
    cases=(*SWEPT, OPTIMAL, SHARED),
    draw=draw,
    answer=answer,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
