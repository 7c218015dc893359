"""Figure 3: samples of β-VAEs and σ-VAEs on SVHN, and the same runs as a rate-distortion curve (section 5.1).

Command:   make figure3                 (or: python -m experiments.figure3 --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      that of Table 1's runs, which it shares. Samples are those of the first seed.
Expected:  samples lose detail at high β and do not look like digits at low β. The σ-VAEs lie near the point of the
           curve where the sum of rate and distortion is smallest.

The plotted distortion is D/2·log(2πe·MSE), the distortion of a Gaussian with the best variance for the error of each
run. -log p(x|z) itself depends on each run's own σ and cannot be compared between runs.
"""

import functools
import math
import sys
from pathlib import Path

from experiments import paper_figure, table1
from experiments.figures.tradeoff import Point, save_rate_distortion
from experiments.paper_figure import Figure, FigureData
from experiments.report import by_seed, mean_of
from experiments.sweep import Case

LABEL = "distortion at the best σ: D/2·log(2πe·MSE) (nats per image)"


def point(case: Case, figure_data: FigureData) -> Point | None:
    """A decoder's means over its seeds; None if it has no run."""
    dimensions = math.prod(figure_data.data.event_shape)
    rates, errors = (by_seed(figure_data.results, case, field) for field in ("rate", "mse"))
    if not rates:
        return None
    rate = mean_of(list(rates.values()))
    distortion = mean_of([dimensions / 2 * math.log(2 * math.pi * math.e * error) for error in errors.values()])
    return Point(
        label=case.label,
        rate=rate.value,
        distortion=distortion.value,
        rate_stderr=rate.stderr,
        distortion_stderr=distortion.stderr,
        swept="beta" in case.settings,
    )


def draw(path: Path, figure_data: FigureData) -> None:
    points = [found for case in table1.TABLE.cases if (found := point(case, figure_data)) is not None]
    title = f"{figure_data.title}, {figure_data.over_seeds}"
    save_rate_distortion(path, points, title=title, distortion_label=LABEL)


FIGURE = Figure(
    name="figure3",
    title="Figure 3: rate and distortion",
    source="svhn",
    cases=table1.TABLE.cases,
    draw=draw,
    samples=True,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
