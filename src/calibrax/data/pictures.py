"""Image files to arrays: upright, without transparency, with one channel if all are grey."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from calibrax.data.types import DataError, readable

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".jfif")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # of a file's content; EPS would run Ghostscript
ORIENTATION = 0x0112  # EXIF's tag, whose values are keys of UPRIGHT
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def read_pictures(
    paths: dict[str, list[Path]], size: tuple[int, int] | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The images of each split, uint8 [N, H, W, 1] or [N, H, W, 3], and notes on how they were changed.

    An image is turned as its EXIF orientation says. Transparent pixels are composited on white, the colour that most
    viewers show. If the three channels of every pixel of all images are equal, whatever the format of the files, there
    is one channel. If there is a size (height, width), each image is cropped to its central square (if the size is
    square) and resized by antialiased bilinear.

    Raises:
      DataError: if an image cannot be read, has 16 bits per channel or several frames, or differs from others in size.
    """
    images: dict[str, list[np.ndarray]] = {split: [] for split in paths}
    num_transparent = 0
    for split, files in paths.items():
        for path in files:
            image, transparent = _read(path, size)
            num_transparent += transparent
            shape = (images[split] or [image])[0].shape[:2]
            if image.shape[:2] != shape:
                sizes = f"{files[0].name} is {shape}, {path.name} is {image.shape[:2]}"
                raise DataError(f"images differ in size: {sizes}; give an image size to crop and resize them")
            images[split].append(image)
    channels = max(image.shape[2] for some in images.values() for image in some)
    stacked = {
        split: np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in some])
        for split, some in images.items()
    }
    return stacked, [f"{num_transparent} with transparent pixels, composited on white"] if num_transparent else []


def _read(path: Path, size: tuple[int, int] | None) -> tuple[np.ndarray, bool]:
    """uint8 [H, W, 1] if the image is grey, or [H, W, 3]; and whether it had transparent pixels."""
    from PIL import Image

    with _opened(path) as opened:
        if opened.mode.startswith(("I", "F")):  # Pillow would clip at 255 instead of scaling
            raise DataError(f"{path} has pixels of mode {opened.mode}; expected 8 bits a channel")
        # The further pictures in a camera's JPEG file are previews and views of the same scene.
        num_frames = 1 if opened.format in ("JPEG", "MPO") else getattr(opened, "n_frames", 1)
        if num_frames > 1:
            raise DataError(f"{path} has {num_frames} frames; expected one image per file, or videos as an .npz file")
        transparent = opened.has_transparency_data
        picture = opened.convert("RGBA" if transparent else "RGB")
        picture = _upright(picture, opened)
        if transparent:
            transparent = picture.getextrema()[3][0] < 255
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture).convert("RGB")
        if size is not None:
            height, width = size
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            box = (left, top, left + side, top + side) if height == width else None
            picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        pixels = np.asarray(picture)
    is_grey = (pixels == pixels[..., :1]).all()
    return np.array(pixels[..., :1]) if is_grey else pixels, transparent


def _upright(picture: Any, opened: Any) -> Any:
    """The picture as the EXIF data of the file say that it was held; data that cannot be read count as none."""
    from PIL import Image

    # Pillow has turned a TIFF image when it read the pixels, and has removed the orientation.
    orientation = None
    with contextlib.suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        orientation = opened.getexif().get(ORIENTATION)
    name = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if name is None else picture.transpose(Image.Transpose[name])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open Pillow image. DataError if its header gives more pixels than Pillow considers safe (89 million)."""
    from PIL import Image, UnidentifiedImageError

    # Pillow is not given the name, since it would map TIFF files to memory, and those that it turns in the wrong shape.
    with readable(path, "as an image"), path.open("rb") as stream:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                opened = Image.open(stream, formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError(f"it is none of {', '.join(FORMATS)}") from error
        with opened:
            yield opened
