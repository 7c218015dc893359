"""Grids of images and of reconstructions, put together pixel by pixel; NumPy in, whole PNG files out."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibrax._files import write_whole

GAP = 3  # white pixels between images
PAGE_WIDTH = 800  # pixels, about; grids are enlarged to it


def save_grid(path: str | Path, images: np.ndarray, *, title: str | None = None) -> None:
    """Write images as one grid, about square and about 800 pixels wide, row by row; `path` is a PNG.

    Images are [N, H, W, C], floats in [0, 1] (clipped; NaN is black) or uint8. C is 3 for colour; otherwise the first
    channel is shown in grey.

    Raises:
      ValueError: if the shape or the dtype is wrong.
    """
    pixels = as_pixels(images)
    columns = math.ceil(math.sqrt(len(pixels)))
    pixels = enlarged(pixels, PAGE_WIDTH / (columns * pixels.shape[2]))
    save_png(path, titled(tiled(pixels, columns), title))


def save_reconstructions(
    path: str | Path, originals: np.ndarray, reconstructions: np.ndarray, *, title: str | None = None
) -> None:
    """Write pairs of rows, of 8 images: the data above, their reconstructions below, each row with its name.

    The arguments are those of `save_grid`. Both arrays have the same shape.

    Raises:
      ValueError: if the shapes differ, and as `save_grid`.
    """
    above, below = as_pixels(originals), as_pixels(reconstructions, "reconstructions")
    if above.shape != below.shape:
        raise ValueError(f"reconstructions has shape {below.shape}; expected {above.shape}, as originals has")
    columns = min(8, len(above))
    above, below = (enlarged(images, PAGE_WIDTH / (columns * images.shape[2])) for images in (above, below))
    names = [centred(text_line(name, 14), above.shape[1] + 2 * GAP) for name in ("data", "reconstruction")]
    rows = []
    for start in range(0, len(above), columns):
        pair = [tiled(images[start : start + columns], columns) for images in (above, below)]
        rows += [joined([joined(names, 0), joined(pair, 0)], 1), white(2 * GAP, 1)]
    save_png(path, titled(joined(rows[:-1], 0), title))


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


def enlarged(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Images [..., H, W, C] with every pixel repeated round(scale) times each way, at least once."""
    times = max(1, round(scale))
    return pixels.repeat(times, axis=-3).repeat(times, axis=-2)


def tiled(pixels: np.ndarray, columns: int) -> np.ndarray:
    """Images [N, H, W, 3] as one, [rows · (H + GAP) + GAP, columns · (W + GAP) + GAP, 3]."""
    num, height, width, _ = pixels.shape
    grid = white(math.ceil(num / columns) * (height + GAP) + GAP, columns * (width + GAP) + GAP)
    for index, image in enumerate(pixels):
        row, column = divmod(index, columns)
        top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
        grid[top : top + height, left : left + width] = image
    return grid


def white(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def joined(parts: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures one after another along the axis, smaller ones padded with white."""
    height, width = (max(part.shape[side] for part in parts) for side in (0, 1))
    filled = []
    for part in parts:
        missing = (0, width - part.shape[1]) if axis == 0 else (height - part.shape[0], 0)
        filled.append(np.pad(part, [(0, missing[0]), (0, missing[1]), (0, 0)], constant_values=255))
    return np.concatenate(filled, axis=axis)


def centred(part: np.ndarray, height: int) -> np.ndarray:
    """Padded with white above and below."""
    above = max(0, height - len(part)) // 2
    below = max(0, height - len(part) - above)
    return np.pad(part, [(above, below), (0, 0), (0, 0)], constant_values=255)


def titled(picture: np.ndarray, title: str | None) -> np.ndarray:
    """The picture under one line of text, which shrinks if it is too long; at 11 pixels it widens the page instead."""
    if not title:
        return picture
    lines = (text_line(title, size) for size in range(18, 11, -1))
    fitting = next((line for line in lines if line.shape[1] <= picture.shape[1]), text_line(title, 11))
    return joined([fitting, picture], 0)


def text_line(text: str, size: int) -> np.ndarray:
    """One line of text, `size` pixels high, black on white with a margin."""
    from PIL import Image, ImageDraw

    line = Image.new("RGB", (text_width(text, size) + 2 * GAP + 4, round(1.6 * size)), "white")
    ImageDraw.Draw(line).text((GAP, round(0.2 * size)), text, fill="black", font=font(size))
    return np.asarray(line)


def text_width(text: str, size: int) -> int:
    """Pixels."""
    return math.ceil(font(size).getlength(text))


def font(size: int) -> Any:
    """DejaVu Sans, which comes with matplotlib, `size` pixels high."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def save_png(path: str | Path, pixels: np.ndarray) -> None:
    from PIL import Image

    write_whole(path, lambda temporary: Image.fromarray(pixels).save(temporary, format="PNG"))
