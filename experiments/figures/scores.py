"""Scores of many models as dots, beside the numbers of a paper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from calibrax.evaluation.figures import _style

PANEL_WIDTH, LABEL_WIDTH, ROW_HEIGHT = 450, 180, 32  # pixels, about
OURS = {"color": "#0072B2", "marker": "o", "markersize": 7, "linestyle": ""}
PAPER = {"color": "#D55E00", "marker": "D", "markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6}
DOUBTFUL = PAPER | {"color": "0.55"}
CROSS = {"color": "0.55", "marker": "x", "markersize": 6, "markeredgewidth": 1.4, "linestyle": ""}


class Score(NamedTuple):
    """One number of one model."""

    label: str
    value: float | None
    stderr: float | None
    paper: float | None  # the published number
    doubtful: bool = False  # whether the published number is in doubt


Group = tuple[str, Sequence[Score]]


def save_scores(path: str | Path, groups: Sequence[Group], *, title: str | None = None) -> None:
    """Plot one panel per group, one row per model: a dot with one standard error for ours, a diamond for the paper's.

    A number of the paper that is in doubt is grey and crossed out. A row without numbers says so. Values that are not
    finite count as missing.

    Args:
      path: ends in .png or .svg; folders are made.
      groups: (name of the horizontal axis, rows from top to bottom) each.
      title: above the panels.

    Raises:
      ValueError: if there is no group, or for another ending of `path`.
    """
    if not groups:
        raise ValueError("groups is empty; expected at least one (name, scores)")
    rows = max(1, *(len(scores) for _, scores in groups))
    width = PANEL_WIDTH * len(groups) + LABEL_WIDTH * sum(_names_rows(groups))
    with _style.figure_file(path, max(800, width), 170 + ROW_HEIGHT * rows, title) as figure:
        panels = figure.subplots(1, len(groups), squeeze=False)[0]
        for axes, (name, scores), names_rows in zip(panels, groups, _names_rows(groups), strict=True):
            _style.tidy(axes, name)
            _draw_rows(axes, scores)
            axes.set_yticks(range(len(scores)), [_style.shortened(score.label) for score in scores], fontsize=11)
            axes.tick_params(axis="y", length=0, labelleft=names_rows)
        _style.legend_below(figure, _legend([score for _, scores in groups for score in scores]))


def _names_rows(groups: Sequence[Group]) -> list[bool]:
    """Whether each panel needs its own row labels: the first does, and those with other rows."""
    labels = [[score.label for score in scores] for _, scores in groups]
    return [index == 0 or own != labels[0] for index, own in enumerate(labels)]


def _draw_rows(axes, scores: Sequence[Score]) -> None:
    """Row 0 on top."""
    from matplotlib.ticker import MaxNLocator

    for row, score in enumerate(scores):
        if _style.finite(score.value):
            stderr = score.stderr if _style.finite(score.stderr) else 0.0
            axes.errorbar(score.value, row, xerr=stderr, fmt="none", ecolor=OURS["color"], elinewidth=1.6, capsize=3)
            axes.plot(score.value, row, zorder=3, **OURS)
        if _style.finite(score.paper):
            for style in (DOUBTFUL, CROSS) if score.doubtful else (PAPER,):
                axes.plot(score.paper, row, zorder=4, **style)
        if not _style.finite(score.value) and not _style.finite(score.paper):
            words = {"va": "center", "fontsize": 10, "color": "0.5", "style": "italic"}
            axes.text(0.02, row, "not reported", transform=axes.get_yaxis_transform(), **words)
    axes.set_ylim(max(len(scores), 1) - 0.5, -0.5)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter("{x:,g}")
    if not axes.lines:
        axes.set_xticks([])


def _legend(scores: Sequence[Score]) -> list[tuple[Any, str]]:
    """Entries for what was drawn."""
    from matplotlib.lines import Line2D

    def handle(style: dict[str, Any]) -> Line2D:
        return Line2D([], [], **{**style, "linestyle": ""})

    published = [score for score in scores if _style.finite(score.paper)]
    entries: list[tuple[Any, str]] = []
    if any(_style.finite(score.value) for score in scores):
        entries.append((handle(OURS), "calibrax, ± one standard error"))
    if any(not score.doubtful for score in published):
        entries.append((handle(PAPER), "paper"))
    if any(score.doubtful for score in published):
        entries.append(((handle(DOUBTFUL), handle(CROSS)), "paper, in doubt"))
    return entries
