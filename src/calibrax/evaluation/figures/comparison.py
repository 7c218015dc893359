"""Several runs over training steps: -ELBO and σ on test images."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.evaluation.figures import _style
from calibrax.evaluation.figures.training_curves import (
    PANEL_SIZE,
    Panel,
    Row,
    mark_outside,
    neg_elbo,
    running_median,
    series,
    sigma,
)

Value = Callable[[Row], float | None]


def save_comparison_curves(path: str | Path, runs: Mapping[str, Sequence[Row]], *, title: str | None = None) -> None:
    """Plot test -ELBO and σ by training step, one colour per run, 1200 pixels wide and at least 550 high.

    A run without test values is shown by the running median of its training batches, and the legend says so. A test
    value far beyond the others is a triangle at the edge of its panel. Values that are missing or not finite are left
    out. `runs` are rows of `metrics.jsonl`, by label.
    """
    from matplotlib.lines import Line2D

    names = _legend_names(runs)
    height = 525 + max(25, _style.legend_height(list(names.values()), 1200))
    with _style.figure_file(path, 1200, height, title) as figure:
        left, right = figure.subplots(1, 2)
        lines = _draw_runs(right, runs, sigma, logarithmic=True) | _draw_runs(left, runs, neg_elbo, logarithmic=False)
        _style.tidy(left, "training step", title="−ELBO on test images (nats per image)")
        _style.tidy(right, "training step", title="σ that the decoder used (units of the data)")
        empty = Line2D([], [], linestyle="")
        _style.legend_below(figure, [(lines.get(label, empty), names[label]) for label in runs])


def save_comparison_panel(path: str | Path, runs: Mapping[str, Sequence[Row]], panel: Panel) -> None:
    """Plot one quantity as `save_comparison_curves` does, without its name: 560 pixels wide, at least 360 high."""
    width, height = PANEL_SIZE
    names = {label: _style.shortened(label) for label in runs}
    with _style.figure_file(path, width, height + _style.legend_height(list(names.values()), width)) as figure:
        axes = figure.subplots()
        lines = _draw_runs(axes, runs, panel.value, panel.logarithmic)
        _style.tidy(axes, "training step")
        _style.legend_below(figure, [(line, names[label]) for label, line in lines.items()])


def _draw_runs(axes, runs: Mapping[str, Sequence[Row]], value: Value, logarithmic: bool) -> dict[str, Any]:
    """One line per run in one panel; returns the lines by label."""
    from matplotlib.ticker import MaxNLocator

    lines, tested = {}, []
    for index, (label, rows) in enumerate(runs.items()):
        points = series(rows, value, is_train=False, positive=logarithmic)
        style = _style.line_style(index) | {"markersize": 5, "linewidth": 1.6}
        if len(points[0]):
            (lines[label],) = axes.plot(*points, **style)
            tested.append(lines[label])
            continue
        points = series(rows, value, is_train=True, positive=logarithmic)
        if len(points[0]):
            style |= {"linewidth": 0.9, "marker": "" if len(points[0]) > 1 else "."}
            (lines[label],) = axes.plot(*running_median(*points), **style)
    if not lines:
        _style.no_values(axes)
        return lines
    _set_limits(axes, [line.get_ydata() for line in lines.values()], logarithmic)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    for line in tested:
        mark_outside(axes, *line.get_data(), color=line.get_color())
    return lines


def _set_limits(axes, curves: Sequence[np.ndarray], logarithmic: bool) -> None:
    """Limits that include all but the highest tenth of each curve, and higher values up to twice as far again."""
    curves = [np.log(values) if logarithmic else values for values in curves]
    low = min(values.min() for values in curves)
    high = max(np.percentile(values, 90, method="lower") for values in curves)
    every = np.concatenate(curves)
    size = 1.0 if logarithmic else 0.1 * max(abs(low), abs(high))
    high = every[every <= high + max(2 * (high - low), size)].max()
    margin = max(0.06 * (high - low), 0.05 * size) or 1.0
    if logarithmic:
        _style.logarithmic(axes, "y", math.exp(low - margin), math.exp(high + margin))
    else:
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_formatter("{x:,g}")


def _legend_names(runs: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """The legend's names by label; each says which values the run lacks."""
    names = {}
    for label, rows in runs.items():
        remarks = [] if any(row["split"] != "train" for row in rows) else ["training batches"]
        remarks += [] if any(sigma(row) is not None for row in rows) else ["no σ"]
        if not any(value(row) is not None for row in rows for value in (neg_elbo, sigma)):
            remarks = ["no values"]
        names[label] = _style.shortened(label) + (f" ({', '.join(remarks)})" if remarks else "")
    return names
