"""CelebA (Liu et al. 2015), cropped to the face and resized; the result is kept in the data folder.

The paper says only "cropped to the face". Here that is the centre 140×140 of each photograph, 178 wide and 218 high:
rows 39 to 178, columns 19 to 158. The 140 is this project's choice, and other code crops to other sizes. Likelihoods
and FID depend on it, so state it with a result.
"""

import contextlib
import functools
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calibrax._terminal import progress_bar
from calibrax.data.batches import read_ahead
from calibrax.data.datasets.celeba_jpegs import NUM_IMAGES, from_files, from_tfds
from calibrax.data.download import free_space
from calibrax.data.tfds_cache import prepared_name
from calibrax.data.transforms import View
from calibrax.data.types import Data, DataError, Options, readable

WIDTH, HEIGHT, CROP = 178, 218, 140
LEFT, TOP = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
DEFAULT_SIZE = (64, 64)
ORIGIN_FILE = "origin.txt"
READ_AHEAD = 64  # photographs


def load(options: Options) -> Data:
    """CelebA's faces: 162,770 for training, 19,867 for validation, 19,962 for testing.

    These are looked for in the data folder, in this order:
    - `celeba_images/64x64`, which an earlier call left there (2.5 GB);
    - `celeb_a`, prepared by TFDS as array_record or tfrecord;
    - `img_align_celeba.zip` or a folder `img_align_celeba`, with `list_eval_partition.txt`.
    From the last two each photograph is decoded, cropped and resized on its own, and the result is kept as the first.
    TFDS's preparation has its own order of images; the original files are in the order of their names.

    The size of the images is `options.image_size`, 1 to 140; by default 64, since whole photographs take 24 GB.

    Raises:
      DataError: if the photographs are missing or damaged, or the size is too large. Nothing incomplete is kept.
    """
    size = options.image_size or DEFAULT_SIZE
    if max(size) > CROP:
        raise DataError(f"image size of celeba is {size[0]}x{size[1]}; expected 1 to {CROP}, the side of its crop")
    kept = options.data_dir / prepared_name("celeba") / f"{size[0]}x{size[1]}"
    if not kept.is_dir():
        _prepare(options.data_dir, kept, size)
    with readable(kept, "(remove it to prepare it again)"):
        splits = {split: _read_kept(kept / f"{split}.npy", (num, *size, 3)) for split, num in NUM_IMAGES.items()}
        origin = f"{kept}, made from {(kept / ORIGIN_FILE).read_text(encoding='utf-8')}"
    return Data("celeba", **splits, license="for non-commercial research only (Liu et al. 2015)", origin=origin)


def face(photograph: tuple[str, bytes], size: tuple[int, int]) -> np.ndarray:
    """The face in a photograph, given as a name for messages and the content of a JPEG file; uint8 [*size, 3]."""
    from PIL import Image, UnidentifiedImageError

    name, content = photograph
    with readable(name, "as a JPEG image"):
        try:
            picture = Image.open(io.BytesIO(content), formats=["JPEG"])
        except UnidentifiedImageError as error:
            raise DataError(f"{name} is no JPEG image") from error
        if picture.size != (WIDTH, HEIGHT):  # as the header has it, before any pixel is decoded
            raise DataError(
                f"{name} is {picture.width} wide and {picture.height} high; "
                f"expected {WIDTH} and {HEIGHT}, the aligned photographs"
            )
        cropped = picture.convert("RGB").crop((LEFT, TOP, LEFT + CROP, TOP + CROP))
    return np.asarray(cropped.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _prepare(data_dir: Path, kept: Path, size: tuple[int, int]) -> None:
    """Decode, crop and resize every photograph, and write the result into the folder `kept`."""
    with contextlib.ExitStack() as stack:
        where, splits = from_tfds(data_dir) or from_files(data_dir, stack)
        free, needed = free_space(data_dir), sum(NUM_IMAGES.values()) * size[0] * size[1] * 3
        if free < needed:
            raise DataError(f"{data_dir} has {free >> 20} MiB free; celeba at this size needs {needed >> 20} MiB")
        try:
            with _appears_whole(kept) as folder:
                for split, photographs in splits.items():
                    _write(folder / f"{split}.npy", _faces(photographs, size))
                (folder / ORIGIN_FILE).write_text(_origin(where, size), encoding="utf-8")
        except OSError as error:
            raise DataError(f"celeba cannot be kept in {kept}: {error.strerror or error}") from error


def _write(path: Path, images: np.ndarray) -> None:
    with path.open("xb") as file:
        np.save(file, images)
        file.flush()
        os.fsync(file.fileno())


def _faces(photographs: View, size: tuple[int, int]) -> np.ndarray:
    """All faces of a split, uint8 [N, H, W, 3]. Besides them only a few photographs are in memory at a time."""
    faces = np.empty((len(photographs), *size, 3), np.uint8)
    images = read_ahead(View(photographs, functools.partial(face, size=size)), READ_AHEAD)
    with progress_bar(images, f"celeba {size[0]}x{size[1]}", len(faces), unit="img", leave=False) as bar:
        for target, image in zip(faces, bar, strict=True):
            target[:] = image
    return faces


def _origin(where: str, size: tuple[int, int]) -> str:
    rows, columns = f"rows {TOP}-{TOP + CROP - 1}", f"columns {LEFT}-{LEFT + CROP - 1}"
    return (
        f"{where}, cut to the centre {CROP}x{CROP} of {WIDTH}x{HEIGHT} ({rows}, {columns}; the paper says only "
        f"'cropped to the face'), resized to {size[0]}x{size[1]}, antialiased bilinear"
    )


@contextlib.contextmanager
def _appears_whole(path: Path) -> Iterator[Path]:
    """A temporary folder, renamed to `path` at the end of the block, or removed after an error."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # otherwise another process has just written the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # usually it is not empty, but holds other sizes
            path.parent.rmdir()


def _read_kept(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of a known shape; its header is checked before anything is allocated."""
    header = np.load(path, mmap_mode="r", allow_pickle=False)
    if header.shape != shape or header.dtype != np.uint8:
        raise ValueError(f"{path.name} is {header.dtype} {header.shape}; expected uint8 {shape}")
    return np.load(path, allow_pickle=False)
