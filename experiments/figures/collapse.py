"""Active units and rate against the constant σ of a decoder, beside those of the optimal linear VAE."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from calibrax.evaluation.figures import _style
from experiments.report import Mean

CONSTANT = {"color": "#0072B2", "marker": "o", "markersize": 6}
OPTIMAL = {"color": "#D55E00", "marker": "D", "markersize": 8}
LINEAR = {"color": "0.35", "linewidth": 1.6}
LIMIT = {"color": "0.35", "linewidth": 1.4, "linestyle": (0, (5, 3))}


class Point(NamedTuple):
    """A decoder, over all seeds."""

    label: str
    sigma: Mean
    active: Mean  # units
    rate: Mean  # nats
    is_constant: bool  # whether σ was given


def linear_vae(variances: np.ndarray, sigma: float) -> tuple[int, float]:
    """What the optimal linear VAE encodes at a constant σ: active units, and the rate in nats.

    Args:
      variances: the largest eigenvalues of the data's covariance, one per latent.
      sigma: of the decoder, in the same units.

    Returns:
      The number of eigenvalues above σ², and ½ Σ log(λ/σ²) over them.
    """
    ratio = np.maximum(variances / sigma**2, 1)
    return int((ratio > 1).sum()), float(0.5 * np.log(ratio).sum())


def save_collapse(
    path: str | Path, points: Sequence[Point], variances: np.ndarray, *, title: str | None = None
) -> None:
    """Plot active units and rate against σ, 1200 by 560 pixels, with bars of one standard error.

    The axis of σ is logarithmic, with β = 2σ² at the top. Decoders of a constant σ are circles, others diamonds. Beside
    them are the curves of the optimal linear VAE, and the σ from which on it encodes nothing.

    Args:
      path: ends in .png or .svg, else ValueError; folders are made.
      points: the decoders.
      variances: as for `linear_vae`, the largest first.
      title: above the plot.
    """
    from matplotlib.ticker import MaxNLocator

    with _style.figure_file(path, 1200, 560, title) as figure:
        left, right = figure.subplots(1, 2)
        limit = math.sqrt(variances[0])
        ends = [limit, *(point.sigma.value for point in points)]
        sigmas = np.geomspace(min(ends) / 1.5, max(ends) * 1.5, 1000)
        active, rate = np.transpose([linear_vae(variances, sigma) for sigma in sigmas])
        for axes, curve, field, name in (
            (left, active, "active", "active units"),
            (right, rate, "rate", "rate (nats per image; linear below 1)"),
        ):
            _style.tidy(axes, "σ of the decoder (units of the data)", name)
            _style.logarithmic(axes, "x", sigmas[0], sigmas[-1])
            entries = _draw_points(axes, points, field)
            entries.append((axes.plot(sigmas, curve, **LINEAR)[0], "optimal linear VAE"))
            entries.append((axes.axvline(limit, **LIMIT), f"linear VAE encodes nothing from σ = {limit:.3g} on"))
            _draw_beta(axes)
        left.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        _make_linear_below_1(right)
        _style.legend_below(figure, entries)


def _draw_points(axes, points: Sequence[Point], field: str) -> list[tuple[Any, str]]:
    """Returns the entries of the legend."""
    entries = []
    for is_constant, style, name in ((True, CONSTANT, "network, constant σ"), (False, OPTIMAL, "network, optimal σ")):
        chosen = [point for point in points if point.is_constant == is_constant]
        if chosen:
            means = [getattr(point, field) for point in chosen]
            bars = axes.errorbar(
                [point.sigma.value for point in chosen],
                [mean.value for mean in means],
                yerr=[mean.stderr or math.nan for mean in means],
                linestyle="",
                capsize=4,
                zorder=3,
                **style,
            )
            entries.append((bars, name))
    return entries


def _make_linear_below_1(axes) -> None:
    """A vertical axis that is logarithmic above 1 and linear below, so that 0 has a place on it."""
    from matplotlib.ticker import SymmetricalLogLocator

    top = axes.get_ylim()[1]
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(-0.1, 1.5 * top)
    axes.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")


def _draw_beta(axes) -> None:
    """β = 2σ² at the top."""
    from matplotlib.ticker import LogLocator, NullLocator

    top = axes.secondary_xaxis("top", functions=(lambda sigma: 2 * sigma**2, lambda beta: np.sqrt(beta / 2)))
    top.set_xlabel("β = 2σ²", fontsize=11)
    top.xaxis.set_major_locator(LogLocator())
    top.xaxis.set_major_formatter("{x:,.12g}")
    top.xaxis.set_minor_locator(NullLocator())
