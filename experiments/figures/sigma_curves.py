"""How fast σ converges: σ of the training batches by step (Figure 9)."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from calibrax.evaluation.figures import _style
from calibrax.evaluation.figures.training_curves import Row, series, sigma

LOG_BIN = 1.06  # ratio of the steps at the two ends of a bin of the smoothed σ
WIDTH = 1000  # pixels


def save_sigma_curves(
    path: str | Path,
    runs: Mapping[str, Sequence[Row]],
    *,
    constant: Mapping[str, float] | None = None,
    title: str | None = None,
) -> None:
    """Plot σ of the training batches by step, both on logarithmic axes, 1000 pixels wide and at least 550 high.

    Args:
      path: ends in .png or .svg, else ValueError; folders are made.
      runs: rows of `metrics.jsonl`, by label; runs without σ are left out.
      constant: constant σ, such as sqrt(β/2) of a β-VAE, by label; drawn as dashed lines.
      title: above the plot.

    References:
      Figure 9.
    """
    height = 525 + max(25, _style.legend_height([_style.shortened(label) for label in runs], WIDTH))
    with _style.figure_file(path, WIDTH, height, title) as figure:
        axes = figure.subplots()
        _style.tidy(axes, "training step", "σ of the training batches (units of the data)")
        constant = {label: value for label, value in (constant or {}).items() if _style.finite(value) and value > 0}
        handles, drawn = [], [np.array(list(constant.values()), float)]
        last = 1.0
        for index, (label, rows) in enumerate(runs.items()):
            steps, values = series(rows, sigma, is_train=True, positive=True)
            if not len(values):
                continue
            style = _style.line_style(index) | {"marker": ""}
            axes.plot(steps, values, color=style["color"], alpha=0.3, linewidth=0.8)
            (line,) = axes.plot(*_median_in_log_bins(steps, values), linewidth=1.8, **style)
            handles.append((line, _style.shortened(label)))
            drawn.append(values)
            last = max(last, steps[-1])
        every = np.concatenate(drawn)
        if not len(every):
            _style.no_values(axes)
        else:
            _style.logarithmic(axes, "x", 1, max(10, last))
            _style.logarithmic(axes, "y", every.min() / 1.15, every.max() * 1.15)
            _draw_constants(axes, constant)
        _style.legend_below(figure, handles)


def _draw_constants(axes, constant: Mapping[str, float]) -> None:
    """Dashed lines with their names on the right of the axes."""
    low, high = np.log(axes.get_ylim())
    heights = (np.log(list(constant.values())) - low) / (high - low)
    for (label, value), at in zip(constant.items(), _spread(heights, 0.045), strict=True):
        axes.axhline(value, color="0.35", linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
        words = {"va": "center", "fontsize": 10, "color": "0.25"}
        axes.text(1.01, at, _style.shortened(label), transform=axes.transAxes, **words)


def _median_in_log_bins(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians: early steps singly, later ones in bins of equal width on a logarithmic axis."""
    bins = np.floor(np.log(np.maximum(steps, 1)) / math.log(LOG_BIN))
    chosen = [bins == index for index in np.unique(bins)]
    return np.array([np.median(steps[part]) for part in chosen]), np.array([np.median(values[part]) for part in chosen])


def _spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """Positions in [0, 1], moved apart in their order until neighbours are `gap` apart; at most 1 if there is room."""
    order = np.argsort(positions, kind="stable")
    moved = np.array(positions, float)
    for before, here in itertools.pairwise(order):
        moved[here] = max(moved[here], moved[before] + gap)
    limit = 1.0
    for here in order[::-1]:
        moved[here] = limit = min(moved[here], limit)
        limit -= gap
    return moved
