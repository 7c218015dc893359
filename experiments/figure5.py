"""Figure 5: samples of the optimal σ-VAE beside those of the unit-variance Gaussian on SVHN at 28×28 (appendix A).

Command:   make figure5                 (or: python -m experiments.figure5 --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      two runs per seed, shared with the tables. Only the first seed is drawn.
Expected:  the Gaussian's samples are blurred and pale; the σ-VAE's have edges and colour.
"""

import functools
import sys

from experiments import decoders, paper_figure
from experiments.paper_figure import Figure

FIGURE = Figure(
    name="figure5",
    title="Figure 5: samples",
    source="svhn",
    cases=(decoders.OPTIMAL, decoders.GAUSSIAN),
    side_by_side=True,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
