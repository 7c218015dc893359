"""Figure 3: samples of β-VAEs and σ-VAEs on SVHN, and the same runs as a rate-distortion curve (section 5.1).

Command:   make figure3                 (or: python -m experiments.figure3 --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      that of Table 1's runs, which it shares. Only the first seed is drawn.
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
from experiments.report import value

LABEL = "distortion at the best σ: D/2·log(2πe·MSE) (nats per image)"


def draw(path: Path, figure_data: FigureData) -> None:
    dimensions = math.prod(figure_data.data.event_shape)
    points = [
        Point(
            label=result.case.label,
            rate=value(result.record, "rate") or 0.0,
            distortion=dimensions / 2 * math.log(2 * math.pi * math.e * (value(result.record, "mse") or 1.0)),
            swept="beta" in result.case.settings,
        )
        for result in figure_data.first_seed
    ]
    save_rate_distortion(path, points, title=figure_data.title, distortion_label=LABEL)


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
