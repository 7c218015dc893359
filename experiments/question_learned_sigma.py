"""How much slower is learning σ? -ELBO against training steps, by Adam and by the analytic optimum; not in the paper.

Command:   make question-learned-sigma EPOCHS=60    (or: python -m experiments.question_learned_sigma --help)
Device:    one CPU or GPU; several with PARALLEL=sharded (or pmap).
Time:      15 runs: 5 decoders with 3 seeds. On 9,000 images, 60 epochs are 4,200 steps, and take 18 minutes per run on
           two CPU cores. All of SVHN has 5,720 steps in 10 epochs.
Expected:  Adam at 1e-3 moves log σ by about 0.001 per step, from 0 to -2.8. It takes some 3,000 steps to arrive, and at
           1e-2 a tenth of that. From the scale of the first batch, σ never has to move far.

The learning rate is that of all parameters, so the optimal σ is there at 1e-2 as well: it shows what that rate does to
the network. Every epoch is evaluated on the test images.
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from calibrax.runs import folder as run_folder
from calibrax.training import read_metrics
from experiments import decoders, paper_figure, report
from experiments.figures.series import Panel, Place, Series, save_series
from experiments.paper_figure import Figure, FigureData
from experiments.report import Column, Mean
from experiments.sweep import Case, Result

SIGMA = Column("σ", "sigma", ".4f")
MARGIN = 50.0  # nats above the last -ELBO of the optimal σ: within it, a run has arrived


def evaluated(decoder: Case, label: str, **settings: Any) -> Case:
    """The decoder, evaluated after each epoch."""
    return decoder.with_settings(eval_every=1, **settings)._replace(label=label)


OPTIMAL = evaluated(decoders.OPTIMAL, "optimal σ, Adam at 1e-3")
CASES = (
    OPTIMAL,
    evaluated(decoders.SHARED, "shared σ, Adam at 1e-3"),
    evaluated(decoders.SHARED_FROM_DATA, "shared σ from the first batch, Adam at 1e-3"),
    evaluated(decoders.OPTIMAL, "optimal σ, Adam at 1e-2", learning_rate=1e-2),
    evaluated(decoders.SHARED, "shared σ, Adam at 1e-2", learning_rate=1e-2),
)

Curve = dict[int, float]  # -ELBO above the last one of the optimal σ with the same seed, nats, by step


def curves(results: Sequence[Result], case: Case) -> dict[int, Curve]:
    """The curve of each seed that the optimal σ has too."""
    ends = report.by_seed(results, OPTIMAL, "neg_elbo")
    found = {}
    for result in results:
        seed = result.config.run.seed
        if result.case == case and seed in ends:
            rows = read_metrics(Path(result.config.run.run_dir or ".") / run_folder.METRICS_FILE)
            found[seed] = {row["step"]: row["neg_elbo"] - ends[seed] for row in rows if row["split"] == "test"}
    return found


def arrival(curve: Curve) -> int | None:
    """The first evaluated step from which on the curve stays within the margin; None if its end is outside."""
    outside = [step for step, above in curve.items() if above > MARGIN]
    return min((step for step in curve if step > max(outside, default=0)), default=None)


def draw(path: Path, figure_data: FigureData) -> None:
    series = []
    for case in CASES:
        found = list(curves(figure_data.results, case).values())
        steps = sorted(set.intersection(*map(set, found))) if found else []
        means = [report.mean_of([curve[step] for curve in found]) for step in steps]
        places = [Place("", Mean(step, None), [mean]) for step, mean in zip(steps, means, strict=True)]
        series.append(Series(case.label, places))
    panels = [Panel("−ELBO above optimal σ's last (nats; linear below 10)", "symlog", line=MARGIN)]
    title = f"{figure_data.title}, {figure_data.over_seeds}"
    save_series(path, series, panels, x_label=f"training step (dashed: {MARGIN:g} nats)", title=title)


def answer(figure_data: FigureData) -> str:
    """How many steps each decoder needs to arrive, and where it ends."""
    results, rows, parts = figure_data.results, [], []
    quickest = arrivals(curves(results, OPTIMAL))
    for case in CASES:
        found = curves(results, case)
        if not found:
            continue
        end = report.difference(results, case, OPTIMAL, "neg_elbo")
        cells = [report.cell(end, ".1f"), report.cell(report.mean(results, case, SIGMA), SIGMA.form)]
        rows.append([case.label, steps_in_words(found), *cells])
        parts.append(f"{case.label}, {steps_in_words(found)}")
        ratios = [step / quickest[seed] for seed, step in arrivals(found).items() if seed in quickest]
        if ratios and case != OPTIMAL:
            parts[-1] += f", {report.cell(report.mean_of(ratios), '.1f')} times the optimal σ's"
    if not rows:
        return "There is no run of the optimal σ to compare with."
    headings = [
        "decoder",
        f"steps until within {MARGIN:g} nats",
        "−ELBO above the optimal σ's, last step",
        "σ, last step",
    ]
    every = min(min(curve) for curve in curves(results, OPTIMAL).values())
    sentence = f"Steps until −ELBO stays within {MARGIN:g} nats of the optimal σ's last one: {'; '.join(parts)}."
    return "\n".join([*report.grid(headings, rows), "", f"{sentence} Every {every} steps were evaluated."])


def arrivals(found: dict[int, Curve]) -> dict[int, int]:
    """The step of arrival of each seed that arrives."""
    return {seed: step for seed, curve in found.items() if (step := arrival(curve)) is not None}


def steps_in_words(found: dict[int, Curve]) -> str:
    """Such as "213 ± 10 steps"; how many seeds arrive, if not all do."""
    steps = list(arrivals(found).values())
    if not steps:
        return f"not in {max(step for curve in found.values() for step in curve)} steps"
    seeds = "" if len(steps) == len(found) else f" ({len(steps)} of {len(found)} seeds)"
    return f"{report.cell(report.mean_of(steps), '.0f')} steps{seeds}"


FIGURE = Figure(
    name="question-learned-sigma",
    title="How much slower is learning σ?",
    source="svhn",
    cases=CASES,
    draw=draw,
    answer=answer,
)
main = functools.partial(paper_figure.main, FIGURE)

if __name__ == "__main__":
    sys.exit(main())
