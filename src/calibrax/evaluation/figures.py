"""Pictures: grids of images, reconstructions, training curves. NumPy in, PNG files out, each there whole or not at all.

Matplotlib's object interface with the Agg canvas: no display, no global state.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Okabe and Ito's palette, told apart by colour-blind readers too.
TRAIN_COLOR, TEST_COLOR = "#0072B2", "#D55E00"
GAP = 2  # pixels between images
BACKGROUND = 255


def save_grid(path: str | Path, images: np.ndarray, *, columns: int | None = None, title: str | None = None) -> None:
    """Write images as one grid.

    Args:
      path: a PNG; folders are made.
      images: [N, H, W, C], floats in [0, 1] (clipped; NaN is black) or uint8; C is 1 (grey), 3 (colour), or another
        number, of which the first channel is shown.
      columns: images a row; by default a grid about square.
      title: one line above.

    Raises:
      ValueError: if the shape is another.
    """
    images = as_pixels(images)
    columns = columns or math.ceil(math.sqrt(len(images)))
    _save(path, _tile(images, columns), title, _zoom(images.shape[2], columns))


def save_reconstructions(
    path: str | Path, originals: np.ndarray, reconstructions: np.ndarray, *, columns: int = 8, title: str | None = None
) -> None:
    """Write pairs of rows: data above, its reconstruction below. Shapes as in `save_grid`, equal.

    Raises:
      ValueError: if the shapes differ.
    """
    originals, reconstructions = as_pixels(originals), as_pixels(reconstructions)
    if originals.shape != reconstructions.shape:
        raise ValueError(f"reconstructions has shape {reconstructions.shape}; expected {originals.shape}")
    strips = []
    for start in range(0, len(originals), columns):
        pair = [images[start : start + columns] for images in (originals, reconstructions)]
        strips.append(np.concatenate([_tile(images, columns) for images in pair]))
    gap = np.full((3 * GAP, strips[0].shape[1], 3), BACKGROUND, np.uint8)
    rows = [part for strip in strips for part in (strip, gap)][:-1]
    title = f"{title} (data above, reconstruction below)" if title else None
    _save(path, np.concatenate(rows), title, _zoom(originals.shape[2], columns))


def save_panels(path: str | Path, panels: Sequence[tuple[str, np.ndarray]], *, columns: int = 6) -> None:
    """Write named grids side by side, each [N, H, W, C] as in `save_grid`."""
    from matplotlib.figure import Figure

    tiles = [(name, _tile(as_pixels(images), columns)) for name, images in panels]
    height, width = tiles[0][1].shape[:2]
    figure = Figure(figsize=(4 * len(tiles), 4 * height / width + 0.4), dpi=150, layout="constrained")
    for axes, (name, tile) in zip(figure.subplots(1, len(tiles), squeeze=False)[0], tiles, strict=True):
        axes.imshow(tile, interpolation="nearest")
        axes.set_title(name, fontsize=13)
        axes.axis("off")
    _write_figure(path, figure)


def save_training_curves(path: str | Path, rows: Sequence[dict[str, Any]], *, title: str | None = None) -> None:
    """Plot a run: -ELBO, rate, distortion and σ by training step.

    Training batches are a thin line with its running median over it, test evaluations are points. The axes leave out
    the first steps' values where these are orders of magnitude off. Without a σ of its own a decoder shows the root of
    its mean squared error, and says so.

    Args:
      path: a PNG.
      rows: those of `metrics.jsonl`: `{"step", "split", ...}`.
      title: above the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.6), dpi=120, layout="constrained")
    sigma = any("log_sigma" in row for row in rows)
    panels = [
        ("−ELBO (nats)", lambda row: row.get("loss", row.get("neg_elbo"))),
        ("rate: KL (nats)", lambda row: row.get("rate")),
        ("distortion: −log p(x|z) (nats)", lambda row: row.get("distortion")),
        ("decoder's σ" if sigma else "root mean squared error", _sigma_of if sigma else _rmse_of),
    ]
    for axes, (label, value) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        _plot_panel(axes, rows, value)
        axes.set_title(label, fontsize=11, loc="left")
        axes.set_xlabel("training step")
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _log_axis_where_it_helps(figure.axes[3])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), frameon=False)
    if title:
        figure.suptitle(title, fontsize=12)
    _write_figure(path, figure)


def as_pixels(images: np.ndarray) -> np.ndarray:
    """Images as uint8 [N, H, W, 3]."""
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"images has shape {images.shape}; expected [N, H, W, C] with at least one image")
    if images.dtype != np.uint8:
        images = np.round(255 * np.clip(np.nan_to_num(images.astype(np.float64)), 0, 1)).astype(np.uint8)
    return images if images.shape[3] == 3 else np.repeat(images[..., :1], 3, axis=3)


def _tile(images: np.ndarray, columns: int) -> np.ndarray:
    num, height, width, _ = images.shape
    rows = math.ceil(num / columns)
    grid = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), BACKGROUND, np.uint8)
    for index, image in enumerate(images):
        top, left = (GAP + n * (size + GAP) for n, size in zip(divmod(index, columns), (height, width), strict=True))
        grid[top : top + height, left : left + width] = image
    return grid


def _zoom(width: int, columns: int) -> int:
    """How often to repeat a pixel for a picture about 700 pixels wide."""
    return max(1, round(700 / ((width + GAP) * columns)))


def _save(path: str | Path, pixels: np.ndarray, title: str | None, zoom: int) -> None:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(np.repeat(np.repeat(pixels, zoom, axis=0), zoom, axis=1))
    if title:
        size = 16
        font = ImageFont.load_default(size)
        while font.getlength(title) > picture.width - 8 and size > 9:
            size -= 1
            font = ImageFont.load_default(size)
        width = max(picture.width, math.ceil(font.getlength(title)) + 8)
        page = Image.new("RGB", (width, picture.height + size + 12), "white")
        ImageDraw.Draw(page).text((4, 4), title, fill="black", font=font)
        page.paste(picture, (0, size + 12))
        picture = page
    _write(path, lambda temporary: picture.save(temporary, format="PNG"))


def _write_figure(path: str | Path, figure) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    _write(path, lambda temporary: figure.savefig(temporary, format="png"))


def _write(path: str | Path, save) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save(temporary)
    os.replace(temporary, path)


def _sigma_of(row: dict[str, Any]) -> float | None:
    return math.exp(row["log_sigma"]) if "log_sigma" in row else row.get("sigma")


def _rmse_of(row: dict[str, Any]) -> float | None:
    return math.sqrt(row["mse"]) if row.get("mse", -1) >= 0 else None


def _series(rows, split_is_train: bool, value) -> tuple[np.ndarray, np.ndarray]:
    points = [(row["step"], value(row)) for row in rows if (row["split"] == "train") == split_is_train]
    points = [(step, number) for step, number in points if number is not None and math.isfinite(number)]
    return tuple(np.array(points, dtype=float).reshape(-1, 2).T)


def _plot_panel(axes, rows, value) -> None:
    steps, numbers = _series(rows, True, value)
    shown = []
    if len(steps):
        axes.plot(steps, numbers, color=TRAIN_COLOR, alpha=0.25, linewidth=0.8)
        smooth = _running_median(numbers)
        axes.plot(steps, smooth, color=TRAIN_COLOR, linewidth=1.6, label="training batches")
        shown.append(smooth[len(smooth) // 20 :])
    steps, numbers = _series(rows, False, value)
    if len(steps):
        axes.plot(steps, numbers, "o", color=TEST_COLOR, markersize=5, label="test, running-average σ")
        shown.append(numbers)
    if shown:
        low, high = np.percentile(np.concatenate(shown), [0, 99])
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        axes.set_ylim(low - margin, high + margin)
    axes.margins(x=0.02)


def _running_median(numbers: np.ndarray) -> np.ndarray:
    """Over a window of a fortieth of the run, shorter at its ends."""
    half = max(1, len(numbers) // 80)
    return np.array([np.median(numbers[max(0, i - half) : i + half + 1]) for i in range(len(numbers))])


def _log_axis_where_it_helps(axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    values = np.concatenate([line.get_ydata() for line in axes.lines] or [np.array([])])
    low, high = axes.get_ylim()
    values = values[(values >= low) & (values <= high) & (values > 0)]
    if len(values) == 0:
        return
    axes.set_yscale("log")
    axes.set_ylim(0.9 * values.min(), 1.1 * values.max())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 6, 7, 8)))
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
