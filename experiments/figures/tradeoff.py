"""What a β buys and costs: distortion against rate, and how the rate splits over a sweep of β (Figure 4)."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibrax.evaluation.figures import _style

SWEEP = {"color": "0.35", "marker": "o", "markersize": 5, "linewidth": 1.4}
WIDE_RANGE = 30.0  # highest rate over lowest, from which on the axis is logarithmic
# Where text may stand beside its point: offset in points, alignment.
SIDES = (
    (6, 5, "left", "bottom"), (6, -5, "left", "top"), (-6, -5, "right", "top"), (-6, 5, "right", "bottom"),
    (0, 9, "center", "bottom"), (0, -9, "center", "top"), (10, 0, "left", "center"), (-10, 0, "right", "center"),
)  # fmt: skip
DISTORTION = "distortion: −log p(x|z) (nats per image)"


class Point(NamedTuple):
    """A trained model between rate and distortion, nats."""

    label: str
    rate: float
    distortion: float
    rate_stderr: float | None = None
    distortion_stderr: float | None = None
    swept: bool = False  # one of the sweep over β


class InformationPoint(NamedTuple):
    """How one encoder's rate splits, nats; the plain Monte Carlo estimates and the bounds from the other side."""

    label: str
    beta: float  # effective β, 2σ²
    rate: float
    mutual_information: float
    marginal_kl: float
    mutual_information_bound: float  # upper
    marginal_kl_bound: float  # lower
    swept: bool


class Quantity(NamedTuple):
    """A curve of `save_information`."""

    name: str
    field: str  # of `InformationPoint`
    color: str
    marker: str
    is_bound: bool = False  # dashed, with hollow markers


RATE = Quantity("rate", "rate", "#000000", "s")
PARTS = (
    (
        Quantity("mutual information, plain estimate", "mutual_information", "#0072B2", "o"),
        Quantity("mutual information, upper bound", "mutual_information_bound", "#0072B2", "o", is_bound=True),
    ),
    (
        Quantity("marginal KL, plain estimate", "marginal_kl", "#D55E00", "^"),
        Quantity("marginal KL, lower bound", "marginal_kl_bound", "#D55E00", "^", is_bound=True),
    ),
)


def save_rate_distortion(
    path: str | Path, points: Sequence[Point], *, distortion_label: str = DISTORTION, title: str | None = None
) -> None:
    """Plot distortion against rate, 1000 pixels wide and at least 600 high, with bars of one standard error.

    The sweep over β is a curve in the order of the rate, labelled along the curve; every other model is a marker with
    an entry in the legend. The axis of the rate is logarithmic if it spans more than a factor of 30. Points that are
    not finite are left out.

    Args:
      path: ends in .png or .svg, else ValueError; folders are made.
      points: the models. Distortions with different σ do not compare; the caller must give comparable ones.
      distortion_label: of the vertical axis.
      title: above the plot.
    """
    names = ["sweep over β", *(_style.shortened(point.label) for point in points if not point.swept)]
    with _style.figure_file(path, 1000, 600 + _style.legend_height(names, 1000), title) as figure:
        axes = figure.subplots()
        _style.tidy(axes, "rate: KL from the prior (nats per image)", distortion_label)
        points = [point for point in points if _style.finite(point.rate, point.distortion)]
        sweep = sorted((point for point in points if point.swept), key=lambda point: point.rate)
        handles = []
        if sweep:
            handles.append((_draw_point(axes, sweep, SWEEP), "sweep over β"))
        for index, point in enumerate(point for point in points if not point.swept):
            style = _style.line_style(index) | {"linestyle": "", "markersize": 9, "markeredgecolor": "white"}
            handles.append((_draw_point(axes, [point], style), _style.shortened(point.label)))
        if points:
            _set_limits(axes, points)
        else:
            _style.no_values(axes)
        _style.legend_below(figure, handles)
        if sweep:
            places, others = (np.array([(p.rate, p.distortion) for p in chosen]) for chosen in (sweep, points))
            label_curve(axes, [_style.shortened(point.label) for point in sweep], places, others)


def _draw_point(axes, points: Sequence[Point], style: dict[str, Any]) -> Any:
    """Markers with bars; returns the legend's handle."""
    rates, distortions = [point.rate for point in points], [point.distortion for point in points]
    bars = {"ecolor": style["color"], "elinewidth": 1.0, "capsize": 2}
    x_bars, y_bars = (
        [value if _style.finite(value := getattr(point, field)) else 0.0 for point in points]
        for field in ("rate_stderr", "distortion_stderr")
    )
    axes.errorbar(rates, distortions, xerr=x_bars, yerr=y_bars, fmt="none", zorder=2, **bars)
    return axes.plot(rates, distortions, zorder=3, **style)[0]


def _set_limits(axes, points: Sequence[Point]) -> None:
    rates = [point.rate for point in points]
    if min(rates) > 0 and max(rates) > WIDE_RANGE * min(rates):
        _style.logarithmic(axes, "x", min(rates) / 1.5, max(rates) * 3)  # room for the last label
    else:
        axes.margins(x=0.08)
    axes.margins(y=0.1)
    axes.yaxis.set_major_formatter("{x:,g}")


def label_curve(axes, names: Sequence[str], points: np.ndarray, obstacles: np.ndarray) -> None:
    """Write each name beside its point, on the side where it covers least of the curve, obstacles and earlier names.

    Args:
      axes: with everything else drawn.
      names: one per point.
      points: [N, 2] in data coordinates, joined to a curve.
      obstacles: [K, 2] other points that should stay visible, in data coordinates.
    """
    axes.get_figure().draw_without_rendering()  # fixes where the data lie on the page
    corners = axes.transData.transform(points)
    along = [np.linspace(start, end, 60) for start, end in itertools.pairwise(corners)]
    obstacles = np.concatenate([corners, *along, axes.transData.transform(obstacles)])
    frame = axes.get_window_extent()
    taken: list[Any] = []
    for name, point in zip(names, points, strict=True):
        text = axes.annotate(name, point, textcoords="offset points", xytext=(0, 0), fontsize=10, color="0.25")
        text.set_in_layout(False)

        def cost(side, text=text):
            box = _put(text, side).padded(2)
            covered = ((obstacles > (box.x0, box.y0)) & (obstacles < (box.x1, box.y1))).all(axis=1).sum()
            outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
            return covered + 100 * outside + 100 * sum(box.overlaps(other) for other in taken)

        taken.append(_put(text, min(SIDES, key=cost)))


def _put(text, side) -> Any:
    """Move an annotation to a side of its point; returns its box on the page."""
    dx, dy, across, upright = side
    text.set(position=(dx, dy), ha=across, va=upright)
    return text.get_window_extent()


def save_information(
    path: str | Path, points: Sequence[InformationPoint], *, cap: float, title: str | None = None
) -> None:
    """Plot rate, mutual information and marginal KL against the effective β, 1100 by 750 pixels.

    Each of the two parts of the rate has its plain Monte Carlo estimate and the bound from the other side, with the
    gap between them shaded. Models outside the sweep are vertical dashed lines at their effective β, with larger
    markers. Values that are not finite, or a β that is not positive, are left out.

    Args:
      path: ends in .png or .svg, else ValueError; folders are made.
      points: the encoders, of one data set.
      cap: ln N, which the plain mutual information cannot exceed.
      title: above the plot.

    References:
      Figure 4.
    """
    with _style.figure_file(path, 1100, 750, title) as figure:
        axes = figure.subplots()
        _style.tidy(axes, "effective β = 2σ²", "nats per image")
        points = sorted((p for p in points if _style.finite(p.beta) and p.beta > 0), key=lambda point: point.beta)
        if not points:
            _style.no_values(axes)
            return
        sweep, others = ([point for point in points if point.swept == swept] for swept in (True, False))
        entries = [(_draw_quantity(axes, RATE, sweep, others), RATE.name)]
        cap_line = axes.axhline(cap, color="0.25", linestyle=(0, (1, 1.5)), linewidth=1.4)
        entries.append((cap_line, "cap of the plain mutual information"))
        axes.text(1.01, cap, f"ln N = {cap:.1f}", transform=axes.get_yaxis_transform(), va="center", fontsize=10)
        for part in PARTS:
            (betas, values), (_, bounds) = (_column(sweep, quantity.field) for quantity in part)
            axes.fill_between(betas, values, bounds, color=part[0].color, alpha=0.12, linewidth=0)
            entries += [(_draw_quantity(axes, quantity, sweep, others), quantity.name) for quantity in part]
        _style.logarithmic(axes, "x", points[0].beta / 1.6, points[-1].beta * 1.6)
        axes.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        _draw_verticals(axes, others)
        _style.legend_below(figure, entries, columns=3)


def _draw_quantity(axes, quantity: Quantity, sweep, others) -> Any:
    """A line over the sweep, larger markers for the others; returns the legend's handle."""
    style = {"color": quantity.color, "marker": quantity.marker, "linewidth": 1.8}
    edge = {"markeredgecolor": "white"}
    if quantity.is_bound:
        style |= {"linestyle": (0, (5, 2)), "linewidth": 1.2}
        edge = {"markerfacecolor": "none", "markeredgewidth": 1.6}
    axes.plot(*_column(others, quantity.field), zorder=4, **(style | edge | {"linestyle": "", "markersize": 10}))
    face = {"markerfacecolor": "white"} if quantity.is_bound else {}
    return axes.plot(*_column(sweep, quantity.field), markersize=5, **style, **face)[0]


def _column(points: Sequence[InformationPoint], field: str) -> tuple[np.ndarray, np.ndarray]:
    """β and a quantity; NaN where it is not finite, which leaves a gap."""
    values = [getattr(point, field) for point in points]
    numbers = [value if _style.finite(value) else np.nan for value in values]
    return np.array([point.beta for point in points], float), np.array(numbers, float)


def _draw_verticals(axes, points: Sequence[InformationPoint]) -> None:
    """Dashed lines with labels above the axes, one label per row of text, the leftmost in the highest row."""
    low, high = np.log(axes.get_xlim())
    for row, point in enumerate(reversed(points)):
        at, top = (np.log(point.beta) - low) / (high - low), 1.02 + 0.045 * row
        line = {"color": "0.35", "linestyle": (0, (5, 3)), "linewidth": 1.2, "zorder": 1, "clip_on": False}
        axes.plot([at, at], [0, top + 0.03], transform=axes.transAxes, **line)
        words = {"ha": "left" if at < 0.6 else "right", "va": "bottom", "fontsize": 10, "color": "0.25"}
        words |= {"zorder": 5, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
        name = f" {_style.shortened(point.label)}, β {point.beta:.3g} "
        axes.text(at, top, name, transform=axes.transAxes, **words)
