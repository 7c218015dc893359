"""Figures of predicted videos: scores by time step, film strips, animations."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from calibrax._files import write_whole
from calibrax.evaluation.figures import _style
from calibrax.evaluation.figures.images import as_pixels, enlarged, font, text_width
from calibrax.evaluation.metrics.frame_scores import FrameScores

GIVEN, PREDICTED = "#009E73", "#D55E00"  # a green and a red that colour-blind readers tell apart
GAP, MARGIN, BORDER = 4, 12, 4  # pixels
TEXT, SMALL = 16, 13  # pixels, height of letters
NUM_SHOWN = 12  # frames of a film strip, at most

Row = tuple[str, np.ndarray]  # a name, and frames [T, H, W, C]


def save_scores_over_time(path: str | Path, scores: Mapping[str, FrameScores], *, title: str | None = None) -> None:
    """Plot PSNR and SSIM by frame, one line per model with a band of one standard error over clips.

    Frames are counted from 1: after two given frames, the first predicted one is frame 3. Values that are not finite
    are left out. `scores` are by the name in the legend; ValueError if there are none.
    """
    from matplotlib.ticker import MaxNLocator

    if not scores:
        raise ValueError("scores is empty; expected at least one {name: FrameScores}")
    names = [_style.shortened(name) for name in scores]
    with _style.figure_file(path, 1200, 460 + _style.legend_height(names, 1200), title) as figure:
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


def save_film(path: str | Path, rows: Sequence[Row], past: int | None, *, title: str | None = None) -> None:
    """Write film strips one below the other, for example truth, best and random sample, reconstruction.

    The strips are about 1100 pixels wide. Above them are the frames' numbers, from 1; given frames are green, predicted
    ones red.

    Args:
      path: ends in .png.
      rows: (name, frames) pairs, frames [T, H, W, C], floats in [0, 1] (clipped; NaN is black) or uint8, all of one
        shape. Of more than 12 frames a strip shows the given ones, or the last of them, and predicted ones at equal
        steps up to the last.
      past: number of given frames, 0 to T; None for strips in which nothing is predicted.

    Raises:
      ValueError: if a shape, a dtype, a number or the ending of `path` is wrong.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"path is {path}; expected a name that ends in .png")
    strips = _checked(rows, past or 0)
    shown = _shown(len(strips[0][1]), past or 0, NUM_SHOWN)
    scale = 1100 // len(shown) / strips[0][1].shape[2]
    frames = [enlarged(strip[shown], scale) for _, strip in strips]
    height, width = frames[0].shape[1:3]

    indent = max(text_width(name, TEXT) for name, _ in strips) + 2 * MARGIN
    lefts = [indent + place * (width + GAP) + 2 * GAP * (step >= (past or 0) > 0) for place, step in enumerate(shown)]
    top = MARGIN + (2 * TEXT if title else 0)
    head = top + TEXT + SMALL + 4 * GAP  # where the first strip begins
    page = _Page((lefts[-1] + width + MARGIN, head + len(strips) * (height + GAP) - GAP + MARGIN), title)
    for colour, word, places in _halves(shown, past):
        start, end = lefts[places[0]], lefts[places[-1]] + width
        if text_width(word, SMALL) <= end - start:  # otherwise the colour must do
            page.write(word, ((start + end) / 2, top), SMALL, colour)
        if past is not None:
            page.bar((start, top + TEXT + GAP, end, top + TEXT + 2 * GAP), colour)
        for place in places:
            page.write(str(shown[place] + 1), (lefts[place] + width / 2, top + TEXT + 3 * GAP), SMALL, colour)
    for index, ((name, _), strip) in enumerate(zip(strips, frames, strict=True)):
        upper = head + index * (height + GAP)
        page.write(name, (MARGIN, upper + height / 2), TEXT, anchor="lm")
        for left, frame in zip(lefts, strip, strict=True):
            page.paste(frame, (left, upper))
    write_whole(path, lambda temporary: page.image.save(temporary, format="PNG"))


def save_gif(path: str | Path, rows: Sequence[Row], past: int, *, title: str | None = None) -> None:
    """Write videos side by side as an endless animation; the border is green for given frames and red after them.

    Videos are enlarged up to fourfold, to a page of about 900 pixels. Each frame is shown for 0.2 seconds.

    The arguments are those of `save_film`, but for the ending of `path`, .gif.
    """
    videos = _checked(rows, past)
    scale = min(900 // len(videos) / videos[0][1].shape[2], 4.4)
    videos = [(name, enlarged(video, scale)) for name, video in videos]
    num, height, width = videos[0][1].shape[:3]

    cell = max(width + 2 * BORDER, *(text_width(name, TEXT) for name, _ in videos)) + MARGIN
    top = MARGIN + (2 * TEXT if title else 0)
    below = top + TEXT + 2 * GAP + height + 2 * BORDER + 2 * GAP
    pages = []
    for step in range(num):
        colour, word = (GIVEN, "given") if step < past else (PREDICTED, "predicted")
        page = _Page((len(videos) * cell + MARGIN, below + SMALL + MARGIN), title)
        indent = (page.width - len(videos) * cell) / 2
        for index, (name, video) in enumerate(videos):
            middle = indent + (index + 0.5) * cell
            left, upper = round(middle - width / 2), top + TEXT + 2 * GAP + BORDER
            page.write(name, (middle, top), TEXT)
            page.bar((left - BORDER, upper - BORDER, left + width + BORDER, upper + height + BORDER), colour)
            page.paste(video[step], (left, upper))
        page.write(f"frame {step + 1} of {num}, {word}", (page.width / 2, below), SMALL, colour)
        pages.append(page.quantized())
    options = {"save_all": True, "append_images": pages[1:], "duration": 200, "loop": 0}  # milliseconds
    write_whole(path, lambda temporary: pages[0].save(temporary, format="GIF", **options))


def save_prediction(path: str | Path, rows: Sequence[Row], past: int, *, title: str | None = None) -> None:
    """Write one clip as a strip, `path`.png, and an animation, `path`.gif; the arguments are those of `save_film`."""
    save_film(f"{path}.png", rows, past, title=title)
    save_gif(f"{path}.gif", rows, past, title=title)


class _Page:
    """A white page with a title, to draw on."""

    def __init__(self, size: tuple[int, int], title: str | None):
        from PIL import Image, ImageDraw

        self.width = max(size[0], text_width(title or "", TEXT) + 2 * MARGIN)
        self.image = Image.new("RGB", (self.width, size[1]), "white")
        self._draw = ImageDraw.Draw(self.image)
        self.write(title or "", (self.width / 2, MARGIN), TEXT)

    def write(
        self, text: str, place: tuple[float, float], size: int, colour: str = "black", anchor: str = "mt"
    ) -> None:
        """Text at (x, y), to which `anchor` refers as Pillow's: m middle, t top, l left."""
        self._draw.text(place, text, fill=colour, font=font(size), anchor=anchor)

    def bar(self, box: tuple[int, int, int, int], colour: str) -> None:
        """A filled rectangle (left, top, right, bottom), right and bottom exclusive."""
        self._draw.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=colour)

    def paste(self, frame: np.ndarray, place: tuple[int, int]) -> None:
        from PIL import Image

        self.image.paste(Image.fromarray(frame), place)

    def quantized(self):
        """The page in a palette of 256 colours, without dithering."""
        from PIL import Image

        return self.image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def _halves(shown: Sequence[int], past: int | None) -> list[tuple[str, str, list[int]]]:
    """Colour, word and places in the strip, of the given frames and of the predicted ones, if there are any."""
    if past is None:
        return [("black", "", list(range(len(shown))))]
    given = [place for place, step in enumerate(shown) if step < past]
    predicted = [place for place, step in enumerate(shown) if step >= past]
    halves = [(GIVEN, "given", given), (PREDICTED, "predicted", predicted)]
    return [half for half in halves if half[2]]


def _shown(num: int, past: int, columns: int) -> list[int]:
    """The time steps that a strip of at most `columns` frames shows, from 0."""
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
