"""Figure 8: samples of the optimal σ-VAE beside the unit-variance Gaussian's on CIFAR-10 at 28×28 (appendix A).

Command:   make figure8                 (or: python -m experiments.figure8 --help)
Device:    one CPU or GPU; several with PARALLEL=pmap or PARALLEL=sharded.
Time:      two runs a seed, shared with the tables; the first seed's are drawn.
Expected:  the Gaussian's samples blurred and pale, the σ-VAE's with edges and colour.
"""

import sys
from collections.abc import Sequence

from experiments import figure5, paper_figure

FIGURE = figure5.FIGURE._replace(name="figure8", title="Figure 8: samples")


def main(argv: Sequence[str] | None = None) -> int:
    return paper_figure.main(FIGURE, "cifar10", argv)


if __name__ == "__main__":
    sys.exit(main())
