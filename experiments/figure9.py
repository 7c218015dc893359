"""Figure 9: σ against the training step on SVHN: shared, optimal, and the β-VAEs' constants (appendix A).

Command:   make figure9                 (or: python -m experiments.figure9 --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      two runs, shared with Table 1; of several seeds only the first is drawn.
Expected:  the optimal σ arrives within some 20 steps where the shared σ arrives after hundreds.
"""

import functools
import sys
from pathlib import Path

from calibrax.objectives import beta_to_sigma
from calibrax.training import read_metrics
from experiments import decoders, paper_figure
from experiments.figures.sigma_curves import save_sigma_curves
from experiments.paper_figure import Figure, FigureData

BETAS = (0.01, 0.1, 2.0)  # of the dashed lines; 2 is unit variance


def draw(path: Path, figure_data: FigureData) -> None:
    curves = {
        result.case.label: read_metrics(Path(result.config.run.run_dir or ".") / "metrics.jsonl")
        for result in figure_data.first_seed
    }
    constant = {f"β-VAE, β = {beta:g}": float(beta_to_sigma(beta)) for beta in BETAS}
    save_sigma_curves(path, curves, constant=constant, title=f"{figure_data.title}, seed 0")


FIGURE = Figure(
    name="figure9",
    title="Figure 9: σ while training",
    source="svhn",
    cases=(decoders.SHARED, decoders.OPTIMAL),
    draw=draw,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
