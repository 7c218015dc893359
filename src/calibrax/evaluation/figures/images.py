"""Pictures: grids of images and reconstructions. NumPy in, PNG files out, each there whole or not at all.

Grids are put together pixel by pixel and written by Pillow.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibrax._files import write_whole

GAP = 3  # white pixels between images
PAGE_WIDTH = 800  # pixels; what a picture is enlarged to, about


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


def save_strips(
    path: str | Path,
    rows: Sequence[tuple[str, np.ndarray]],
    *,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Write named rows of images one below the other, for example samples of several decoders.

    Args:
      path: a PNG; folders are made.
      rows: (name, images) each, images as for `save_grid`.
      title: one line above all.
      scale: as for `save_grid`; by default for about 1000 pixels in all.

    Raises:
      ValueError: if there is no row, and as `save_grid`.
    """
    if not rows:
        raise ValueError("rows is empty; expected at least one (name, images)")
    names = [_text(name, 16) for name, _ in rows]
    width = max(name.shape[1] for name in names)
    strips = []
    for text, (name, images) in zip(names, rows, strict=True):
        pixels = _enlarge(as_pixels(images, name), len(images), scale)
        strip = _tile(pixels, len(images))
        label = np.pad(_centred(text, len(strip)), [(0, 0), (0, width - text.shape[1]), (0, 0)], constant_values=255)
        strips.append(_join([label, strip], 1))
    _save(path, _titled(_join(strips, 0), title))


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

    write_whole(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
