"""What each of several choices costs, with its number beside the point."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from calibrax.evaluation.figures import _style

LINEAR = 10.0  # the axis is linear up to this size, and logarithmic beyond it
SIZES = [digit * 10**power for power in range(1, 6) for digit in (1, 2, 5)]
TICKS = [*(-size for size in reversed(SIZES)), -5, 0, 5, *SIZES]  # of a logarithmic axis


class Cost(NamedTuple):
    """What one choice costs."""

    label: str
    value: float
    stderr: float | None
    is_fair: bool = True  # False: the choice uses what it is measured on


def save_costs(path: str | Path, costs: Sequence[Cost], *, unit: str, title: str | None = None) -> None:
    """Plot one row per choice, a point with its number, 1000 pixels wide; choices that are not fair are hollow.

    Args:
      path: ends in .png or .svg; folders are made.
      costs: rows from top to bottom.
      unit: the name of the horizontal axis.
      title: above the plot.

    Raises:
      ValueError: if there is no row, or for another ending of `path`.
    """
    if not costs:
        raise ValueError("costs is empty; expected at least one")
    with _style.figure_file(path, 1000, 190 + 40 * len(costs), title) as figure:
        axes = figure.subplots()
        _style.tidy(axes, unit)
        axes.axvline(0, color="0.35", linewidth=1.2, zorder=1)
        for row, cost in enumerate(costs):
            color = _style.COLORS[0] if cost.is_fair else _style.COLORS[1]
            face = color if cost.is_fair else "none"
            point = {"color": color, "markerfacecolor": face, "markersize": 8, "elinewidth": 1.8, "capsize": 4}
            axes.errorbar(cost.value, row, xerr=cost.stderr or 0.0, fmt="o", **point)
            number = f"{cost.value:.2f}" + (f" ± {cost.stderr:.2f}" if cost.stderr is not None else "")
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "fontsize": 10}
            axes.annotate(number, (cost.value, row), bbox=box, **place)
        axes.set_yticks(range(len(costs)), [_style.shortened(cost.label) for cost in costs], fontsize=11)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(costs) - 0.5, -0.7)
        axes.margins(x=0.1)
        if max(abs(cost.value) for cost in costs) > 2 * LINEAR:
            axes.set_xscale("symlog", linthresh=LINEAR)
            low, high = axes.get_xlim()
            axes.set_xticks([tick for tick in TICKS if low <= tick <= high])
            axes.minorticks_off()
            axes.xaxis.set_major_formatter("{x:,g}")
        handles = {cost.is_fair: axes.containers[row][0] for row, cost in enumerate(costs)}
        names = {True: "chosen without test images", False: "chosen from the test images that it scores"}
        _style.legend_below(figure, [(handles[fair], names[fair]) for fair in names if fair in handles])
