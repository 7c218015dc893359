"""Figure 8: samples of the optimal σ-VAE beside those of the unit-variance Gaussian on CIFAR-10 at 28×28 (appendix A).

Command:   make figure8                 (or: python -m experiments.figure8 --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      two runs per seed, shared with the tables. Only the first seed is drawn.
Expected:  the Gaussian's samples are blurred and pale; the σ-VAE's have edges and colour.
"""

import functools
import sys

from experiments import figure5, paper_figure

FIGURE = figure5.FIGURE._replace(name="figure8", title="Figure 8: samples", source="cifar10")
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
