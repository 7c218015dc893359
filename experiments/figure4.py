"""Figure 4: mutual information and marginal KL of β-VAEs and σ-VAEs on SVHN (section 5.2).

Command:   make figure4                 (or: python -m experiments.figure4 --help)
Device:    one CPU or GPU; several with PARALLEL=pmap or PARALLEL=sharded.
Time:      Table 1's runs, and some seconds a run for the estimates; the first seed's are drawn.
Expected:  mutual information rising as β falls, up to the estimator's cap, ln N; the bounds beside it show what is
           beyond (docs/reproduction.md).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import paper_figure, table1
from experiments.figures.tradeoff import InformationPoint, save_information
from experiments.paper_figure import Figure, Made
from experiments.report import value
from experiments.sweep import Done


def point(one: Done) -> InformationPoint:
    """Where one run lies: the plain estimates, and the tightest of the bounds from the other side."""
    info = one.record["information"]
    bounds = [info[name] for name in ("dimension_wise", "moment_matched", "held_out")]
    return InformationPoint(
        label=one.case.label,
        beta=value(one.record, "effective_beta") or 0.0,
        rate=info["rate"],
        mutual_information=info["plain"]["mutual_information"],
        marginal_kl=info["plain"]["marginal_kl"],
        mutual_information_bound=min(bound["mutual_information"] for bound in bounds),
        marginal_kl_bound=max(bound["marginal_kl"] for bound in bounds),
        swept="beta" in one.case.settings,
    )


def draw(path: Path, made: Made) -> None:
    points = [point(one) for one in made.first_seed]
    info = made.first_seed[0].record["information"]
    draws = f"N = {info['num_examples']:,}, M = {info['num_draws']:,}"
    save_information(path, points, cap=info["cap"], title=f"{made.title}, {draws}")


FIGURE = Figure(
    name="figure4",
    title="Figure 4: what the latents hold",
    cases=table1.TABLE.cases,
    draw=draw,
    information=True,
)


def main(argv: Sequence[str] | None = None) -> int:
    return paper_figure.main(FIGURE, "svhn", argv)


if __name__ == "__main__":
    sys.exit(main())
