"""Training curves of a run as one figure."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibrax.evaluation.figures import _style
from calibrax.evaluation.figures._style import COLORS

TRAIN_COLOR, TEST_COLOR = COLORS[:2]
NUM_SMOOTH = 400  # points of the smoothed curves

Row = dict[str, Any]  # a line of metrics.jsonl
PANEL_SIZE = 560, 360  # of a panel in a figure of its own, pixels


class Panel(NamedTuple):
    """One quantity of a run over training steps."""

    name: str
    value: Callable[[Row], float | None]
    logarithmic: bool = False


def save_training_curves(path: str | Path, rows: Sequence[Row], *, title: str | None = None) -> None:
    """Plot a run: -ELBO, rate, distortion and σ by training step, 1200 by 800 pixels.

    Training batches are a thin line with their running median over it; test evaluations are points. The vertical axes
    leave out the first steps, whose values are orders of magnitude off; a test value beyond an axis is a triangle at
    its edge. For a decoder without σ the last panel shows the root mean squared error, and says so. Values that are
    missing or not finite are left out. `rows` are those of `metrics.jsonl`, `{"step", "split", ...}`; every split but
    "train" counts as test.
    """
    with _style.figure_file(path, 1200, 800, title) as figure:
        handles: dict[str, Any] = {}
        for axes, panel in zip(figure.subplots(2, 2).flat, panels(rows), strict=True):
            handles |= _draw_panel(axes, rows, panel.value, panel.logarithmic)
            _style.tidy(axes, "training step", title=panel.name)
            axes.margins(x=0.02)
        _style.legend_below(figure, [(handle, name) for name, handle in handles.items()], columns=3)


def save_training_panel(path: str | Path, rows: Sequence[Row], panel: Panel) -> None:
    """Plot one of the panels of `save_training_curves`, without its name and without a legend, 560 by 360 pixels."""
    with _style.figure_file(path, *PANEL_SIZE) as figure:
        axes = figure.subplots()
        _draw_panel(axes, rows, panel.value, panel.logarithmic)
        _style.tidy(axes, "training step")
        axes.margins(x=0.02)


def panels(rows: Sequence[Row]) -> list[Panel]:
    """-ELBO, rate, distortion, and σ; instead of σ the root mean squared error if the decoder has none."""
    has_sigma = any(sigma(row) is not None for row in rows)
    return [
        Panel("−ELBO (nats per example)", neg_elbo),
        Panel("rate: KL from the prior (nats per example)", lambda row: _number(row.get("rate"))),
        Panel("distortion: −log p(x|z) (nats per example)", lambda row: _number(row.get("distortion"))),
        Panel("σ that the decoder used (units of the data)", sigma, logarithmic=True)
        if has_sigma
        else Panel("root mean squared error (units of the data)", _rmse, logarithmic=True),
    ]


def _draw_panel(axes, rows: Sequence[Row], value: Callable[[Row], float | None], logarithmic: bool) -> dict[str, Any]:
    """Lines and points of one quantity; returns the legend's handles by name."""
    train, test = (series(rows, value, is_train, positive=logarithmic) for is_train in (True, False))
    handles = {}
    if len(train[0]):
        centres, smooth = running_median(*train)
        (thin,) = axes.plot(*train, color=TRAIN_COLOR, alpha=0.25, linewidth=0.8)
        (thick,) = axes.plot(centres, smooth, color=TRAIN_COLOR, linewidth=1.8)
        handles |= {"training batch": thin, "training batches, running median": thick}
    if len(test[0]):
        (points,) = axes.plot(*test, "o", color=TEST_COLOR, markersize=6)
        handles["test set"] = points
    if not handles:
        _style.no_values(axes)
        return handles
    _set_limits(axes, train[1], test[1], logarithmic)
    mark_outside(axes, *test)
    return handles


def _set_limits(axes, train: np.ndarray, test: np.ndarray, logarithmic: bool) -> None:
    """Limits with room for 98 % of training values after the first twentieth, and for test values not far beyond."""
    if logarithmic:
        train, test = np.log(train), np.log(test)
    low, high = np.percentile(train[min(max(1, len(train) // 20), len(train) - 1) :] if len(train) else test, [1, 99])
    size = 1.0 if logarithmic else 0.1 * max(abs(low), abs(high))
    reach = max(high - low, size) or math.inf
    near = np.append(test[(test > low - reach) & (test < high + reach)], [low, high])
    low, high = near.min(), near.max()
    margin = max(0.08 * (high - low), 0.05 * size) or 1.0
    low, high = low - margin, high + margin
    axes.xaxis.set_major_formatter("{x:,.0f}")
    if logarithmic:
        _style.logarithmic(axes, "y", math.exp(low), math.exp(high))
    else:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter("{x:,g}")


def mark_outside(axes, steps: np.ndarray, values: np.ndarray, color: str = TEST_COLOR) -> None:
    """Triangles at the edge for points beyond it, which would otherwise not be seen."""
    low, high = axes.get_ylim()
    for beyond, edge, marker in ((values > high, high, "^"), (values < low, low, "v")):
        if beyond.any():
            at_edge = np.full(beyond.sum(), edge)
            axes.plot(steps[beyond], at_edge, marker, color=color, markersize=8, clip_on=False)


def running_median(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The median over a fortieth of the run around each of at most 400 steps; over less at the ends."""
    half = len(values) // 80
    centres = np.unique(np.linspace(0, len(values) - 1, min(len(values), NUM_SMOOTH)).round().astype(int))
    smooth = [np.median(values[max(0, i - half) : i + half + 1]) for i in centres]
    return steps[centres], np.array(smooth)


def series(rows: Sequence[Row], value, is_train: bool, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one split, in the order of the steps."""
    chosen = ((row["step"], value(row)) for row in rows if (row["split"] == "train") == is_train)
    points = sorted((step, number) for step, number in chosen if number is not None and (number > 0 or not positive))
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _number(value: Any) -> float | None:
    """The value as a float if it is a finite number, else None."""
    return float(value) if _style.finite(value) else None


def neg_elbo(row: Row) -> float | None:
    """-ELBO of a training or a test row, nats."""
    return _number(row.get("neg_elbo", row.get("loss") if row["split"] == "train" else None))


def sigma(row: Row) -> float | None:
    """The decoder's σ in a training or a test row, units of the data."""
    log_sigma = _number(row.get("log_sigma"))
    if log_sigma is None:
        return _number(row.get("sigma"))
    return math.exp(log_sigma) if abs(log_sigma) < 80 else None  # beyond, float32 is 0 or infinite


def _rmse(row: Row) -> float | None:
    mse = _number(row.get("mse"))
    return None if mse is None or mse < 0 else math.sqrt(mse)
