"""Figures of a hierarchical VAE: what each of its layers holds, and its KL."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.evaluation.figures import _style
from calibrax.evaluation.figures.images import GAP, as_pixels, enlarged, tiled
from calibrax.evaluation.figures.training_curves import Row, running_median, series
from calibrax.evaluation.metrics.hierarchy import Side, Traversal

PAGE = (900, 1400)  # pixels, about: width and height to which a grid is enlarged
CHARACTER, TITLE_CHARACTER = 8.5, 10  # pixels per letter, about, at sizes 11 and 13
WIDE_RANGE = 20.0  # nats; if a KL is higher, the axis is logarithmic beyond 1 nat


def save_partial_samples(
    path: str | Path, samples: np.ndarray, originals: np.ndarray, *, side: Side, title: str | None = None
) -> None:
    """Write a grid with one column per image: the data on top, below it row k with k layers drawn from the prior.

    Args:
      samples: [L + 1, N, H, W, C], as from `partial_samples`.
      originals: [N, H, W, C], floats in [0, 1] (clipped) or uint8.
      side: which k layers, as given to `partial_samples`.

    Raises:
      ValueError: if the shapes do not fit.
    """
    samples, originals = np.asarray(samples), np.asarray(originals)
    if samples.ndim != 5 or len(samples) < 2 or samples.shape[1:] != originals.shape:
        raise ValueError(
            f"samples has shape {samples.shape}; expected (L + 1, {', '.join(map(str, originals.shape))}), "
            "rows of what originals has"
        )
    layers = len(samples) - 1
    names = ["original", "none from the prior", *(f"{side} {k} from the prior" for k in range(1, layers))]
    rows = [as_pixels(originals, "originals"), *(as_pixels(row, "samples") for row in samples)]
    _save_grid(path, np.stack(rows), [*names, f"all {layers} from the prior"], title=title)


def save_traversal(path: str | Path, traversal: Traversal, *, title: str | None = None) -> None:
    """Write a grid with one row per dimension, most active first, and one column per offset."""
    rows = np.stack([as_pixels(row) for row in traversal.images])
    names = [f"dimension {dimension}" for dimension in traversal.dimensions]
    label = f"offset in layer {traversal.layer} (posterior standard deviations)"
    columns = [_number(offset, "+.3g") if offset else "0" for offset in traversal.offsets]
    _save_grid(path, rows, names, columns, label, title)


def save_layer_kls(
    path: str | Path, rows: Sequence[Row], *, free_bits: float | None = None, title: str | None = None
) -> None:
    """Plot each layer's mean KL at the last evaluation, and over training, 1200 by 550 pixels or higher.

    On the left there is one bar per layer, the bottom layer lowest. On the right are lines in the bars' colours: test
    evaluations with markers, and fainter the running median of the training batches. Without a test evaluation the
    bars show the last training batch, and say so. If a layer has more than 20 nats, both axes are logarithmic beyond 1
    nat and linear about 0, since a layer's share of the rate may be 0 or negative. Values that are missing or not
    finite are left out. Without any KLs the figure is one empty panel, 700 pixels wide.

    Args:
      rows: those of `metrics.jsonl`, with the entries `kl/1`, the bottom, to `kl/L`, in nats; every split but "train"
        counts as test.
      free_bits: nats per layer in training, a dashed line.
    """
    import matplotlib

    num_layers = _num_layers(rows)
    with _style.figure_file(path, 1200 if num_layers else 700, max(550, 200 + 24 * num_layers), title) as figure:
        means, name = last_means(rows)
        over_training = len(means) > 0
        panels = figure.subplots(1, 2, width_ratios=(2, 3)) if over_training else [figure.subplots()]
        _style.tidy(panels[0], "KL (nats per image)", "layer, from the bottom", f"KL of each layer: {name}")
        # Dark at the bottom; without the pale end of the map, which is hard to see on white.
        colors = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, num_layers))
        _draw_bars(panels[0], means, colors, free_bits or 0.0)
        entries = []
        if over_training:
            _style.tidy(panels[1], "training step", "KL (nats per image)", "over training, colours as on the left")
            entries += _draw_lines(panels[1], rows, colors, free_bits or 0.0)
            if free_bits is not None:
                style = {"color": "0.25", "linestyle": (0, (5, 3)), "linewidth": 1.2, "zorder": 1}
                entries.append((panels[0].axvline(free_bits, **style), f"free bits: {free_bits:g} nats a layer"))
                panels[1].axhline(free_bits, **style)
        _style.legend_below(figure, entries)


def _draw_bars(axes, means: np.ndarray, colors: np.ndarray, free_bits: float) -> None:
    """One bar per layer, with its number beside it."""
    if not np.isfinite(means).any():
        _style.no_values(axes)
        return
    places = np.arange(1, len(means) + 1)
    axes.barh(places, np.nan_to_num(means), color=colors[: len(means)], height=0.75)
    _set_scale(axes, "x", np.append(means, free_bits))
    axes.axvline(0, color="0.35", linewidth=0.8)
    for place, mean in zip(places, means, strict=True):
        words = {"va": "center", "fontsize": 10, "color": "0.25", "textcoords": "offset points"}
        words |= {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
        text = _number(mean, ",.3g" if abs(mean) < 999.5 else ",.0f")
        axes.annotate(text if np.isfinite(mean) else "none", (max(np.nan_to_num(mean), 0), place), (4, 0), **words)
    axes.set_yticks(places)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    axes.set_ylim(0.4, len(means) + 0.6)


def _draw_lines(axes, rows: Sequence[Row], colors: np.ndarray, free_bits: float) -> list[tuple[Any, str]]:
    """One line per layer and split; returns the legend's entries."""
    from matplotlib.lines import Line2D

    entries, drawn = [], []
    for is_train, name in ((True, "training batches, running median"), (False, "test set")):
        curves = [
            series(rows, lambda row, layer=layer: _kl(row, layer), is_train, positive=False)
            for layer in range(1, len(colors) + 1)
        ]
        if not any(len(steps) for steps, _ in curves):
            continue
        if is_train:
            curves = [running_median(*curve) if len(curve[0]) else curve for curve in curves]
        style: dict[str, Any] = (
            {"linewidth": 1.0, "alpha": 0.6} if is_train else {"linewidth": 1.6, "marker": "o", "markersize": 4}
        )
        for curve, color in zip(curves, colors, strict=True):
            axes.plot(*curve, color=color, **style)
        entries.append((Line2D([], [], color="0.35", **style), name))
        drawn += [values for _, values in curves]
    if not drawn:
        _style.no_values(axes)
        return entries
    _set_scale(axes, "y", np.append(np.concatenate(drawn), free_bits))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.margins(x=0.02)
    axes.set_xlim(left=0)
    return entries


def _set_scale(axes, which: str, values: np.ndarray) -> None:
    """Limits with room for the values, 0 and the numbers beside bars; logarithmic beyond 1 nat for a wide range."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    values = np.append(values[np.isfinite(values)], 0.0)
    low, high = values.min(), values.max()
    axis = getattr(axes, f"{which}axis")
    if max(high, -low) <= WIDE_RANGE:
        margin = 0.14 * (high - low) or 1.0
        axes.set(**{f"{which}lim": (low - margin * (low < 0), high + margin)})
        axis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    else:
        factor = 6 if which == "x" else 1.5
        getattr(axes, f"set_{which}scale")("symlog", linthresh=1, linscale=0.6)  # linear from -1 to 1
        axes.set(**{f"{which}lim": (min(1.5 * low, low - 0.15) if low < 0 else 0, max(factor * high, 1))})
        steps = (1,) if max(high, -low) > (40 if which == "x" else 1000) else (1, 2, 5)
        ticks = np.array([step * 10.0**power for power in range(16) for step in steps])
        axis.set_major_locator(FixedLocator([*-ticks[::-1], 0, *ticks]))
        axis.set_minor_locator(NullLocator())
        axis.set_label_text(f"{axis.get_label_text()}, logarithmic beyond 1")
    axis.set_major_formatter("{x:,g}")


def last_means(rows: Sequence[Row]) -> tuple[np.ndarray, str]:
    """Each layer's KL in the last test row that has any, or else the last training row; and a name for that row."""
    for is_train, name in ((False, "test set, step {:,}"), (True, "training batch, step {:,}")):
        chosen = [row for row in rows if (row["split"] == "train") == is_train and _num_layers([row])]
        if chosen:
            last = max(chosen, key=lambda row: row["step"])
            values = [_kl(last, layer) for layer in range(1, _num_layers([last]) + 1)]
            return np.array([np.nan if value is None else value for value in values]), name.format(last["step"])
    return np.array([]), "no evaluation"


def _num_layers(rows: Sequence[Row]) -> int:
    """L, from the entries kl/1 ... kl/L."""
    return max(
        (int(name[3:]) for row in rows for name in row if name.startswith("kl/") and name[3:].isdigit()), default=0
    )


def _kl(row: Row, layer: int) -> float | None:
    value = row.get(f"kl/{layer}")
    return value if _style.finite(value) else None


def _number(value: float, form: str) -> str:
    """The number with the minus sign that matplotlib's axes use."""
    return f"{value:{form}}".replace("-", "−")


def _save_grid(
    path: str | Path,
    rows: np.ndarray,
    names: Sequence[str],
    columns: Sequence[str] = (),
    label: str = "",
    title: str | None = None,
) -> None:
    """Write images [R, K, H, W, 3] uint8, each pixel enlarged to a square of whole pixels, with names of the rows.

    `columns` are names under the columns, `label` stands under these. A long title is wrapped.
    """
    num, across, height, width, _ = rows.shape
    scale = max(1, min(PAGE[0] // (across * (width + GAP)), PAGE[1] // (num * (height + GAP))))
    cell_height, cell_width = scale * height + GAP, scale * width + GAP
    picture = tiled(enlarged(rows.reshape(-1, height, width, 3), scale), across)[GAP:, GAP:]
    left = round(CHARACTER * max(map(len, names))) + 20
    page_width = max(left + picture.shape[1], 480) + 10
    lines = textwrap.wrap(title or "", page_width // TITLE_CHARACTER)
    top, bottom = 22 * len(lines) + 12, 55 if columns else 10
    page_height = top + len(picture) + bottom
    with _style.figure_file(path, page_width, page_height) as figure:
        figure.set_layout_engine("none")  # the place of every pixel is known
        box = (left, bottom, picture.shape[1], len(picture))
        axes = figure.add_axes([box[0] / page_width, box[1] / page_height, box[2] / page_width, box[3] / page_height])
        axes.imshow(picture, interpolation="none", aspect="auto")
        axes.set_yticks(cell_height * np.arange(num) + (cell_height - GAP) / 2, names, fontsize=11)
        axes.set_xticks(cell_width * np.arange(len(columns)) + (cell_width - GAP) / 2, columns, fontsize=11)
        axes.set_xlabel(label, fontsize=11)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        if lines:
            figure.suptitle("\n".join(lines), fontsize=13, y=1 - 6 / page_height, va="top")
