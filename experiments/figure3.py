"""Figure 3: samples of β-VAEs and σ-VAEs on SVHN, and the same runs as a rate-distortion curve (section 5.1).

Command:   make figure3                 (or: python -m experiments.figure3 --help)
Device:    one CPU or GPU; several with PARALLEL=pmap or PARALLEL=sharded.
Time:      Table 1's runs; the first seed's are drawn.
Expected:  samples that lose detail towards high β and look unlike digits towards low β; the σ-VAEs by the point of the
           curve where rate and distortion together are least.

The distortion drawn is D/2·log(2πe·MSE), that of a Gaussian with the best variance for each run's error; -log p(x|z)
itself takes each run's own σ, and does not compare between them.
"""

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import paper_figure, table1
from experiments.figures.tradeoff import Point, save_rate_distortion
from experiments.paper_figure import Figure, Made
from experiments.report import value

LABEL = "distortion at the best σ: D/2·log(2πe·MSE) (nats per image)"


def draw(path: Path, made: Made) -> None:
    dimensions = math.prod(made.data.event_shape)
    points = [
        Point(
            label=one.case.label,
            rate=value(one.record, "rate") or 0.0,
            distortion=dimensions / 2 * math.log(2 * math.pi * math.e * (value(one.record, "mse") or 1.0)),
            swept="beta" in one.case.settings,
        )
        for one in made.first_seed
    ]
    save_rate_distortion(path, points, title=made.title, distortion_label=LABEL)


FIGURE = Figure(
    name="figure3",
    title="Figure 3: rate and distortion",
    cases=table1.TABLE.cases,
    draw=draw,
    samples=True,
)


def main(argv: Sequence[str] | None = None) -> int:
    return paper_figure.main(FIGURE, "svhn", argv)


if __name__ == "__main__":
    sys.exit(main())
