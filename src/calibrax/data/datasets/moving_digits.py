"""`moving-digits` and `moving-mnist`: videos of digits that bounce within the frame, drawn from a seed.

As in Srivastava et al. 2015 (arXiv 1502.04681), section 4.1: two digits of 28×28 on a black frame of 64×64, each on a
straight line until it meets an edge. Speeds are whole pixels per frame, -4 to 4 each way, and where digits overlap
their levels add up to at most 255, as in the data set of SVG (edenton/svg, `data/moving_mnist.py`), whose digits are
32×32.
"""

import dataclasses
import functools

import numpy as np

from calibrax.data.transforms import first
from calibrax.data.types import Data, DataError, Options, check_whole

FRAME_SIZE = 64  # pixels, height and width
MAX_SPEED = 4  # pixels per frame, each way
NUM_FRAMES = 20


def load(options: Options) -> Data:
    """Videos of drawn digits, or of the images of the source `options.digits`; training and test seeds differ."""
    images = None
    if options.digits is not None:
        from calibrax.data import sources  # its table names this module

        if sources.is_video_source(options.digits):
            raise DataError(f"moving-digits: digits is {options.digits!r}, which are videos; expected images")
        images = sources.load(
            options.digits, data_dir=options.data_dir, download=options.download, timeout=options.timeout
        )
    frames, splits = options.frames(NUM_FRAMES), {}
    try:
        for split, (num, seed) in options.draws(10_000, 256).items():
            digits = None if images is None else np.asarray(images.splits[split])
            splits[split] = MovingDigits(digits, num, seed, frames[split], deterministic=options.deterministic)
    except ValueError as error:
        raise DataError(f"moving-digits: {error}") from error
    whose = "drawn digits, not MNIST's" if images is None else f"digits of {images.origin}"
    how = "reflected by the edges" if options.deterministic else "leaving the edges at random"
    return Data(
        name="moving-digits" if images is None else f"moving-{images.name}",
        **splits,
        license="drawn by calibrax, Apache-2.0" if images is None else images.license,
        origin=f"drawn from seed {options.seed}: {whose}, {how}",
    )


def load_mnist(options: Options) -> Data:
    """The same with MNIST's digits, unless `options.digits` names others."""
    return load(options if options.digits is not None else dataclasses.replace(options, digits="mnist"))


class MovingDigits:
    """Videos by index, each drawn on demand: a random-access source, for Grain too.

    Video n depends only on (seed, n). A longer version of a video begins with the frames of the shorter one.

    Args:
      digits: uint8 images to move, [M, h, w] or [M, h, w, 1], for example MNIST's; by default those of `drawn_digits`.
      num: number of videos.
      seed: 0 or more.
      num_frames: length T of a video.
      size: height and width of a frame, in pixels; at least those of a digit.
      num_digits: number of digits in each frame.
      deterministic: if True, edges reflect the digits, and the start of a video determines the rest. Otherwise a digit
        leaves an edge in a random direction at a random speed, as in SVG's experiments (Denton and Fergus 2018, arXiv
        1802.07687).

    Raises:
      ValueError: if an argument has another shape or dtype, or is out of its range.
    """

    def __init__(
        self,
        digits: np.ndarray | None = None,
        num: int = 10_000,
        seed: int = 0,
        num_frames: int = NUM_FRAMES,
        *,
        size: int = FRAME_SIZE,
        num_digits: int = 2,
        deterministic: bool = False,
    ):
        for name, value in {"num": num, "num_frames": num_frames, "num_digits": num_digits}.items():
            check_whole(name, value, 1)
        check_whole("seed", seed, 0)
        digits = drawn_digits() if digits is None else np.asarray(digits)
        if digits.dtype != np.uint8 or digits.ndim < 3 or 0 in digits.shape or digits.shape[3:] not in ((), (1,)):
            expected = "uint8 [M, h, w] or [M, h, w, 1], M > 0"
            raise ValueError(f"digits is {digits.dtype} {digits.shape}; expected {expected}")
        if max(digits.shape[1:3]) > size:
            raise ValueError(f"size is {size}; expected {max(digits.shape[1:3])} or more, the size of a digit")
        self._digits = digits.reshape(digits.shape[:3])
        self._num, self._seed, self._deterministic = num, seed, deterministic
        self._shape = (num_frames, size, size, 1)
        self._num_digits = num_digits

    def __len__(self) -> int:
        return self._num

    def __getitem__(self, index: int) -> np.ndarray:
        """One video, uint8 [T, size, size, 1].

        Raises:
          IndexError: if the index is not in 0..num-1.
        """
        if not 0 <= index < self._num:
            raise IndexError(f"index is {index}; expected 0 to {self._num - 1}")
        rng, video = np.random.default_rng((self._seed, index)), np.zeros(self._shape, np.uint8)
        chosen = self._digits[rng.integers(len(self._digits), size=self._num_digits)]
        height, width = chosen.shape[1:]
        room = np.array([video.shape[1] - height, video.shape[2] - width])
        start = rng.integers(room + 1, size=(self._num_digits, 2))
        speed = rng.integers(-MAX_SPEED, MAX_SPEED + 1, size=(self._num_digits, 2))
        path = _reflected if self._deterministic else functools.partial(_scattered, rng=rng)
        places = path(start, speed, room, len(video)).tolist()
        for frame, tops_and_lefts in zip(video[..., 0], places, strict=True):
            for digit, (top, left) in zip(chosen, tops_and_lefts, strict=True):
                window = frame[top : top + height, left : left + width]
                window += np.minimum(digit, 255 - window)
        return video


def moving_digits(
    digits: np.ndarray | None = None, num: int = 1000, seed: int = 0, num_frames: int = NUM_FRAMES, **options
) -> np.ndarray:
    """The videos of `MovingDigits` as one array.

    Args and Raises: see `MovingDigits`.

    Returns:
      uint8 [num, T, size, size, 1].
    """
    return first(MovingDigits(digits, num, seed, num_frames, **options))


@functools.cache
def drawn_digits() -> np.ndarray:
    """The ten digits in the six typefaces of `street-digits`, 21 pixels high, white on black, uint8 [60, 28, 28]."""
    from PIL import Image

    from calibrax.data.datasets.street_digits import glyph_atlas

    cells = (Image.fromarray(np.round(255 * glyph).astype(np.uint8)) for glyph in glyph_atlas())
    digits = np.stack([np.asarray(cell.resize((28, 28), Image.Resampling.BILINEAR)) for cell in cells])
    digits.flags.writeable = False  # all callers share this array
    return digits


def _reflected(start: np.ndarray, speed: np.ndarray, room: np.ndarray, num_frames: int) -> np.ndarray:
    """Positions on a straight line that the edges reflect like mirrors, [T, D, 2].

    `start` is the top and left of each digit in the first frame, [D, 2]; `speed` is in pixels per frame, down and to
    the right, [D, 2]; `room` is the largest top and left, [2].
    """
    unfolded = start + np.arange(num_frames)[:, None, None] * speed
    # The mirrored line has period 2·room; if room is 0 nothing moves.
    return room - np.abs(unfolded % np.maximum(2 * room, 1) - room)


def _scattered(
    start: np.ndarray, speed: np.ndarray, room: np.ndarray, num_frames: int, *, rng: np.random.Generator
) -> np.ndarray:
    """Positions as in `_reflected`, but an edge stops a digit for one frame; then it leaves that edge at random."""
    places = np.empty((num_frames, *start.shape), np.int64)
    place = start
    # One draw per frame, used or not, so that the first frames do not depend on the number of frames.
    for frame, uniforms in enumerate(rng.random((num_frames, *start.shape))):
        below, beyond = place < 0, place > room
        met = below | beyond
        if met.any():
            place = np.clip(place, 0, room)
            away = np.floor(1 + MAX_SPEED * uniforms).astype(np.int64) * np.where(below, 1, -1)
            along = np.floor(-MAX_SPEED + (2 * MAX_SPEED + 1) * uniforms).astype(np.int64)
            speed = np.where(met, away, np.where(met.any(axis=1, keepdims=True), along, speed))
        places[frame] = place
        place = place + speed
    return places
