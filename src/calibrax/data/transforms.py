"""Images of another size, resized as the paper's experiments did it; and fewer of them."""

import dataclasses

import numpy as np

from calibrax.data.types import DataError, ImageData, is_whole

Size = int | tuple[int, int] | None
MAX_SIDE = 1 << 14  # pixels
MAX_BYTES = 64 * 2**30  # of the resized images of a split


def checked_size(image_size: Size) -> tuple[int, int] | None:
    """(height, width), or None where images stay as they are.

    Raises:
      DataError: if it is neither one whole number nor two, 1 to 16384.
    """
    if image_size is None:
        return None
    size = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(size) != 2:
        raise DataError(f"image size is {image_size!r}; expected one number, or height and width")
    if not all(is_whole(side) and 1 <= side <= MAX_SIDE for side in size):
        raise DataError(f"image size is {size[0]}x{size[1]}; expected 1 or more, a whole number up to {MAX_SIDE}")
    return size[0], size[1]


def resize(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 images [N, H, W, C] to `size` (height, width); antialiased bilinear, rounded to uint8.

    Any number of channels, each resized alone, which is what Pillow does with colour images too.

    Raises:
      DataError: if they would take more than 64 GiB.
    """
    from PIL import Image

    if images.shape[1:3] == tuple(size):
        return images
    height, width = size
    if len(images) * height * width * images.shape[3] > MAX_BYTES:
        raise DataError(f"image size is {height}x{width}; expected less: {len(images):,} images would take over 64 GiB")
    resized = np.empty((len(images), height, width, images.shape[3]), np.uint8)
    for target, image in zip(resized, images, strict=True):
        for channel in range(images.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(image[:, :, channel]))
            target[:, :, channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return resized


def resize_data(data: ImageData, image_size: Size) -> ImageData:
    """All splits at `image_size`: one number for a square, or (height, width); None leaves them as they are."""
    size = checked_size(image_size)
    if size is None or size == data.event_shape[:2]:
        return data
    splits = {name: resize(images, size) for name, images in data.splits.items()}
    height, width = data.event_shape[:2]
    note = f"{data.origin}; resized from {height}x{width} to {size[0]}x{size[1]}, antialiased bilinear"
    return dataclasses.replace(data, **splits, origin=note)


def take_fraction(data: ImageData, fraction: float) -> ImageData:
    """The first `fraction` of the training images, at least one; the other splits whole.

    Raises:
      DataError: if the fraction is not in (0, 1].
    """
    num = fraction_size(len(data.train), fraction)
    if num == len(data.train):
        return data
    note = f"{data.origin}; the first {num:,} of {len(data.train):,} training images"
    return dataclasses.replace(data, train=data.train[:num], origin=note)


def fraction_size(num: int, fraction: float) -> int:
    """How many of `num` examples that share is, at least one; raises DataError if it is not in (0, 1]."""
    if not isinstance(fraction, int | float) or not 0 < fraction <= 1:
        raise DataError(f"fraction is {fraction!r}; expected more than 0, at most 1")
    return max(1, round(fraction * num))
