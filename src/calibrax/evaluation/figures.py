"""Pictures: grids of images, reconstructions, training curves. NumPy in, PNG files out, each there whole or not at all.

Grids are put together pixel by pixel and written by Pillow; curves are drawn through matplotlib's object interface on
the Agg canvas: no display, no global state.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

GAP = 3  # white pixels between images
PAGE_WIDTH = 800  # pixels; what a picture is enlarged to, about
# Okabe and Ito's palette (jfly.uni-koeln.de/color), told apart by colour-blind readers too.
TRAIN_COLOR, TEST_COLOR = "#0072B2", "#D55E00"
NUM_SMOOTH = 400  # points of the smoothed curves

Row = dict[str, Any]  # a line of metrics.jsonl


def save_grid(
    path: str | Path,
    images: np.ndarray,
    *,
    columns: int | None = None,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Write images as one grid, row by row.

    Args:
      path: a PNG; folders are made.
      images: [N, H, W, C], floats in [0, 1] (clipped; NaN is black) or uint8; C is 1 (grey), 3 (colour), or another
        number, of which the first channel is shown as grey.
      columns: images a row; by default a grid about square.
      title: one line above.
      scale: how often a pixel is repeated each way; by default so that the picture is about 800 pixels wide.

    Raises:
      ValueError: if a shape, a dtype or a number is another.
    """
    pixels = as_pixels(images)
    columns = math.ceil(math.sqrt(len(pixels))) if columns is None else _at_least_one("columns", columns)
    _save(path, _titled(_tile(_enlarge(pixels, columns, scale), columns), title))


def save_reconstructions(
    path: str | Path,
    originals: np.ndarray,
    reconstructions: np.ndarray,
    *,
    columns: int = 8,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Write pairs of rows: the data above, their reconstructions below, each row with its name.

    Args: as for `save_grid`; the two arrays have one shape.

    Raises:
      ValueError: if the shapes differ, and as `save_grid`.
    """
    above, below = as_pixels(originals), as_pixels(reconstructions, "reconstructions")
    if above.shape != below.shape:
        raise ValueError(f"reconstructions has shape {below.shape}; expected {above.shape}, as originals has")
    columns = min(_at_least_one("columns", columns), len(above))
    above, below = (_enlarge(images, columns, scale) for images in (above, below))
    rows = []
    for start in range(0, len(above), columns):
        chosen = slice(start, start + columns)
        rows += [np.concatenate([_tile(images[chosen], columns) for images in (above, below)]), _white(2 * GAP, 1)]
    names = _join([_centred(_text(name, 14), above.shape[1] + 2 * GAP) for name in ("data", "reconstruction")], 0)
    labelled = [_join([names, row], 1) if len(row) > 2 * GAP else row for row in rows[:-1]]
    _save(path, _titled(_join(labelled, 0), title))


def save_comparison(
    path: str | Path,
    panels: Sequence[tuple[str, np.ndarray]],
    *,
    columns: int = 6,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Write named grids side by side, for example data, reconstructions and samples.

    Args:
      path: a PNG; folders are made.
      panels: (name, images) each, images as for `save_grid`.
      columns: images a row, in every panel.
      title: one line above all.
      scale: as for `save_grid`; by default for about 1250 pixels in all.

    Raises:
      ValueError: if there is no panel, and as `save_grid`.
    """
    if not panels:
        raise ValueError("panels is empty; expected at least one (name, images)")
    _at_least_one("columns", columns)
    parts = []
    for name, images in panels:
        pixels = _enlarge(as_pixels(images, name), columns, scale, 1250 // len(panels))
        parts += [_join([_text(name, 18), _tile(pixels, columns)], 0), _white(1, 6 * GAP)]
    _save(path, _titled(_join(parts[:-1], 1), title))


def save_training_curves(path: str | Path, rows: Sequence[Row], *, title: str | None = None) -> None:
    """Plot a run: -ELBO, rate, distortion and σ by training step, 1200 by 800 pixels.

    Training batches are a thin line with their running median over it, test evaluations are points. The axes leave out
    the first steps, whose values are orders of magnitude off; a test value beyond an axis is a triangle at its edge.
    Without a σ a decoder shows the root of its mean squared error, and says so. Values that are missing or not finite
    are left out.

    Args:
      path: a PNG; folders are made.
      rows: those of `metrics.jsonl`: `{"step", "split", ...}`; every split but "train" counts as test.
      title: above the plot.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), dpi=100, layout="constrained")
    draw_curves(figure, rows, title)
    _write(path, lambda temporary: figure.savefig(temporary, format="png"))


def as_pixels(images: np.ndarray, name: str = "images") -> np.ndarray:
    """Images as uint8 [N, H, W, 3]; see `save_grid`. `name` is for the message of the error."""
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape:
        raise ValueError(f"{name} has shape {images.shape}; expected [N, H, W, C] with at least one image")
    if images.dtype != np.uint8:
        if images.dtype.kind in "biucOSU":  # bfloat16 has a kind of its own
            raise ValueError(f"{name} has dtype {images.dtype}; expected floats in [0, 1] or uint8")
        images = np.round(255 * np.clip(np.nan_to_num(images.astype(np.float32)), 0, 1)).astype(np.uint8)
    return images if images.shape[3] == 3 else np.repeat(images[..., :1], 3, axis=3)


def _at_least_one(name: str, number: int) -> int:
    if number < 1:
        raise ValueError(f"{name} is {number}; expected 1 or more")
    return number


def _enlarge(pixels: np.ndarray, columns: int, scale: int | None, page_width: int = PAGE_WIDTH) -> np.ndarray:
    """Every pixel repeated, so that no viewer blurs them."""
    factor = max(1, round(page_width / (pixels.shape[2] * columns))) if scale is None else scale
    return pixels.repeat(_at_least_one("scale", factor), axis=1).repeat(factor, axis=2)


def _tile(pixels: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, 3] as one, [rows · (H + GAP) + GAP, columns · (W + GAP) + GAP, 3]."""
    num, height, width, _ = pixels.shape
    grid = _white(math.ceil(num / columns) * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for index, image in enumerate(pixels):
        row, column = divmod(index, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        grid[top : top + height, left : left + width] = image
    return grid


def _white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def _join(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures one after another along the axis, the smaller ones filled up with white."""
    height, width = (max(part.shape[side] for part in parts) for side in (0, 1))
    filled = []
    for part in parts:
        missing = (0, width - part.shape[1]) if axis == 0 else (height - part.shape[0], 0)
        filled.append(np.pad(part, [(0, missing[0]), (0, missing[1]), (0, 0)], constant_values=255))
    return np.concatenate(filled, axis=axis)


def _centred(part: np.ndarray, height: int) -> np.ndarray:
    """Filled up with white above and below."""
    above = max(0, height - len(part)) // 2
    below = max(0, height - len(part) - above)
    return np.pad(part, [(above, below), (0, 0), (0, 0)], constant_values=255)


def _titled(picture: np.ndarray, title: str | None) -> np.ndarray:
    """The picture under one line of text, which shrinks where it is too long, and at 11 pixels widens the page."""
    if not title:
        return picture
    lines = (_text(title, size) for size in range(18, 11, -1))
    fitting = next((line for line in lines if line.shape[1] <= picture.shape[1]), _text(title, 11))
    return _join([fitting, picture], 0)


def _text(text: str, size: int) -> np.ndarray:
    """One line of text, `size` pixels high, black on white with a margin."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    line = Image.new("RGB", (math.ceil(font.getlength(text)) + 2 * GAP + 4, round(1.6 * size)), "white")
    ImageDraw.Draw(line).text((GAP, round(0.2 * size)), text, fill="black", font=font)
    return np.asarray(line)


def _save(path: str | Path, pixels: np.ndarray) -> None:
    from PIL import Image

    _write(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))


def _write(path: str | Path, save: Callable[[Path], Any]) -> None:
    """Save under a temporary name first: whoever looks, or kills the process, finds the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        save(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def draw_curves(figure, rows: Sequence[Row], title: str | None) -> None:
    """-ELBO, rate, distortion and σ (or the root mean squared error) by step, on an empty matplotlib figure."""
    has_sigma = any(_sigma(row) is not None for row in rows)
    panels = [
        ("−ELBO (nats per example)", _neg_elbo),
        ("rate: KL from the prior (nats per example)", lambda row: _number(row.get("rate"))),
        ("distortion: −log p(x|z) (nats per example)", lambda row: _number(row.get("distortion"))),
        ("σ that the decoder used (units of the data)", _sigma)
        if has_sigma
        else ("root mean squared error (units of the data)", _rmse),
    ]
    handles: dict[str, Any] = {}
    for index, (axes, (name, value)) in enumerate(zip(figure.subplots(2, 2).flat, panels, strict=True)):
        handles |= _draw_panel(axes, rows, value, logarithmic=index == 3)
        axes.set_title(name, fontsize=12, loc="left")
        axes.set_xlabel("training step")
        axes.grid(True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.02)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    if title:
        figure.suptitle(title, fontsize=13)


def _draw_panel(axes, rows: Sequence[Row], value: Callable[[Row], float | None], logarithmic: bool) -> dict[str, Any]:
    """Lines and points of one quantity; returns the legend's handles by name."""
    train, test = (_series(rows, value, is_train, positive=logarithmic) for is_train in (True, False))
    handles = {}
    if len(train[0]):
        centres, smooth = _running_median(*train)
        (thin,) = axes.plot(*train, color=TRAIN_COLOR, alpha=0.25, linewidth=0.8)
        (thick,) = axes.plot(centres, smooth, color=TRAIN_COLOR, linewidth=1.8)
        handles |= {"training batch": thin, "training batches, running median": thick}
    if len(test[0]):
        (points,) = axes.plot(*test, "o", color=TEST_COLOR, markersize=6)
        handles["test set"] = points
    if not handles:
        axes.text(0.5, 0.5, "no values", transform=axes.transAxes, ha="center", va="center", color="gray")
        axes.set(xticks=[], yticks=[])
        return handles
    _set_limits(axes, train[1], test[1], logarithmic)
    _mark_outside(axes, *test)
    return handles


def _set_limits(axes, train: np.ndarray, test: np.ndarray, logarithmic: bool) -> None:
    """Room for 98 of 100 training values after the first twentieth, and for test values not much farther off."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

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
    if not logarithmic:
        axes.set_ylim(low, high)
        axes.yaxis.set_major_formatter("{x:,g}")
        return
    axes.set_yscale("log")
    axes.set_ylim(math.exp(low), math.exp(high))
    axes.yaxis.set_major_locator(MaxNLocator(6) if high - low < math.log(4) else LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def _mark_outside(axes, steps: np.ndarray, values: np.ndarray) -> None:
    """Triangles at the edge for points beyond it, which would go unseen."""
    low, high = axes.get_ylim()
    for beyond, edge, marker in ((values > high, high, "^"), (values < low, low, "v")):
        if beyond.any():
            at_edge = np.full(beyond.sum(), edge)
            axes.plot(steps[beyond], at_edge, marker, color=TEST_COLOR, markersize=8, clip_on=False)


def _running_median(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over a fortieth of the run around each of at most 400 steps; shorter at the ends."""
    half = len(values) // 80
    centres = np.unique(np.linspace(0, len(values) - 1, min(len(values), NUM_SMOOTH)).round().astype(int))
    smooth = [np.median(values[max(0, i - half) : i + half + 1]) for i in centres]
    return steps[centres], np.array(smooth)


def _series(rows: Sequence[Row], value, is_train: bool, positive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one split, in the order of the steps."""
    chosen = ((row["step"], value(row)) for row in rows if (row["split"] == "train") == is_train)
    points = sorted((step, number) for step, number in chosen if number is not None and (number > 0 or not positive))
    steps, values = np.array(points, dtype=float).reshape(-1, 2).T
    return steps, values


def _number(value: Any) -> float | None:
    """The value as a float where it is a finite number."""
    return float(value) if isinstance(value, int | float | np.number) and math.isfinite(value) else None


def _neg_elbo(row: Row) -> float | None:
    return _number(row.get("loss" if row["split"] == "train" else "neg_elbo"))


def _sigma(row: Row) -> float | None:
    log_sigma = _number(row.get("log_sigma"))
    if log_sigma is None:
        return _number(row.get("sigma"))
    return math.exp(log_sigma) if abs(log_sigma) < 80 else None  # beyond, float32 is 0 or infinite


def _rmse(row: Row) -> float | None:
    mse = _number(row.get("mse"))
    return None if mse is None or mse < 0 else math.sqrt(mse)
