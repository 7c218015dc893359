"""Several measures of some methods, each at a few settings, against one quantity that they share."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from calibrax.evaluation.figures import _style
from experiments.figures.tradeoff import label_curve
from experiments.report import Mean

PANEL_WIDTH, HEIGHT = 560, 500  # pixels
STYLES = ({"color": "0.35", "marker": "o"}, *(_style.line_style(index) for index in (1, 0, 2, 3, 4, 5)))
LINEAR_TO = 10.0  # a "symlog" axis is linear between -10 and 10


class Place(NamedTuple):
    """Where a method lands at one setting."""

    label: str  # written beside the point; "" for none
    x: Mean
    values: Sequence[Mean | None]  # one per panel


class Series(NamedTuple):
    """A method."""

    name: str
    places: Sequence[Place]  # in the order in which they are joined by lines


class Panel(NamedTuple):
    """A measure."""

    name: str  # of the vertical axis
    scale: Literal["linear", "log", "symlog"] = "linear"
    line: float | None = None  # where a dashed horizontal line is


def save_series(
    path: str | Path, series: Sequence[Series], panels: Sequence[Panel], *, x_label: str, title: str | None = None
) -> None:
    """Plot one panel per measure side by side, over a logarithmic axis, with bars of one standard error both ways.

    A method at several settings is a line through its points. Values that are missing or not finite are left out.

    Args:
      path: ends in .png or .svg, else ValueError; folders are made.
      series: up to 7 methods, the first in grey.
      panels: the measures.
      x_label: of the horizontal axis.
      title: above the panels.
    """
    width = max(1000, PANEL_WIDTH * len(panels))
    height = HEIGHT + _style.legend_height([method.name for method in series], width)
    with _style.figure_file(path, width, height, title) as figure:
        entries: dict[str, Any] = {}
        columns = figure.subplots(1, len(panels), squeeze=False)[0]
        for index, (axes, panel) in enumerate(zip(columns, panels, strict=True)):
            _style.tidy(axes, x_label, panel.name)
            points = [_finite_points(method, index) for method in series]
            for method, found, style in zip(series, points, STYLES, strict=False):
                if found:
                    entries[method.name] = _draw(axes, found, style)
            _set_axes(axes, [point for found in points for point in found], panel)
            _label(axes, points)
        names = [method.name for method in series if method.name in entries]
        _style.legend_below(figure, [(entries[name], name) for name in names])


def _finite_points(method: Series, index: int) -> list[tuple[str, Mean, Mean]]:
    """Label, x and the value of this panel, of the places that have them."""
    points = [(place.label, place.x, place.values[index]) for place in method.places]
    return [
        (label, x, value)
        for label, x, value in points
        if value is not None and _style.finite(x.value, value.value) and x.value > 0
    ]


def _draw(axes, points: Sequence[tuple[str, Mean, Mean]], style: dict[str, Any]) -> Any:
    """A line with markers and bars, or a large marker for a single point; returns the legend's handle."""
    alone = {"linestyle": "", "markersize": 9, "markeredgecolor": "white", "zorder": 4}
    return axes.errorbar(
        [x.value for _, x, _ in points],
        [value.value for _, _, value in points],
        xerr=[x.stderr or math.nan for _, x, _ in points],
        yerr=[value.stderr or math.nan for _, _, value in points],
        linewidth=1.4,
        elinewidth=1.2,
        capsize=3,
        **(style | (alone if len(points) == 1 else {"markersize": 5})),
    )


def _set_axes(axes, points: Sequence[tuple[str, Mean, Mean]], panel: Panel) -> None:
    from matplotlib.ticker import SymmetricalLogLocator

    if not points:
        _style.no_values(axes)
        return
    if panel.line is not None:
        axes.axhline(panel.line, color="0.35", linestyle=(0, (5, 3)), linewidth=1.2, zorder=1)
    xs, values = ([mean.value for mean in means] for means in list(zip(*points, strict=True))[1:])
    _style.logarithmic(axes, "x", min(xs) / 1.5, max(xs) * 1.5)
    if panel.scale == "log":
        _style.logarithmic(axes, "y", min(values) / 1.2, max(values) * 1.2)
    elif panel.scale == "symlog":
        ends = [value.value + sign * (value.stderr or 0) for _, _, value in points for sign in (-1, 1)]
        axes.set_yscale("symlog", linthresh=LINEAR_TO)
        axes.set_ylim(min(*ends, 0) * 1.6 - LINEAR_TO / 2, max(*ends, 0) * 1.6 + LINEAR_TO / 2)
        axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=LINEAR_TO))
        axes.yaxis.set_major_formatter("{x:,.12g}")
    else:
        axes.yaxis.set_major_formatter("{x:,g}")


def _label(axes, points: Sequence[Sequence[tuple[str, Mean, Mean]]]) -> None:
    """Write the labels beside the points, in the colours of the methods."""
    named = [
        (label, (x.value, value.value), style["color"])
        for found, style in zip(points, STYLES, strict=False)
        for label, x, value in found
    ]
    everything = np.array([place for _, place, _ in named])
    named = [point for point in named if point[0]]
    if named:
        labels, places, colors = zip(*named, strict=True)
        label_curve(axes, labels, np.array(places), everything)
        for text, color in zip(axes.texts, colors, strict=True):
            text.set_color(color)
