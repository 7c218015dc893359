"""Figure 5: samples of the optimal σ-VAE beside the unit-variance Gaussian's on SVHN at 28×28 (appendix A).

Command:   make figure5                 (or: python -m experiments.figure5 --help)
Device:    one CPU or GPU; several with PARALLEL=pmap or PARALLEL=sharded.
Time:      two runs a seed, shared with the tables; the first seed's are drawn.
Expected:  the Gaussian's samples blurred and pale, the σ-VAE's with edges and colour.
"""

import sys
from collections.abc import Sequence

from experiments import decoders, paper_figure
from experiments.paper_figure import Figure
from experiments.sweep import Case

FIGURE = Figure(
    name="figure5",
    title="Figure 5: samples",
    cases=(Case(*decoders.OPTIMAL), Case(*decoders.GAUSSIAN)),
    side_by_side=True,
)


def main(argv: Sequence[str] | None = None) -> int:
    return paper_figure.main(FIGURE, "svhn", argv)


if __name__ == "__main__":
    sys.exit(main())
