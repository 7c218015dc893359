"""Pictures of predicted videos: scores by time step, film strips, animations."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from calibrax._files import write_whole
from calibrax.evaluation.figures import _style
from calibrax.evaluation.figures.images import as_pixels, font, text_width
from calibrax.evaluation.metrics.frame_scores import FrameScores

GIVEN, PREDICTED = "#009E73", "#D55E00"  # a green and a red that colour-blind readers tell apart
GAP, MARGIN, BORDER = 4, 12, 4  # pixels
TEXT, SMALL = 16, 13  # pixels, height of letters

Row = tuple[str, np.ndarray]  # a name, and frames [T, H, W, C]


def save_scores_over_time(path: str | Path, scores: Mapping[str, FrameScores], *, title: str | None = None) -> None:
    """Plot PSNR and SSIM by frame, a line a model, each with a band of one standard error over clips.

    Frames are counted from 1, so after two that were given the first is frame 3. Values that are not finite are left
    out.

    Args:
      path: ends in .png or .svg; folders are made.
      scores: by the name in the legend.
      title: above the panels.

    Raises:
      ValueError: if there are no scores, or for another ending of `path`.
    """
    if not scores:
        raise ValueError("scores is empty; expected at least one {name: FrameScores}")
    names = [_style.shortened(name) for name in scores]
    with _style.figure_file(path, 1200, 460 + _style.legend_height(names, 1200), title) as figure:
        draw_scores_over_time(figure, scores)


def draw_scores_over_time(figure, scores: Mapping[str, FrameScores]) -> None:
    """The two panels and one legend, on an empty matplotlib figure."""
    from matplotlib.ticker import MaxNLocator

    handles = {}
    for axes, name, field in zip(figure.subplots(1, 2), ("PSNR (dB)", "SSIM"), ("psnr", "ssim"), strict=True):
        _style.tidy(axes, "frame", title=f"{name}, ± one standard error over clips")
        for index, (label, score) in enumerate(scores.items()):
            mean, stderr = (np.asarray(getattr(score, key), float) for key in (field, f"{field}_stderr"))
            mean = np.where(np.isfinite(mean), mean, math.nan)
            if np.isnan(mean).all():
                continue
            frames = score.first + 1 + np.arange(len(mean))
            style = _style.line_style(index)
            (handles[_style.shortened(label)],) = axes.plot(frames, mean, markersize=4, linewidth=1.8, **style)
            band = np.where(np.isfinite(stderr), stderr, 0)
            axes.fill_between(frames, mean - band, mean + band, color=style["color"], alpha=0.18, linewidth=0)
        if not axes.lines:
            _style.no_values(axes)
            continue
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axes.margins(x=0.02)
    _style.legend_below(figure, [(handle, label) for label, handle in handles.items()])


def save_film(
    path: str | Path,
    rows: Sequence[Row],
    past: int | None,
    *,
    columns: int = 12,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Write film strips one below the other: for example truth, best and random sample, reconstruction.

    Above the strips stand the frames' numbers, from 1, green for those that were given, red for predicted ones.

    Args:
      path: ends in .png; folders are made.
      rows: (name, frames) each, [T, H, W, C], floats in [0, 1] (clipped; NaN is black) or uint8, all of one length and
        size.
      past: how many frames were given, 0 to T; None where nothing is predicted, for strips without a word on it.
      columns: frames to show at most, 2 or more; of longer videos these are the given frames, or the last of them, and
        predicted ones at equal steps up to the last.
      title: above all.
      scale: how often a pixel is repeated each way; by default so that the picture is about 1100 pixels wide.

    Raises:
      ValueError: if a shape, a dtype, a number or the ending of `path` is another.
    """
    _check_suffix(path, ".png")
    strips = _checked(rows, past or 0)
    shown = _shown(len(strips[0][1]), past or 0, columns)
    scale = _scale(scale, 1100 // len(shown) / strips[0][1].shape[2])
    frames = [np.stack([_enlarged(strip[step], scale) for step in shown]) for _, strip in strips]
    height, width = frames[0].shape[1:3]

    indent = max(text_width(name, TEXT) for name, _ in strips) + 2 * MARGIN
    lefts = [indent + place * (width + GAP) + 2 * GAP * (step >= (past or 0) > 0) for place, step in enumerate(shown)]
    top = MARGIN + (2 * TEXT if title else 0)
    head = top + TEXT + SMALL + 4 * GAP  # where the first strip begins
    size = (lefts[-1] + width + MARGIN, head + len(strips) * (height + GAP) - GAP + MARGIN)
    page = _Page(_wide_enough(size, title))
    if title:
        page.write(title, (page.width / 2, MARGIN), TEXT, "black", "mt")
    for colour, word, places in _halves(shown, past):
        start, end = lefts[places[0]], lefts[places[-1]] + width
        page.write(_fitting(word, end - start), ((start + end) / 2, top), SMALL, colour, "mt")
        if past is not None:
            page.bar((start, top + TEXT + GAP, end, top + TEXT + 2 * GAP), colour)
        for place in places:
            middle = lefts[place] + width / 2
            page.write(str(shown[place] + 1), (middle, top + TEXT + 3 * GAP), SMALL, colour, "mt")
    for index, ((name, _), strip) in enumerate(zip(strips, frames, strict=True)):
        upper = head + index * (height + GAP)
        page.write(name, (MARGIN, upper + height / 2), TEXT, "black", "lm")
        for left, frame in zip(lefts, strip, strict=True):
            page.paste(frame, (left, upper))
    write_whole(path, lambda temporary: page.image.save(temporary, format="PNG"))


def save_gif(
    path: str | Path,
    rows: Sequence[Row],
    past: int,
    *,
    seconds: float = 0.2,
    title: str | None = None,
    scale: int | None = None,
) -> None:
    """Write videos side by side as an animation without an end, the border green while frames are given, then red.

    Args:
      path: ends in .gif; folders are made.
      rows: as for `save_film`.
      past: how many frames were given, 0 to T.
      seconds: how long a frame stands, 0.02 or more; the file counts in hundredths.
      title: above all.
      scale: how often a pixel is repeated each way; by default so that the picture is about 900 pixels wide, at most 4.

    Raises:
      ValueError: if a shape, a dtype, a number or the ending of `path` is another.
    """
    _check_suffix(path, ".gif")
    if not seconds >= 0.02:
        raise ValueError(f"seconds is {seconds}; expected 0.02 or more, which is what viewers show")
    videos = _checked(rows, past)
    num, height, width = videos[0][1].shape[:3]
    scale = _scale(scale, min(900 // len(videos) / width, 4.4))
    height, width = scale * height, scale * width

    cell = max(width + 2 * BORDER, *(text_width(name, TEXT) for name, _ in videos)) + MARGIN
    top = MARGIN + (2 * TEXT if title else 0)
    below = top + TEXT + 2 * GAP + height + 2 * BORDER + 2 * GAP
    size = _wide_enough((len(videos) * cell + MARGIN, below + SMALL + MARGIN), title)
    pages = []
    for step in range(num):
        colour, word = (GIVEN, "given") if step < past else (PREDICTED, "predicted")
        page = _Page(size)
        if title:
            page.write(title, (page.width / 2, MARGIN), TEXT, "black", "mt")
        indent = (page.width - len(videos) * cell) / 2
        for index, (name, video) in enumerate(videos):
            middle = indent + (index + 0.5) * cell
            left, upper = round(middle - width / 2), top + TEXT + 2 * GAP + BORDER
            page.write(name, (middle, top), TEXT, "black", "mt")
            page.bar((left - BORDER, upper - BORDER, left + width + BORDER, upper + height + BORDER), colour)
            page.paste(_enlarged(video[step], scale), (left, upper))
        page.write(f"frame {step + 1} of {num}, {word}", (page.width / 2, below), SMALL, colour, "mt")
        pages.append(page.quantized())
    options = {"save_all": True, "append_images": pages[1:], "duration": round(1000 * seconds), "loop": 0}
    write_whole(path, lambda temporary: pages[0].save(temporary, format="GIF", **options))


def save_prediction(path: str | Path, rows: Sequence[Row], past: int, *, title: str | None = None) -> None:
    """One clip as a strip, `path`.png, and as an animation, `path`.gif; arguments as of `save_film`."""
    save_film(f"{path}.png", rows, past, title=title)
    save_gif(f"{path}.gif", rows, past, title=title)


class _Page:
    """A white page to draw on."""

    def __init__(self, size: tuple[int, int]):
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", size, "white")
        self.width = size[0]
        self._draw = ImageDraw.Draw(self.image)

    def write(self, text: str, place: tuple[float, float], size: int, colour: str, anchor: str) -> None:
        """Text at (x, y), to which `anchor` refers as Pillow's: m middle, t top, l left."""
        self._draw.text(place, text, fill=colour, font=font(size), anchor=anchor)

    def bar(self, box: tuple[int, int, int, int], colour: str) -> None:
        """A full rectangle: left, top, and the pixels after right and bottom."""
        self._draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=colour)

    def paste(self, frame: np.ndarray, place: tuple[int, int]) -> None:
        from PIL import Image

        self.image.paste(Image.fromarray(frame), place)

    def quantized(self):
        """In 256 colours of its own, without dots."""
        from PIL import Image

        return self.image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _fitting(word: str, width: int) -> str:
    """The word where it is no wider, otherwise nothing: the colour says it too."""
    return word if text_width(word, SMALL) <= width else ""


def _wide_enough(size: tuple[int, int], title: str | None) -> tuple[int, int]:
    return max(size[0], text_width(title or "", TEXT) + 2 * MARGIN), size[1]


def _halves(shown: Sequence[int], past: int | None) -> list[tuple[str, str, list[int]]]:
    """Colour, word and places of the frames that were given and of the others, where there are any."""
    if past is None:
        return [("black", "", list(range(len(shown))))]
    given = [place for place, step in enumerate(shown) if step < past]
    predicted = [place for place, step in enumerate(shown) if step >= past]
    halves = [(GIVEN, "given", given), (PREDICTED, "predicted", predicted)]
    return [half for half in halves if half[2]]


def _shown(num: int, past: int, columns: int) -> list[int]:
    """The time steps that a strip shows, from 0."""
    if columns < 2:
        raise ValueError(f"columns is {columns}; expected 2 or more")
    if num <= columns:
        return list(range(num))
    given = list(range(max(0, past - (columns // 2 if past < num else columns)), past))
    step = math.ceil((num - past) / max(1, columns - len(given)))
    return given + sorted(range(num - 1, past - 1, -max(1, step)))


def _checked(rows: Sequence[Row], past: int) -> list[Row]:
    """The rows as uint8 [T, H, W, 3], all of one shape."""
    if not rows:
        raise ValueError("rows is empty; expected at least one (name, frames)")
    pixels = [(name, as_pixels(frames, name)) for name, frames in rows]
    first, expected = pixels[0][0], pixels[0][1].shape
    for name, frames in pixels:
        if frames.shape != expected:
            raise ValueError(f"{name} has shape {frames.shape}; expected {expected}, as {first} has")
    if not 0 <= past <= expected[0]:
        raise ValueError(f"past is {past}; expected 0 to {expected[0]}, the number of frames")
    return pixels


def _check_suffix(path: str | Path, suffix: str) -> None:
    if Path(path).suffix.lower() != suffix:
        raise ValueError(f"path is {path}; expected a name that ends in {suffix}")


def _scale(scale: int | None, fitting: float) -> int:
    if scale is not None and scale < 1:
        raise ValueError(f"scale is {scale}; expected 1 or more")
    return max(1, round(fitting)) if scale is None else scale


def _enlarged(frame: np.ndarray, scale: int) -> np.ndarray:
    return frame.repeat(scale, axis=0).repeat(scale, axis=1)
