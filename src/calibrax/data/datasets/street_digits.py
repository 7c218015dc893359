"""`street-digits`: house-number images drawn from a seed, of SVHN's shape, for machines without a network.

An image is a row of digits in one typeface around a centred one, painted on a wall or plate under uneven light, with
the grain and blur of a photograph that was cropped and enlarged. The spread of colours, contrasts and blur brings the
images' mean, variance, saturation, sharpness and principal components near those of SVHN. The images are still
drawings, and their name always says so.
"""

import functools
from pathlib import Path

import numpy as np

from calibrax.data.types import Data, Options, check_whole

FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif-Bold.ttf",
    "STIXGeneralBol.ttf",
    "cmss10.ttf",
)
CELL = 64  # pixels of a glyph's square in the atlas, the digit 48 high
NUM_UNIFORMS = 40  # random numbers for an image's layout; a fixed number, so that image i depends only on (seed, i)
CHUNK = 2048  # images drawn at once


def load(options: Options) -> Data:
    """Drawn images, by default 9,000 for training and 1,000 for testing, from seeds that differ."""
    return Data(
        name="street-digits",
        **{split: draw(num, seed) for split, (num, seed) in options.draws(9000, 1000).items()},
        license="drawn by calibrax, Apache-2.0",
        origin=f"drawn from seed {options.seed}; house numbers of SVHN's shape, not SVHN",
    )


def draw(num: int, seed: int = 0, size: int = 32) -> np.ndarray:
    """House-number images, uint8 [num, size, size, 3]; image i does not depend on `num`.

    The seed is 0 or more. It draws the same images as long as the versions of NumPy, Pillow and matplotlib, which
    provides the typefaces, stay the same. The size is 8 pixels or more.

    Raises:
      ValueError: if an argument is out of its range.
    """
    for name, value, least in (("num", num, 1), ("seed", seed, 0), ("size", size, 8)):
        check_whole(name, value, least)
    layout, grain = (np.random.default_rng((seed, stream)) for stream in range(2))
    images = []
    for start in range(0, num, CHUNK):
        count = min(CHUNK, num - start)
        uniforms = layout.random((count, NUM_UNIFORMS), dtype=np.float32)
        noise = grain.standard_normal((count, size, size, 3), dtype=np.float32)
        images.append(_paint(_Uniforms(uniforms), noise, size))
    return np.concatenate(images)


class _Uniforms:
    """Uniform random numbers; each call uses up the next column, [N]."""

    def __init__(self, columns: np.ndarray):
        self._columns = iter(columns.T)

    def between(self, low: float, high: float) -> np.ndarray:
        return low + (high - low) * next(self._columns)

    def happens(self, probability: float) -> np.ndarray:
        return next(self._columns) < probability

    def pick(self, count: int) -> np.ndarray:
        return np.minimum((next(self._columns) * count).astype(int), count - 1)


def _paint(u: _Uniforms, noise: np.ndarray, size: int) -> np.ndarray:
    """One chunk of images, uint8 [N, size, size, 3]."""
    num = len(noise)
    y, x = np.meshgrid(*2 * [(np.arange(size, dtype=np.float32) + 0.5) / size - 0.5], indexing="ij")
    wall, ink = _colours(u)
    image = np.broadcast_to(wall[:, None, None], (num, size, size, 3)).copy()
    image += _shading(u, x, y)[..., None]
    image = _plate(u, image, x, y)
    coverage = _digits(u, x, y)
    image = _relief(u, image, coverage)
    image += coverage[..., None] * (ink - wall)[:, None, None]
    # The noise is blurred too, since most of SVHN's images are enlarged and their grain with them.
    image += noise * u.between(0.004, 0.03)[:, None, None, None]
    image = _blur(image, (0.58 + 1.15 * u.between(0.0, 1.0) ** 1.3) * size / 32)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _colours(u: _Uniforms) -> tuple[np.ndarray, np.ndarray]:
    """Wall and ink, [N, 3] each: mostly grey and of limited contrast; ink is lighter as often as darker."""
    light = 0.07 + 0.77 * u.between(0.0, 1.0)
    contrast = 0.12 + 0.55 * u.between(0.0, 1.0) ** 1.5
    sign = np.where(u.happens(0.5), 1.0, -1.0)
    sign = np.where(light + contrast > 0.97, -1.0, np.where(light - contrast < 0.03, 1.0, sign))
    cast = _tint(u, 0.03, 0.11, 2) + 0.15 * (light - 0.45)[:, None] * np.array([-1, 0, 1])  # lamps warm, the sky blue
    wall = light[:, None] + cast + _tint(u, 0.0, 0.25, 6)
    ink = (light + sign * contrast)[:, None] + cast + _tint(u, 0.0, 0.3, 6)
    return np.clip(wall, 0.02, 0.98).astype(np.float32), np.clip(ink, 0.02, 0.98).astype(np.float32)


def _tint(u: _Uniforms, least: float, most: float, power: int) -> np.ndarray:
    """A shift in colour, [N, 3], mostly between blue and red, a little more often to blue; strong shifts are rare."""
    strength = least + (most - least) * u.between(0.0, 1.0) ** power
    warmth, green = u.between(-1.0, 0.8), 0.6 * u.between(-1.0, 0.8)
    return strength[:, None] * np.stack([warmth, green, -warmth], axis=1)


def _shading(u: _Uniforms, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Uneven light, [N, H, W]: a slope in some direction and a weaker bend."""
    angle, slope = u.between(0, 2 * np.pi), 0.35 * u.between(0.0, 1.0) ** 2
    bend, centre = 0.8 * u.between(-1.0, 1.0) ** 3, u.between(-0.5, 0.5)
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    return slope[:, None, None] * along + bend[:, None, None] * ((x - centre[:, None, None]) ** 2 - 0.1)


def _plate(u: _Uniforms, image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Adds the edge of a plate to a quarter of the images: beyond it the wall has another lightness."""
    shown, step = u.happens(0.25), u.between(-0.3, 0.3)
    vertical, where, tilt = u.happens(0.5), u.between(0.3, 0.48), u.between(-0.1, 0.1)
    side = np.where(u.happens(0.5), 1.0, -1.0)
    across = np.where(vertical[:, None, None], x + tilt[:, None, None] * y, y + tilt[:, None, None] * x)
    beyond = side[:, None, None] * across > where[:, None, None]
    return image + (beyond * (shown * step)[:, None, None])[..., None].astype(np.float32)


def _relief(u: _Uniforms, image: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Adds a shadow to a quarter of the images, a sixteenth of the image below and to the right of the digits."""
    depth = u.between(0.05, 0.3) * u.happens(0.25)
    offset = max(1, image.shape[1] // 16)
    shadow = np.zeros_like(coverage)
    shadow[:, offset:, offset:] = coverage[:, :-offset, :-offset]
    return image - (depth[:, None, None] * shadow * (1 - coverage))[..., None].astype(np.float32)


def _digits(u: _Uniforms, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of each pixel that ink covers, [N, H, W] in [0, 1]."""
    font, centre = u.pick(len(FONTS)), u.pick(10)
    height, width = u.between(0.64, 0.86), u.between(0.62, 0.95)
    turn, slant = 0.2 * u.between(-1.0, 1.0) ** 3, 0.2 * u.between(-1.0, 1.0) ** 3
    shift_x, shift_y = u.between(-0.05, 0.05), u.between(-0.05, 0.05)
    spacing = u.between(0.62, 0.85)
    cos, sin = (f(turn)[:, None, None] for f in (np.cos, np.sin))
    dx, dy = x - shift_x[:, None, None], y - shift_y[:, None, None]
    # Coordinates along the row of digits and down from it, in units of a digit's height.
    down = (-sin * dx + cos * dy) / height[:, None, None]
    along = (cos * dx + sin * dy) / (height * width)[:, None, None] + slant[:, None, None] * down
    coverage = np.zeros(along.shape, np.float32)
    for place, chance in ((0, 1.0), (-1, 0.55), (1, 0.55)):
        digit = centre if place == 0 else u.pick(10)
        shown = u.happens(chance)
        glyph = _sample(font * 10 + digit, along - place * spacing[:, None, None], down)
        coverage = np.maximum(coverage, glyph * shown[:, None, None])
    return coverage


def _sample(index: np.ndarray, along: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Bilinear samples of the atlas's glyphs at positions in units of the digit's height."""
    atlas = glyph_atlas()
    column = np.clip(along * 48 + CELL / 2 - 0.5, 0, CELL - 1.001)
    row = np.clip(down * 48 + CELL / 2 - 0.5, 0, CELL - 1.001)
    left, top = column.astype(int), row.astype(int)
    fx, fy = column - left, row - top
    flat = (index[:, None, None] * CELL + top) * CELL + left
    upper = atlas.take(flat) * (1 - fx) + atlas.take(flat + 1) * fx
    lower = atlas.take(flat + CELL) * (1 - fx) + atlas.take(flat + CELL + 1) * fx
    return (upper * (1 - fy) + lower * fy).astype(np.float32)


@functools.cache
def glyph_atlas() -> np.ndarray:
    """Every digit of every font, 48 pixels high and centred, [fonts · 10, CELL, CELL] in [0, 1]."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    glyphs = []
    for name in FONTS:
        font = ImageFont.truetype(str(folder / name), 96, layout_engine=ImageFont.Layout.BASIC)
        for digit in "0123456789":
            left, top, right, bottom = font.getbbox(digit)
            width, height = int(right - left), int(bottom - top)
            stencil = Image.new("L", (width, height))
            ImageDraw.Draw(stencil).text((-left, -top), digit, fill=255, font=font)
            scaled = stencil.resize((min(round(width * 48 / height), CELL - 4), 48), Image.Resampling.LANCZOS)
            cell = Image.new("L", (CELL, CELL))
            cell.paste(scaled, ((CELL - scaled.width) // 2, (CELL - 48) // 2))
            glyphs.append(np.asarray(cell, np.float32) / 255)
    return np.stack(glyphs)


def _blur(images: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Blurs each image [H, W, C] with a Gaussian of its own σ (pixels), as two products with a matrix."""
    num, size, _, channels = images.shape
    distance = np.arange(size)[:, None] - np.arange(size)[None]
    kernel = np.exp(-0.5 * (distance / np.maximum(sigma, 1e-3)[:, None, None]) ** 2).astype(np.float32)
    kernel /= kernel.sum(axis=2, keepdims=True)
    rows = kernel @ images.reshape(num, size, size * channels)
    columns = kernel @ rows.reshape(num, size, size, channels).swapaxes(1, 2).reshape(num, size, size * channels)
    return columns.reshape(num, size, size, channels).swapaxes(1, 2)
