"""The user's own images in a folder: which files count, and which split each belongs to."""

import collections
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import NamedTuple

from calibrax._files import printable
from calibrax.data.files import LICENSE
from calibrax.data.pictures import SUFFIXES, read_pictures
from calibrax.data.types import Data, DataError, Options, readable

# Names of folders, in any case.
SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation"), "validation")
LEFTOVERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
ONE_IN = 10  # images of a folder without splits are for testing,
AT_LEAST_ONE_IN, AT_MOST_ONE_IN = 20, 5  # whatever their hashes


class Found(NamedTuple):
    """An image file: its path below the folder that was given, the file itself, and whether a link leads to it."""

    path: PurePath
    real: Path
    linked: bool


def load_folder(folder: Path, options: Options) -> Data:
    """Images from a folder that has folders of training and test images, or from a folder that is split here.

    Files: all images below the folder count, at any depth. Links to files and folders are followed, except for links to
    a folder that they are in. An image to which several paths lead counts once. Names that begin with a dot are passed
    over, and so are the folders of systems and tools in `LEFTOVERS`.

    Splits: folders have the names of `SPLITS` in any case, at one depth (`train/cat/1.png`, or `cat/Train/1.png`). If
    there is one, every image has to be in one. Without a folder for testing, that for validation is the test set.

    Without such folders, about one image in ten is for testing: those for which the hash of the path below the folder,
    the same on every system, is a multiple of ten. Adding images moves none from one split to another. The exception is
    that between a twentieth and a fifth of the images are for testing, which the hashes of few images may miss: then
    the images that are next by their hashes fill the test set up, or the last ones leave it, and added images may
    change which. Every image is drawn alone, because folders are classes more often than clips. Frames of one clip come
    into both splits; to keep clips whole, put them into folders train and test.

    Pixels: see `read_pictures`. Images of different sizes need `options.image_size`.

    Raises:
      DataError: if there are too few images, if one belongs to no split or to two, if a file or folder cannot be read,
        if an image has 16 bits per channel or several frames, or if images differ in size.
    """
    found = _find_images(folder)
    named, how = _by_folders(folder, found) or _by_hashes(folder, found)
    paths = {split: [folder / image.path for image in images] for split, images in named.items()}
    splits, notes = read_pictures(paths, options.image_size)
    origin = f"{folder} ({'; '.join([how, *notes])})"
    return Data(name=printable(folder.resolve().name), **splits, license=LICENSE, origin=printable(origin))


def _find_images(folder: Path) -> list[Found]:
    """The image files below a folder, in the order of their paths."""
    root = Path(os.path.realpath(folder))
    images: list[Found] = []
    # A folder is read once per split: the same image in two splits is an error, which `_by_folders` reports.
    visited: set[tuple[Path, str | None]] = set()
    pending: collections.deque[tuple[PurePath, Path, str | None, frozenset[Path]]]
    pending = collections.deque([(PurePath(), root, None, _with_parents(root))])
    while pending:
        below, real, split, above = pending.pop()
        if (real, split) in visited:
            continue
        visited.add((real, split))
        for entry in _entries(folder / below):
            path, is_image = below / entry.name, entry.name.lower().endswith(SUFFIXES)
            with readable(folder / path):  # not so a link to itself, or into a folder without permission
                is_folder, is_file = entry.is_dir(), entry.is_file()
            target = Path(os.path.realpath(entry.path)) if is_folder or entry.is_symlink() else real / entry.name
            linked = target != root / path
            if is_folder and target not in above:
                inside = (path, target, split or SPLITS.get(entry.name.casefold()), above | _with_parents(target))
                # Links come last, so that a new link to a folder does not change the paths of images.
                pending.appendleft(inside) if linked else pending.append(inside)
            elif is_file and is_image:
                images.append(Found(path, target, linked))
            elif not is_folder and not is_file and (is_image or entry.is_symlink()):
                reason = "is not a regular file (for example, a broken link)"
                raise DataError(f"{folder / path} {reason}; expected an image or a folder")
    return sorted(images, key=lambda image: _key(image.path).split(b"/"))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in the order of the names, without hidden and left-over files and folders."""
    with readable(folder), os.scandir(folder) as entries:
        kept = [one for one in entries if not one.name.startswith(".") and one.name.casefold() not in LEFTOVERS]
    return sorted(kept, key=lambda entry: entry.name)


def _with_parents(real: Path) -> frozenset[Path]:
    return frozenset((real, *real.parents))


def _key(path: PurePath) -> bytes:
    """A path below the folder, equal on all systems: separated by /, and text in composed UTF-8, unlike on macOS."""
    text = os.fsencode(path.as_posix()).decode("utf-8", "surrogateescape")
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")


def _by_folders(folder: Path, images: list[Found]) -> tuple[dict[str, list[Found]], str] | None:
    """The images of each split by the names of folders, and how in words; None if no folder has a split's name."""
    tops = [entry.name for entry in _entries(folder) if entry.name.casefold() in SPLITS and entry.is_dir()]
    depths = (
        depth for image in images for depth, name in enumerate(image.path.parts[:-1]) if name.casefold() in SPLITS
    )
    depth = 0 if tops else min(depths, default=None)
    if depth is None:
        _check_similar_names(folder, images)
        return None
    placed = [(image, PurePath(*image.path.parts[: depth + 1])) for image in images]
    splits = {place: SPLITS.get(place.name.casefold()) for image, place in placed if place != image.path}
    words = " and ".join(dict.fromkeys([*tops, *(place.name for place, split in splits.items() if split)]))
    named: dict[str, list[Found]] = {"train": [], "validation": [], "test": []}
    places: dict[tuple[PurePath, str], PurePath] = {}
    known: dict[Path, tuple[str, Found]] = {}
    for image, place in placed:
        split = splits.get(place)
        if split is None:
            expected = "expected every image in one of them, or other names for folders that are no splits"
            raise DataError(f"{folder / image.path} is beside the folders {words}; {expected}")
        if places.setdefault((place.parent, split), place) != place:
            both = f"{places[place.parent, split].name} and {place.name}"
            raise DataError(f"{folder / place.parent} has two folders for one split, {both}; expected one")
        other, first = known.setdefault(image.real, (split, image))
        if other != split:
            raise DataError(f"{folder / image.path} and {folder / first.path} are one file, in two splits")
        if first is image:
            named[split].append(image)
    how = f"folders {words}"
    if not named["test"] and not any(SPLITS[name.casefold()] == "test" for name in tops):
        named |= {"test": named["validation"], "validation": []}
        how += "; validation is the test set, since there is no other"
    for split in ("train", "test"):
        if not named[split]:
            raise DataError(f"{folder} has no images in '{split}'; expected folders train and test, or images alone")
    return {split: found for split, found in named.items() if found}, how


def _check_similar_names(folder: Path, images: Iterable[Found]) -> None:
    """Refuse folders that seem to be splits but have other names, such as train2017 beside val2017."""
    kinds: dict[PurePath, dict[str, str]] = collections.defaultdict(dict)
    for place in dict.fromkeys(place for image in images for place in image.path.parents if place.name):
        for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+", place.name):  # trainA is the word train, and A
            kind = SPLITS.get(re.sub("(set|data|images?)$", "", word.lower()))
            if kind is not None:
                kinds[place.parent].setdefault(kind, place.name)
    for parent, by_kind in kinds.items():
        if "train" in by_kind and len(set(by_kind.values())) > 1:
            both = " and ".join(sorted(set(by_kind.values())))
            advice = "call them train and test if they are splits, and something else if not"
            raise DataError(f"{folder / parent} has folders {both}; {advice}")


def _by_hashes(folder: Path, images: list[Found]) -> tuple[dict[str, list[Found]], str]:
    """The images drawn for training and for testing, and how in words."""
    once: dict[Path, Found] = {}
    for image in sorted(images, key=lambda image: image.linked):
        once.setdefault(image.real, image)
    num = len(once)
    if num == 0:
        raise DataError(f"{folder} holds no images; expected {', '.join(SUFFIXES[:4])}, ... files")
    if num == 1:
        raise DataError(f"{folder} holds 1 image; expected at least two, to train and to test on")
    hashes = {image: int.from_bytes(hashlib.sha256(_key(image.path)).digest()[:8], "big") for image in once.values()}
    chosen = sum(value % ONE_IN == 0 for value in hashes.values())
    num_test = min(max(chosen, -(-num // AT_LEAST_ONE_IN)), max(num // AT_MOST_ONE_IN, 1))
    test = set(sorted(hashes, key=lambda image: (hashes[image] % ONE_IN, hashes[image]))[:num_test])
    named = {
        "train": [image for image in images if image in hashes and image not in test],
        "test": [image for image in images if image in test],
    }
    return named, f"split by the hash of paths, {num_test} of {num} for testing"
