"""What the figures that compare runs share: the file, colours, axes, a legend, labels that keep apart.

Drawn through matplotlib's object interface on the Agg canvas: no display, no global state.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from calibrax._files import write_whole

# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart by colour-blind readers too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
METADATA = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}  # no times or versions: same in, same out
LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))  # another for each round of the colours
LONGEST_LABEL = 64  # characters
# Where text may stand beside its point: offset in points, alignment.
SIDES = (
    (6, 5, "left", "bottom"), (6, -5, "left", "top"), (-6, -5, "right", "top"), (-6, 5, "right", "bottom"),
    (0, 9, "center", "bottom"), (0, -9, "center", "top"), (10, 0, "left", "center"), (-10, 0, "right", "center"),
)  # fmt: skip


@contextmanager
def figure_file(path: str | Path, width: int, height: int) -> Iterator[Any]:
    """An empty matplotlib figure, written whole to `path` when the block ends.

    Args:
      path: ends in .png or .svg; folders are made. An SVG keeps text as text.
      width: pixels of the PNG, 100 an inch.
      height: the same.

    Raises:
      ValueError: for another ending.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    suffix = figure_suffix(path)
    # A $ in the name of a run begins no formula; the salt makes the ids in an SVG the same each time.
    with matplotlib.rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "calibrax"}):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inches
        figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout=layout)
        yield figure
        options = {"format": suffix[1:], "metadata": METADATA[suffix]}
        write_whole(path, lambda temporary: figure.savefig(temporary, **options))


def figure_suffix(path: str | Path) -> str:
    """`.png` or `.svg`; raises ValueError for another ending."""
    suffix = Path(path).suffix.lower()
    if suffix not in METADATA:
        raise ValueError(f"path is {path}; expected a name that ends in .png or .svg")
    return suffix


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the index-th of several things, none like another up to 28."""
    rounds, index = divmod(index, len(COLORS))
    dashes = LINE_STYLES[rounds % len(LINE_STYLES)]
    return {"color": COLORS[index], "marker": MARKERS[(index + rounds) % len(MARKERS)], "linestyle": dashes}


def shortened(label: str) -> str:
    """The label without its middle where it is too long to be drawn."""
    half = LONGEST_LABEL // 2
    return label if len(label) <= LONGEST_LABEL else f"{label[: half - 1]}…{label[-half:]}"


def tidy(axes, x_label: str, y_label: str = "", title: str = "") -> None:
    """Names, a pale grid, no box."""
    axes.set_xlabel(x_label, fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.set_title(title, fontsize=12, loc="left")
    axes.grid(True, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes, which: str, low: float, high: float) -> None:
    """The axis "x" or "y" from `low` to `high`, both positive, in powers or, where those are too few, in 1, 2, 5."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(
        MaxNLocator(6) if high < 4 * low else LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,))
    )
    axis.set_major_formatter("{x:,.12g}")
    axis.set_minor_locator(NullLocator())


def no_values(axes) -> None:
    axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color="gray")
    axes.set(xticks=[], yticks=[])


def legend_columns(names: Sequence[str], width: int) -> int:
    """How many columns of a legend, each as wide as its longest name, fit side by side in so many pixels."""
    for columns in range(len(names), 1, -1):
        split = np.array_split([len(name) for name in names], columns)  # as matplotlib does
        if sum(8 * lengths.max() + 85 for lengths in split) <= width:
            return columns
    return 1


def legend_height(names: Sequence[str], width: int) -> int:
    """Pixels that `legend_below` takes in a figure of that width."""
    return 25 * -(-len(names) // legend_columns(names, width))


def legend_below(figure, entries: Sequence[tuple[Any, str]], columns: int | None = None) -> None:
    """One legend under all panels, of (handle, name) each; by default as many side by side as fit."""
    if not entries:
        return
    handles, names = zip(*entries, strict=True)
    columns = columns or legend_columns(names, round(figure.get_figwidth() * 100))
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(handles, names, fontsize=11, handlelength=2.6, **place)


def spread(positions: Sequence[float], gap: float) -> np.ndarray:
    """Positions in [0, 1] moved, in their order, until neighbours are `gap` apart; kept under 1 where there is room."""
    order = np.argsort(positions, kind="stable")
    moved = np.array(positions, float)
    for before, here in itertools.pairwise(order):
        moved[here] = max(moved[here], moved[before] + gap)
    limit = 1.0
    for here in order[::-1]:
        moved[here] = limit = min(moved[here], limit)
        limit -= gap
    return moved


def label_curve(axes, names: Sequence[str], points: np.ndarray, obstacles: np.ndarray) -> None:
    """Write each name beside its point of a curve, where it covers least of the curve, obstacles and earlier names.

    Args:
      axes: with everything drawn.
      names: one a point.
      points: [N, 2] in data coordinates, joined to a curve.
      obstacles: [K, 2] what else should not be covered, in data coordinates.
    """
    axes.get_figure().draw_without_rendering()  # only then it is known where the data lie on the page
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


def finite(*values: Any) -> bool:
    """Whether all are numbers that can be drawn."""
    return all(isinstance(value, int | float | np.number) and math.isfinite(value) for value in values)
