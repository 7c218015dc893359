"""One figure on calibration: probability integral transform, coverage, predicted against actual σ."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calibrax.evaluation.figures import _style
from calibrax.evaluation.figures._style import COLORS, MARKERS

if TYPE_CHECKING:  # the metric imports this module
    from calibrax.evaluation.metrics.calibration import Calibration

WIDTH, HEIGHT = 1500, 600  # pixels
MAX_DENSITY = 3.0  # in the first panel; higher spikes are cut off and labelled, as they would flatten the rest
MIN_SHARE = 0.002  # of the values; bins of predicted σ with fewer are noise and are not drawn
REFERENCE = {"color": "0.35", "linestyle": (0, (5, 3)), "linewidth": 1.2, "zorder": 1}


def save_calibration_figure(
    path: str | Path, results: "Mapping[str, Calibration]", *, title: str | None = None
) -> None:
    """Draw 1 to 7 decoders, by the name in the legend, over one another, 1500 by 600 pixels.

    Left: density of the probability integral transform. It is flat at 1 if calibrated; a hump means that the predicted
    σ is too large, a U that it is too small. Middle: the share of values that the central interval of each level holds,
    on the diagonal if calibrated and above it if σ is too large. Right: actual against predicted root mean square
    error, in bins of predicted σ; a single σ is one point. Bars and bands are two standard errors, examples as
    clusters. Bins with under 0.2 % of the values, or with a predicted or actual error of 0, are not drawn.

    Raises:
      ValueError: if there is no result, or more than 7.
    """
    from matplotlib.lines import Line2D

    if not 1 <= len(results) <= len(COLORS):
        raise ValueError(f"results has {len(results)} entries; expected 1 to {len(COLORS)}")
    with _style.figure_file(path, WIDTH, HEIGHT, title) as figure:
        panels = figure.subplots(1, 3)
        for draw, axes in zip((_draw_pit, _draw_coverage, _draw_sigma), panels, strict=True):
            draw(axes, list(results.values()))
            axes.grid(True, alpha=0.25)
            axes.spines[["top", "right"]].set_visible(False)
        handles = [Line2D([], [], **REFERENCE)]
        handles += [Line2D([], [], color=COLORS[i], marker=MARKERS[i], linewidth=1.8) for i in range(len(results))]
        names = ["calibrated", *(f"{name} (σ ratio {result.sigma_ratio:.3g})" for name, result in results.items())]
        width = max(len(name) for name in names) * 9 + 60  # pixels, about
        figure.legend(
            handles,
            names,
            title="bands and bars: ± 2 standard errors, examples as clusters; σ ratio: actual / predicted error",
            loc="outside lower center",
            ncols=max(1, min(len(handles), 4, WIDTH // width)),
            frameon=False,
            fontsize=11,
        )


def _draw_pit(axes, results: "list[Calibration]") -> None:
    num_bins = len(results[0].pit_counts)
    edges = np.linspace(0, 1, num_bins + 1)
    densities = [num_bins * result.pit_counts / result.num_values for result in results]
    margins = [2 * num_bins * np.nan_to_num(result.pit_stderr_by_example) for result in results]
    highest = np.add(densities, margins).max()
    top = MAX_DENSITY if highest > MAX_DENSITY else max(1.5, 1.05 * highest)
    axes.axhline(1, **REFERENCE)
    cut = 0
    for color, density, margin in zip(COLORS, densities, margins, strict=False):
        low, high = (np.append(values, values[-1]) for values in (density - margin, density + margin))
        axes.fill_between(edges, low, high, step="post", color=color, alpha=0.2, linewidth=0)
        axes.stairs(density, edges, color=color, linewidth=1.8, baseline=None)
        if density.max() > top:
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
            words = {"s": f"cut off: up to {density.max():.1f}", "color": color, "va": "top", "bbox": box}
            # Spikes are in the middle or under 0.05, so here the words cover none.
            axes.text(0.07, 0.97 - 0.06 * cut, transform=axes.transAxes, **words)
            cut += 1
    axes.set(xlim=(0, 1), ylim=(0, top), xlabel="probability integral transform of a data value", ylabel="density")
    axes.set_title("where data fall in the predicted distribution", fontsize=12, loc="left")


def _draw_coverage(axes, results: "list[Calibration]") -> None:
    axes.plot([0, 100], [0, 100], **REFERENCE)
    for i, result in enumerate(results):
        nominal, observed = _coverage_curve(result)
        axes.plot(nominal, observed, color=COLORS[i], linewidth=1.5)
        at = result.coverage.values()
        points = 100 * np.array([[coverage.observed, np.nan_to_num(coverage.stderr_by_example)] for coverage in at]).T
        levels = 100 * np.array(list(result.coverage))
        axes.errorbar(levels, points[0], 2 * points[1], fmt="none", ecolor=COLORS[i], elinewidth=1.5, capsize=3)
        axes.plot(levels, points[0], MARKERS[i], color=COLORS[i], markersize=7)
    axes.set(xlim=(0, 102), ylim=(0, 102), xlabel="nominal coverage of the central interval (%)")
    axes.set_ylabel("values inside (%)")
    axes.set_title("coverage of central intervals", fontsize=12, loc="left")


def _coverage_curve(result: "Calibration") -> tuple[np.ndarray, np.ndarray]:
    """Nominal and observed coverage in per cent, of the levels and of 10, 20, ... %, from pairs of opposite bins."""
    half = len(result.pit_counts) // 2
    pairs = result.pit_counts[half:] + result.pit_counts[:half][::-1]
    nominal = np.arange(half + 1) / half
    observed = np.append(0, np.cumsum(pairs)) / result.num_values
    extra = [(level, coverage.observed) for level, coverage in result.coverage.items()]
    points = np.array(sorted({*zip(nominal.tolist(), observed.tolist(), strict=True), *extra}))
    return 100 * points[:, 0], 100 * points[:, 1]


def _draw_sigma(axes, results: "list[Calibration]") -> None:
    drawn = []
    for i, result in enumerate(results):
        bins = result.sigma_bins
        kept = (bins.num_values >= MIN_SHARE * result.num_values) & (bins.predicted > 0) & (bins.actual > 0)
        drawn += [bins.predicted[kept], bins.actual[kept]]
        axes.plot(*drawn[-2:], marker=MARKERS[i], color=COLORS[i], markersize=6, linewidth=1.2)
    values = np.concatenate(drawn)
    low, high = (values.min() / 3, values.max() * 3) if len(values) else (0.1, 10.0)
    axes.plot([low, high], [low, high], **REFERENCE)
    for which in "xy":
        _style.logarithmic(axes, which, low, high)
    axes.set(xlabel="predicted σ (units of the data)", ylabel="actual error, root mean square (units of the data)")
    axes.set_title("predicted and actual size of the error", fontsize=12, loc="left")
