"""Table 2, SVHN column: eleven decoders on SVHN at 28×28, small network (section 5.1).

Command:   make table2-svhn             (or: python -m experiments.table2_svhn --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      33 runs of 10 epochs; a run of the categorical decoder takes several times as long as the others.
Expected:  -log p of the discrete rows is in nats per image over 256 levels, that of the others is of a density on
           [0, 1]. The two kinds can be compared only by bits/dim.
"""

import functools
import sys

from experiments import decoders, paper_table
from experiments.report import Table

NOT_REPORTED = "The paper gives no number for Student-t on SVHN (an earlier version of it: -3659, FID 70.4)."

TABLE = Table(
    name="table2-svhn",
    title="Table 2, SVHN column: decoders, small VAE",
    source="svhn",
    cases=(
        decoders.BERNOULLI.with_paper(fid=43.26),
        decoders.CATEGORICAL.with_paper(neg_log_p=9179, fid=46.13),
        decoders.BITWISE.with_paper(neg_log_p=10800, fid=33.84),
        decoders.MIXTURE.with_paper(neg_log_p=9085, fid=43.19),
        decoders.GAUSSIAN.with_paper(neg_log_p=2184, fid=112.5),
        decoders.STUDENT_T.with_paper(doubts={"neg_log_p": NOT_REPORTED}),
        decoders.beta_vae(0.01).with_paper(neg_log_p=-3186, fid=27.93),
        decoders.PIXEL,
        decoders.SHARED.with_paper(neg_log_p=-3349, fid=22.25),
        decoders.OPTIMAL.with_paper(neg_log_p=-3333, fid=27.25),
        decoders.OPTIMAL_IMAGE.with_paper(fid=26.28),
    ),
    ordering=("Shared σ-VAE", "Optimal σ-VAE", "β-VAE, β = 0.01", "Gaussian VAE"),
    remark=f"The per-pixel row is not in the paper's table. {decoders.SHARED_IS_SLOW}",
)
main = functools.partial(paper_table.main, TABLE)

if __name__ == "__main__":
    sys.exit(main())
