"""Several runs over training steps: -ELBO and σ on test images, and how fast σ converges (Figure 9)."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.evaluation.figures import _style as drawing
from calibrax.evaluation.figures.training_curves import Row, mark_outside, neg_elbo, running_median, series, sigma

Value = Callable[[Row], float | None]
LOG_BIN = 1.06  # ratio of the steps at the two ends of a bin of the smoothed σ


def save_comparison_curves(path: str | Path, runs: Mapping[str, Sequence[Row]], *, title: str | None = None) -> None:
    """Plot test -ELBO and σ by training step, a colour a run, 1200 pixels wide and at least 550 high.

    A run without test values shows the running median of its training batches, and the legend says so. A test value far
    beyond the others is a triangle at the edge of its panel. Values that are missing or not finite are left out.

    Args:
      path: ends in .png or .svg; folders are made.
      runs: rows of `metrics.jsonl`, by label.
      title: above the panels.

    Raises:
      ValueError: for another ending of `path`.
    """
    with drawing.figure_file(path, 1200, _height(runs, 1200)) as figure:
        draw_comparison_curves(figure, runs, title)


def draw_comparison_curves(figure, runs: Mapping[str, Sequence[Row]], title: str | None) -> None:
    """The two panels and one legend, on an empty matplotlib figure."""
    from matplotlib.lines import Line2D

    left, right = figure.subplots(1, 2)
    lines = _draw_runs(right, runs, sigma, logarithmic=True) | _draw_runs(left, runs, neg_elbo, logarithmic=False)
    drawing.tidy(left, "training step", title="−ELBO on test images (nats per image)")
    drawing.tidy(right, "training step", title="σ that the decoder used (units of the data)")
    names = _legend_names(runs)
    drawing.legend_below(figure, [(lines.get(label) or Line2D([], [], linestyle=""), names[label]) for label in runs])
    if title:
        figure.suptitle(title, fontsize=13)


def save_sigma_curves(
    path: str | Path,
    runs: Mapping[str, Sequence[Row]],
    *,
    constant: Mapping[str, float] | None = None,
    title: str | None = None,
) -> None:
    """Plot σ of the training batches by step, both on logarithmic axes, 1000 pixels wide and at least 550 high.

    Args:
      path: ends in .png or .svg; folders are made.
      runs: rows of `metrics.jsonl`, by label; runs without σ are left out.
      constant: σ that does not change, such as sqrt(β/2) of a β-VAE, by label: dashed lines.
      title: above the plot.

    Raises:
      ValueError: for another ending of `path`.

    References:
      Figure 9.
    """
    with drawing.figure_file(path, 1000, _height(runs, 1000)) as figure:
        draw_sigma_curves(figure, runs, constant or {}, title)


def draw_sigma_curves(
    figure, runs: Mapping[str, Sequence[Row]], constant: Mapping[str, float], title: str | None
) -> None:
    """The plot and its legend, on an empty matplotlib figure."""
    axes = figure.subplots()
    drawing.tidy(axes, "training step", "σ of the training batches (units of the data)")
    constant = {label: value for label, value in constant.items() if drawing.finite(value) and value > 0}
    handles, drawn = [], [np.array(list(constant.values()), float)]
    last = 1.0
    for index, (label, rows) in enumerate(runs.items()):
        steps, values = series(rows, sigma, is_train=True, positive=True)
        if not len(values):
            continue
        style = drawing.line_style(index) | {"marker": ""}
        axes.plot(steps, values, color=style["color"], alpha=0.3, linewidth=0.8)
        (line,) = axes.plot(*_median_in_log_bins(steps, values), linewidth=1.8, **style)
        handles.append((line, drawing.shortened(label)))
        drawn.append(values)
        last = max(last, steps[-1])
    every = np.concatenate(drawn)
    if not len(every):
        drawing.no_values(axes)
    else:
        drawing.logarithmic(axes, "x", 1, max(10, last))
        drawing.logarithmic(axes, "y", every.min() / 1.15, every.max() * 1.15)
        _draw_constants(axes, constant)
    drawing.legend_below(figure, handles)
    if title:
        figure.suptitle(title, fontsize=13)


def _draw_constants(axes, constant: Mapping[str, float]) -> None:
    """Dashed lines, named on the right of the axes."""
    low, high = np.log(axes.get_ylim())
    heights = (np.log(list(constant.values())) - low) / (high - low)
    for (label, value), at in zip(constant.items(), drawing.spread(heights, 0.045), strict=True):
        axes.axhline(value, color="0.35", linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        words = {"va": "center", "fontsize": 10, "color": "0.25"}
        axes.text(1.01, at, drawing.shortened(label), transform=axes.transAxes, **words)


def _median_in_log_bins(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Early steps one by one; later ones in bins that look equally wide on a logarithmic axis."""
    bins = np.floor(np.log(np.maximum(steps, 1)) / math.log(LOG_BIN))
    chosen = [bins == index for index in np.unique(bins)]
    return np.array([np.median(steps[part]) for part in chosen]), np.array([np.median(values[part]) for part in chosen])


def _draw_runs(axes, runs: Mapping[str, Sequence[Row]], value: Value, logarithmic: bool) -> dict[str, Any]:
    """A line a run in one panel; returns the lines by label."""
    from matplotlib.ticker import MaxNLocator

    lines, tested = {}, []
    for index, (label, rows) in enumerate(runs.items()):
        points = series(rows, value, is_train=False, positive=logarithmic)
        style = drawing.line_style(index) | {"markersize": 5, "linewidth": 1.6}
        if len(points[0]):
            (lines[label],) = axes.plot(*points, **style)
            tested.append(lines[label])
            continue
        points = series(rows, value, is_train=True, positive=logarithmic)
        if len(points[0]):
            style |= {"linewidth": 0.9, "marker": "" if len(points[0]) > 1 else "."}
            (lines[label],) = axes.plot(*running_median(*points), **style)
    if not lines:
        drawing.no_values(axes)
        return lines
    _set_limits(axes, [line.get_ydata() for line in lines.values()], logarithmic)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    for line in tested:
        mark_outside(axes, *line.get_data(), color=line.get_color())
    return lines


def _set_limits(axes, curves: Sequence[np.ndarray], logarithmic: bool) -> None:
    """Room for all but the highest tenth of each curve, and for values beyond it up to twice as far again."""
    curves = [np.log(values) if logarithmic else values for values in curves]
    low = min(values.min() for values in curves)
    high = max(np.percentile(values, 90, method="lower") for values in curves)
    every = np.concatenate(curves)
    size = 1.0 if logarithmic else 0.1 * max(abs(low), abs(high))
    high = every[every <= high + max(2 * (high - low), size)].max()
    margin = max(0.06 * (high - low), 0.05 * size) or 1.0
    if logarithmic:
        drawing.logarithmic(axes, "y", math.exp(low - margin), math.exp(high + margin))
    else:
        axes.set_ylim(low - margin, high + margin)
        axes.yaxis.set_major_formatter("{x:,g}")


def _legend_names(runs: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """Names for the legend by label; each says what the run has not."""
    names = {}
    for label, rows in runs.items():
        remarks = [] if any(row["split"] != "train" for row in rows) else ["training batches"]
        remarks += [] if any(sigma(row) is not None for row in rows) else ["no σ"]
        remarks = (
            remarks if any(value(row) is not None for row in rows for value in (neg_elbo, sigma)) else ["no values"]
        )
        names[label] = drawing.shortened(label) + (f" ({', '.join(remarks)})" if remarks else "")
    return names


def _height(runs: Mapping[str, Sequence[Row]], width: int) -> int:
    """Pixels: the legend's lines come on top of the panels."""
    return 525 + max(25, drawing.legend_height(list(_legend_names(runs).values()), width))
