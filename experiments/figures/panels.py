"""Grids of images side by side, and named rows of images: what tables and figures of the paper show as samples."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from calibrax.evaluation.figures.images import (
    GAP,
    PAGE_WIDTH,
    as_pixels,
    centred,
    enlarged,
    joined,
    save_png,
    text_line,
    tiled,
    titled,
    white,
)


def save_comparison(
    path: str | Path,
    panels: Sequence[tuple[str, np.ndarray]],
    *,
    columns: int = 6,
    title: str | None = None,
) -> None:
    """Write named grids side by side, about 1250 pixels wide: for example data, reconstructions and samples.

    Args:
      path: a PNG; folders are made.
      panels: (name, images) each, images as for `save_grid`.
      columns: images per row, in every panel.
      title: one line above all.

    Raises:
      ValueError: if there are no panels, and as `save_grid`.
    """
    if not panels:
        raise ValueError("panels is empty; expected at least one (name, images)")
    parts = []
    for name, images in panels:
        pixels = as_pixels(images, name)
        pixels = enlarged(pixels, 1250 // len(panels) / (columns * pixels.shape[2]))
        parts += [joined([text_line(name, 18), tiled(pixels, columns)], 0), white(1, 6 * GAP)]
    save_png(path, titled(joined(parts[:-1], 1), title))


def save_strips(
    path: str | Path,
    rows: Sequence[tuple[str, np.ndarray]],
    *,
    title: str | None = None,
) -> None:
    """Write named rows of images one below the other, about 1000 pixels wide: for example samples of several decoders.

    Args:
      path: a PNG; folders are made.
      rows: (name, images) each, images as for `save_grid`.
      title: one line above all.

    Raises:
      ValueError: if there are no rows, and as `save_grid`.
    """
    if not rows:
        raise ValueError("rows is empty; expected at least one (name, images)")
    names = [text_line(name, 16) for name, _ in rows]
    width = max(name.shape[1] for name in names)
    strips = []
    for text, (name, images) in zip(names, rows, strict=True):
        pixels = as_pixels(images, name)
        strip = tiled(enlarged(pixels, PAGE_WIDTH / (len(images) * pixels.shape[2])), len(images))
        label = np.pad(centred(text, len(strip)), [(0, 0), (0, width - text.shape[1]), (0, 0)], constant_values=255)
        strips.append(joined([label, strip], 1))
    save_png(path, titled(joined(strips, 0), title))
