"""Figure 4: mutual information and marginal KL of β-VAEs and σ-VAEs on SVHN (section 5.2).

Command:   make figure4                 (or: python -m experiments.figure4 --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      that of Table 1's runs, which it shares, and some seconds per run for the estimates.
Expected:  mutual information rises as β falls, up to the estimator's cap, ln N. The bounds beside it show what lies
           beyond the cap (docs/reproduction.md).
"""

import functools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import paper_figure, table1
from experiments.figures.tradeoff import InformationPoint, save_information
from experiments.paper_figure import Figure, FigureData
from experiments.report import value
from experiments.sweep import Case, Result


def estimates(result: Result) -> dict[str, float]:
    """The numbers of one run: the plain estimates, and the tightest bounds from the other side."""
    info = result.record["information"]
    bounds = [info[name] for name in ("dimension_wise", "moment_matched", "held_out")]
    return {
        "beta": value(result.record, "effective_beta") or 0.0,
        "rate": info["rate"],
        "mutual_information": info["plain"]["mutual_information"],
        "marginal_kl": info["plain"]["marginal_kl"],
        "mutual_information_bound": min(bound["mutual_information"] for bound in bounds),
        "marginal_kl_bound": max(bound["marginal_kl"] for bound in bounds),
    }


def point(case: Case, results: Sequence[Result]) -> InformationPoint | None:
    """A decoder's means over its seeds; None if it has no run."""
    runs = [estimates(result) for result in results if result.case == case]
    if not runs:
        return None
    means = {name: statistics.fmean(run[name] for run in runs) for name in runs[0]}
    return InformationPoint(label=case.label, swept="beta" in case.settings, **means)


def draw(path: Path, figure_data: FigureData) -> None:
    results = figure_data.results
    points = [found for case in table1.TABLE.cases if (found := point(case, results)) is not None]
    info = results[0].record["information"]
    means = "one seed" if figure_data.num_seeds == 1 else f"means over {figure_data.num_seeds} seeds"
    title = f"{figure_data.title}, {means}, N = {info['num_examples']:,}, M = {info['num_draws']:,}"
    save_information(path, points, cap=info["cap"], title=title)


FIGURE = Figure(
    name="figure4",
    title="Figure 4: what the latents hold",
    source="svhn",
    cases=table1.TABLE.cases,
    draw=draw,
    information=True,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
