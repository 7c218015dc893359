"""The user's own images: an `.npz` file or a folder."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np

from calibrax.data.types import DataError, ImageData, check_splits

SPLITS = ("train", "validation", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
MAX_BYTES = 64 * 2**30  # of one array, by its header
TEST_SHARE = 10  # one image in ten of a folder without train/ and test/


def load_npz(path: Path) -> ImageData:
    """Images from an `.npz` with uint8 arrays `train`, `test` and optionally `validation`, each [N, H, W, C].

    Raises:
      DataError: in one line.
    """
    splits = read_npz(path, "[N, H, W, C]")
    check_splits(str(path), splits)
    return ImageData(name=path.stem, **splits, license="see its source", origin=str(path))


def read_npz(path: Path, layout: str) -> dict[str, np.ndarray]:
    """The uint8 arrays `train`, `test` and, if it is there, `validation` of an `.npz` file.

    Headers are checked before any array is allocated; other keys are ignored; pickles are not opened.

    Args:
      path: the file.
      layout: names of the axes, such as `[N, H, W, C]`, for their number and for messages.

    Raises:
      DataError: in one line.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {Path(info.filename).stem: info for info in archive.infolist() if info.filename.endswith(".npy")}
            for name in ("train", "test"):
                if name not in members:
                    raise DataError(f"{path} has no array '{name}'; expected uint8 arrays 'train' and 'test' {layout}")
            return {name: _read_member(path, archive, members[name], layout) for name in SPLITS if name in members}
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read as an .npz file: {error}") from error


def _read_member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, layout: str) -> np.ndarray:
    name = Path(info.filename).stem
    try:
        with archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if dtype != np.uint8 or len(shape) != layout.count(",") + 1:
                raise DataError(f"{path}: '{name}' is {dtype} {shape}; expected uint8 {layout}")
            size = int(np.prod([int(n) for n in shape], dtype=object))
            if size > min(info.file_size, MAX_BYTES):
                raise DataError(f"{path}: the header of '{name}' promises {size} bytes, more than the file holds")
        with archive.open(info) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except DataError:
        raise
    except Exception as error:  # zipfile and NumPy raise many kinds on damaged files
        raise DataError(f"{path}: array '{name}' cannot be read: {error}".replace("\n", " ")) from error


def load_folder(folder: Path, image_size: int | tuple[int, int] | None = None) -> ImageData:
    """Images from a folder with `train` and `test` (and `validation`) inside, or from one folder that is split here.

    A single folder is split by a hash of each file's name, one image in ten for testing, so that adding images moves
    none from one side to the other. Grey images give one channel when all of them are grey, otherwise three. Images of
    different sizes need `image_size`: each is then cropped to its central square and resized.
    """
    named = {name: _image_files(folder / name) for name in SPLITS if (folder / name).is_dir()}
    if "train" in named or "test" in named:
        for name in ("train", "test"):
            if not named.get(name):
                raise DataError(f"{folder} has no images in '{name}'; expected folders train and test, or images alone")
        how = "folders train and test"
    else:
        files = _image_files(folder)
        if not files:
            raise DataError(f"{folder} holds no images; expected {', '.join(IMAGE_SUFFIXES[:4])}, ... files")
        test = [path for path in files if _name_hash(path) % TEST_SHARE == 0] or files[-1:]
        named = {"train": [path for path in files if path not in set(test)], "test": test}
        if not named["train"]:
            raise DataError(f"{folder} holds {len(files)} image; expected at least two, to train and to test on")
        how = f"split by the hash of file names, {len(test)} of {len(files)} for testing"
    grey = all(_is_grey(path) for files in named.values() for path in files)
    splits = {name: _read_images(files, grey, image_size) for name, files in named.items() if files}
    check_splits(str(folder), splits)
    return ImageData(name=folder.resolve().name, **splits, license="see its source", origin=f"{folder} ({how})")


def _image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _name_hash(path: Path) -> int:
    return int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:8], "big")


def _open(path: Path):
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(path)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}") from error


def _is_grey(path: Path) -> bool:
    with _open(path) as picture:
        return picture.mode in ("1", "L")


def _read_images(files: list[Path], grey: bool, image_size: int | tuple[int, int] | None) -> np.ndarray:
    from PIL import Image

    images, first = [], None
    for path in files:
        with _open(path) as picture:
            try:
                picture = picture.convert("L" if grey else "RGB")
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{path} cannot be read as an image: {error}") from error
        if image_size is not None:
            height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
            side = min(picture.size)
            left, top = (picture.width - side) // 2, (picture.height - side) // 2
            box = (left, top, left + side, top + side) if height == width else None
            picture = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        image = np.asarray(picture).reshape(picture.height, picture.width, -1)
        first = first or (path, image.shape)
        if image.shape != first[1]:
            sizes = f"{first[0].name} is {first[1][:2]}, {path.name} is {image.shape[:2]}"
            raise DataError(f"images differ in size: {sizes}; give an image size to crop and resize them")
        images.append(image)
    return np.stack(images)
