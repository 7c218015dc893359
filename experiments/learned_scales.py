"""Ways to train a scale that the network emits or that Adam learns, on SVHN at 28×28; not in the paper.

Command:   make learned-scales          (or: python -m experiments.learned_scales --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      21 runs of 10 epochs; on two CPU cores, 3 minutes per run on 9,000 images.
Expected:  a σ per pixel has a low -log p and poor samples (Table 3 of the paper). β-NLL (Seitzer et al. 2022) and
           faithful training (Stirn et al. 2023), which help regressors, do not cure it: they leave the KL as it is, so
           a mean whose gradient is weighed like that of a large σ encodes less, and both its error and FID are no
           better or worse. In 700 steps, a shared σ that starts at the error of the first batch goes
           somewhat more than half of the way in log σ.
"""

import functools
import sys

from experiments import decoders, paper_table
from experiments.report import Column, Table


def per_pixel(name: str, **settings):
    return decoders.PIXEL.with_settings(**settings)._replace(label=f"Per-pixel σ, {name}")


TABLE = Table(
    name="learned-scales",
    title="Learned scales, small VAE",
    source="svhn",
    cases=(
        decoders.PIXEL._replace(label="Per-pixel σ"),
        per_pixel("β-NLL 0.5", beta_nll=0.5),
        per_pixel("β-NLL 1", beta_nll=1.0),
        per_pixel("faithful", faithful=True),
        decoders.SHARED._replace(label="Shared σ"),
        decoders.SHARED_FROM_DATA._replace(label="Shared σ, started from the data"),
        decoders.OPTIMAL._replace(label="Optimal σ"),
    ),
    columns=(
        Column("-log p", "neg_elbo", compares=True),
        Column("bits/dim", "bits_per_dim", ".3f"),
        Column("MSE", "mse", ".5f"),
        Column("σ", "sigma", ".4f"),
        Column("rate", "rate"),
        Column("FID", "fid", ".2f"),
        Column("KID", "kid", ".5f"),
    ),
    remark="β-NLL weighs gradients by σ^2β (Seitzer et al. 2022); faithful training fits the mean by squared errors "
    "alone (Stirn et al. 2023). Both were made for regression; the KL of a VAE is not weighed, so the larger β is, the "
    f"less the mean encodes. {decoders.SHARED_IS_SLOW}",
)
main = functools.partial(paper_table.main, TABLE)

if __name__ == "__main__":
    sys.exit(main())
