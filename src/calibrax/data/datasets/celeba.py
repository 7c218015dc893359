"""CelebA, cut to the face and shrunk, then kept at that size.

The paper says no more than "cropped to the face". Here that is the centre 140×140 of each photograph, 178 wide and 218
high: rows 39 to 178, columns 19 to 158. The 140 is this project's choice, and code elsewhere cuts to other sizes:
likelihoods and FID depend on it, so state it with a result.
"""

import contextlib
import functools
import io
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from calibrax.data.datasets.celeba_photographs import CELEBA, NUM_IMAGES, Photographs, find_photographs
from calibrax.data.tfds_cache import prepared_name
from calibrax.data.types import DataError, ImageData

LICENSE = "for non-commercial research only (Liu et al. 2015)"
WIDTH, HEIGHT, CROP = 178, 218, 140
LEFT, TOP = (WIDTH - CROP) // 2, (HEIGHT - CROP) // 2
DEFAULT_SIZE = (64, 64)
ORIGIN_FILE = "origin.txt"
MAX_THREADS = 16


def load_celeba(data_dir: Path, image_size: int | tuple[int, int] | None = None) -> ImageData:
    """CelebA's faces: 162,770 for training, 19,867 for validation, 19,962 for testing.

    What is looked for in `data_dir`, in this order: `celeba_images/64x64`, which an earlier call left there; `celeb_a`,
    prepared by TFDS as array_record; `img_align_celeba.zip`, or a folder of that name, with `list_eval_partition.txt`.
    From the last two each photograph is decoded, cut and resized on its own, by several threads, and the result is kept
    as the first, 2.5 GB at 64×64. TFDS's preparation has its own order of images, the files have that of their names.

    Args:
      data_dir: the folder.
      image_size: one number for a square, or (height, width), 1 to 140; antialiased bilinear, rounded to uint8; 64
        where it is None, since the photographs themselves would take 24 GB.

    Raises:
      DataError: in one line; whatever happens, what is kept is whole or not there.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else image_size or DEFAULT_SIZE
    if not all(1 <= side <= CROP for side in size):
        raise DataError(f"image size of {CELEBA} is {size[0]}x{size[1]}; expected 1 to {CROP}, the side of its crop")
    kept = data_dir / prepared_name(CELEBA) / f"{size[0]}x{size[1]}"
    if not kept.is_dir():
        _prepare(data_dir, kept, size)
    splits = {split: _read_kept(kept / f"{split}.npy", (num, *size, 3)) for split, num in NUM_IMAGES.items()}
    return ImageData(name=CELEBA, **splits, license=LICENSE, origin=f"{kept}, made from {_read_origin(kept)}")


def face(photograph: tuple[str, bytes], size: tuple[int, int]) -> np.ndarray:
    """The face in one photograph, uint8 [H, W, 3], of `size` (H, W).

    Args:
      photograph: its name, for messages, and its JPEG file's content.
      size: height and width.
    """
    from PIL import Image, UnidentifiedImageError

    name, content = photograph
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            if picture.size != (WIDTH, HEIGHT):  # so says the header; no pixel is decoded before
                raise DataError(
                    f"{name} is {picture.width} wide and {picture.height} high; "
                    f"expected {WIDTH} and {HEIGHT}, the aligned photographs"
                )
            cut = picture.convert("RGB").crop((LEFT, TOP, LEFT + CROP, TOP + CROP))
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is no JPEG image") from error
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise DataError(f"{name} cannot be read as a JPEG image: {error}") from error
    return np.asarray(cut.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _prepare(data_dir: Path, kept: Path, size: tuple[int, int]) -> None:
    """Decode, cut and resize every photograph; leave the result in the folder `kept`."""
    with contextlib.ExitStack() as stack:
        splits = find_photographs(data_dir, stack)
        _check_space(data_dir, sum(NUM_IMAGES.values()) * size[0] * size[1] * 3)
        try:
            with _appears_whole(kept) as folder, _progress(kept.name) as bar:
                for split, photographs in splits.items():
                    _write(folder / f"{split}.npy", _faces(photographs, size, bar))
                (folder / ORIGIN_FILE).write_text(_origin(splits["train"].where, size), encoding="utf-8")
        except OSError as error:
            raise DataError(f"{CELEBA} cannot be kept in {kept}: {error.strerror or error}") from error


def _progress(size: str):
    """Images done, images a second and time left, on stderr."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 30  # seconds between lines
    return tqdm(
        desc=f"{CELEBA} {size}",
        total=sum(NUM_IMAGES.values()),
        unit="img",
        unit_scale=True,
        mininterval=interval,
        maxinterval=2 * interval,
        leave=False,
    )


def _write(path: Path, images: np.ndarray) -> None:
    with path.open("xb") as file:
        np.save(file, images)
        file.flush()
        os.fsync(file.fileno())


def _faces(photographs: Photographs, size: tuple[int, int], bar) -> np.ndarray:
    """All faces of a split, uint8 [N, H, W, 3]; besides them only some photographs are in memory at once."""
    try:
        import grain
    except ImportError as error:
        raise DataError(f"{CELEBA} needs grain to be prepared: {error}") from error
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4 * threads)
    stream = grain.MapDataset.source(photographs).map(functools.partial(face, size=size)).to_iter_dataset(options)
    faces = np.empty((len(photographs), *size, 3), np.uint8)
    try:
        for target, image in zip(faces, stream, strict=True):
            target[:] = image
            bar.update()
    except DataError as error:
        raise DataError(str(error)) from error  # without the lines that Grain adds
    return faces


def _origin(where: str, size: tuple[int, int]) -> str:
    rows, columns = f"rows {TOP}-{TOP + CROP - 1}", f"columns {LEFT}-{LEFT + CROP - 1}"
    return (
        f"{where}, cut to the centre {CROP}x{CROP} of {WIDTH}x{HEIGHT} ({rows}, {columns}; the paper says only "
        f"'cropped to the face'), resized to {size[0]}x{size[1]}, antialiased bilinear"
    )


@contextlib.contextmanager
def _appears_whole(path: Path) -> Iterator[Path]:
    """A folder that takes the name `path` once the block has ended well, and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # otherwise another process was first, with the same
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # it holds other sizes, mostly
            path.parent.rmdir()


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DataError(f"{folder} has {free >> 20} MiB free; {CELEBA} at this size needs {size >> 20} MiB")


def _read_kept(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of a known shape; the header is compared before anything is allocated."""
    try:
        header = np.load(path, mmap_mode="r", allow_pickle=False)
        if header.shape != shape or header.dtype != np.uint8:
            raise ValueError(f"it is {header.dtype} {header.shape}, expected uint8 {shape}")
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = str(error).replace("\n", " ")
        raise DataError(f"{path} is damaged, remove {path.parent} to prepare it again: {reason}") from error


def _read_origin(kept: Path) -> str:
    try:
        return (kept / ORIGIN_FILE).read_text(encoding="utf-8").strip().replace("\n", " ")
    except (OSError, UnicodeDecodeError):
        return "a source not on record"
