"""Coverage of central intervals, and where values fall in what is predicted for them, of several decoders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibrax.evaluation.figures import _style

REFERENCE = {"color": "0.35", "linestyle": (0, (5, 3)), "linewidth": 1.2, "zorder": 1}


class Observed(NamedTuple):
    """What was observed of one decoder: shares of values from 0 to 1, and their standard errors; 0 if unknown."""

    inside: np.ndarray  # [2, levels]: in the central interval of each nominal level
    below: np.ndarray  # [2, bins]: up to the end of each of equally probable bins of the predicted distribution


def save_coverage(
    path: str | Path,
    kinds: Mapping[str, Mapping[str, Observed]],
    levels: Sequence[float],
    *,
    title: str | None = None,
) -> None:
    """Plot one column per kind of value, one line per decoder, 600 pixels wide each and 1020 high.

    Above is the share of values in central intervals against the intervals' level, below the distribution function of
    the probability integral transform. Both are the diagonal if calibrated. Below, a step at the left end are values
    under everything that is predicted, and one at the right end values over it.

    Args:
      path: ends in .png or .svg; folders are made.
      kinds: by the name of the kind, what was observed of each decoder, by its label; the same decoders in each.
      levels: nominal coverage, in (0, 1).
      title: above all panels.

    Raises:
      ValueError: if there is no kind, or for another ending of `path`.
    """
    if not kinds:
        raise ValueError("kinds is empty; expected at least one")
    with _style.figure_file(path, 600 * len(kinds), 1020, title) as figure:
        panels = figure.subplots(2, len(kinds), squeeze=False)
        lines: list[Any] = []
        for (kind, decoders), above, below in zip(kinds.items(), *panels, strict=True):
            _style.tidy(above, "level of the central interval (%)", "values inside (%, ± one standard error)", kind)
            _style.tidy(below, "quantile of the prediction (%)", "values below it (%, ± one standard error)", kind)
            lines = _draw(above, levels, [observed.inside for observed in decoders.values()])
            num_bins = next(iter(decoders.values())).below.shape[1]
            ends = np.arange(1, num_bins + 1) / num_bins
            _draw(below, ends, [observed.below for observed in decoders.values()])
        _style.legend_below(figure, list(zip(lines, ["calibrated", *next(iter(kinds.values()))], strict=True)))


def _draw(axes, at: Sequence[float] | np.ndarray, observed: Sequence[np.ndarray]) -> list[Any]:
    """The diagonal, and one line per decoder from the origin."""
    lines = axes.plot([0, 100], [0, 100], **REFERENCE)
    for index, (share, stderr) in enumerate(observed):
        x, y, error = (100 * np.concatenate([[0], values]) for values in (at, share, stderr))
        style = {"markersize": 4, "linewidth": 1.5, "capsize": 3} | _style.line_style(index)
        lines.append(axes.errorbar(x, y, error, **style))
    axes.set(xlim=(0, 101), ylim=(-2, 102))
    return lines
