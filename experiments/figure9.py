"""Figure 9: σ against the training step on SVHN: shared, optimal, and the β-VAEs' constants (appendix A).

Command:   make figure9                 (or: python -m experiments.figure9 --help)
Device:    one CPU or GPU; several with PARALLEL=pmap or PARALLEL=sharded.
Time:      two runs a seed, shared with Table 1; the first seed's are drawn.
Expected:  the optimal σ within some 20 steps of where the shared one arrives after hundreds.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from calibrax.objectives import beta_to_sigma
from calibrax.training import read_metrics
from experiments import decoders, paper_figure
from experiments.figures.sigma_curves import save_sigma_curves
from experiments.paper_figure import Figure, Made
from experiments.sweep import Case

CONSTANT = (0.01, 0.1, 2.0)  # β of the dashed lines; 2 is the unit variance


def draw(path: Path, made: Made) -> None:
    curves = {
        one.case.label: read_metrics(Path(one.config.run_dir or ".") / "metrics.jsonl") for one in made.first_seed
    }
    constant = {f"β-VAE, β = {beta:g}": float(beta_to_sigma(beta)) for beta in CONSTANT}
    save_sigma_curves(path, curves, constant=constant, title=made.title)


FIGURE = Figure(
    name="figure9",
    title="Figure 9: σ while training",
    cases=(Case(*decoders.SHARED), Case(*decoders.OPTIMAL)),
    draw=draw,
)


def main(argv: Sequence[str] | None = None) -> int:
    return paper_figure.main(FIGURE, "svhn", argv)


if __name__ == "__main__":
    sys.exit(main())
