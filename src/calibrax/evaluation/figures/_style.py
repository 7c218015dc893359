"""What the figures share: the file, colours, axes, the legend.

They are drawn through matplotlib's object interface: no display, no global state.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from calibrax._files import write_whole

# Okabe and Ito's palette (jfly.uni-koeln.de/color), which colour-blind readers can tell apart as well.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# No times or versions: the same input gives the same bytes.
METADATA = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
LINE_STYLES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))  # one for each pass through the colours
LONGEST_LABEL = 64  # characters


@contextmanager
def figure_file(path: str | Path, width: int, height: int, title: str | None = None) -> Iterator[Any]:
    """An empty matplotlib figure, written whole to `path` when the block ends; ValueError unless that is .png or .svg.

    Width and height are pixels of the PNG, 100 per inch. An SVG keeps text as text.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    suffix = figure_suffix(path)
    # A $ in a run's name must not start a formula. The salt makes the ids of an SVG the same each time.
    with matplotlib.rc_context({"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "calibrax"}):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inches
        figure = Figure(figsize=(width / 100, height / 100), dpi=100, layout=layout)
        if title:
            figure.suptitle(title, fontsize=13)
        yield figure
        options = {"format": suffix[1:], "metadata": METADATA[suffix]}
        with warnings.catch_warnings():
            # A character that the typeface lacks is drawn as an empty box.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)
            write_whole(path, lambda temporary: figure.savefig(temporary, **options))


def figure_suffix(path: str | Path) -> str:
    """`.png` or `.svg`; raises ValueError for another ending."""
    suffix = Path(path).suffix.lower()
    if suffix not in METADATA:
        raise ValueError(f"path is {path}; expected a name that ends in .png or .svg")
    return suffix


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the index-th of several curves; different for up to 28."""
    rounds, index = divmod(index, len(COLORS))
    dashes = LINE_STYLES[rounds % len(LINE_STYLES)]
    return {"color": COLORS[index], "marker": MARKERS[(index + rounds) % len(MARKERS)], "linestyle": dashes}


def shortened(label: str) -> str:
    """The label, without its middle if it is too long to be drawn."""
    half = LONGEST_LABEL // 2
    return label if len(label) <= LONGEST_LABEL else f"{label[: half - 1]}…{label[-half:]}"


def tidy(axes, x_label: str, y_label: str = "", title: str = "") -> None:
    """Axis labels, a pale grid, no box."""
    axes.set_xlabel(x_label, fontsize=11)
    axes.set_ylabel(y_label, fontsize=11)
    axes.set_title(title, fontsize=12, loc="left")
    axes.grid(True, alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def logarithmic(axes, which: str, low: float, high: float) -> None:
    """Make the axis "x" or "y" logarithmic, from `low` to `high`, with ticks at powers of ten or also at 2 and 5."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(
        MaxNLocator(6) if high < 4 * low else LogLocator(subs=(1, 2, 5) if high < 500 * low else (1,))
    )
    axis.set_major_formatter("{x:,.12g}")
    axis.set_minor_locator(NullLocator())


def no_values(axes) -> None:
    """Say in an empty panel that there is nothing to show."""
    axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color="gray")
    axes.set(xticks=[], yticks=[])


def legend_columns(names: Sequence[str], width: int) -> int:
    """The number of legend columns, each as wide as its longest name, that fit into `width` pixels."""
    for columns in range(len(names), 1, -1):
        split = np.array_split([len(name) for name in names], columns)  # as matplotlib does
        if sum(8 * lengths.max() + 85 for lengths in split) <= width:
            return columns
    return 1


def legend_height(names: Sequence[str], width: int) -> int:
    """The height in pixels of `legend_below` in a figure of this width."""
    return 25 * -(-len(names) // legend_columns(names, width))


def legend_below(figure, entries: Sequence[tuple[Any, str]], columns: int | None = None) -> None:
    """One legend under all panels, of (handle, name) pairs; by default with as many columns as fit."""
    if not entries:
        return
    handles, names = zip(*entries, strict=True)
    columns = columns or legend_columns(names, round(figure.get_figwidth() * 100))
    place = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(handles, names, fontsize=11, handlelength=2.6, **place)


def finite(*values: Any) -> bool:
    """Whether all values are finite numbers."""
    return all(isinstance(value, int | float | np.number) and math.isfinite(value) for value in values)
