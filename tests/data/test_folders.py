"""Folders of images: which count, which split each belongs to, and what their pixels become.

In the table each image is of one grey level of its own, by which the splits are compared.
"""

import hashlib
import os
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from drawn_arrays import one_line
from PIL import Image

from calibrax import data
from calibrax.data import folders


def picture(level, size=(8, 8)):
    return Image.new("L", size, level)


def put(root, *paths, first=20):
    """Save an image per path, the levels counted from `first`; returns the level of each path."""
    levels = {path: first + number for number, path in enumerate(paths)}
    for path, level in levels.items():
        file = os.path.join(os.fsencode(root), os.fsencode(path))
        os.makedirs(os.path.dirname(file), exist_ok=True)
        with open(file, "wb") as stream:
            picture(level).save(stream, "PNG")
    return levels


def levels_of(loaded):
    return {split: sorted(int(level) for level in images[:, 0, 0, 0]) for split, images in loaded.splits.items()}


def link(root, path, target):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)


def drawn(levels):
    """The splits by the rule in the docstring of `load_folder`."""
    hashes = {path: int(hashlib.sha256(os.fsencode(path)).hexdigest()[:16], 16) for path in levels}
    order = sorted(levels, key=lambda path: (hashes[path] % 10, hashes[path]))
    num = sum(hashes[path] % 10 == 0 for path in levels)
    num = max(num, int(np.ceil(len(levels) / 20)))
    num = min(num, max(len(levels) // 5, 1))
    return {
        "train": sorted(levels[path] for path in order[num:]),
        "test": sorted(levels[path] for path in order[:num]),
    }


# Builders: each draws a tree and returns the splits that are expected.


def splits(*names, **expected):
    """Two images in each folder; `expected` says which folders belong to each split."""

    def build(root):
        levels = put(root, *(f"{name}/{number}.png" for name in names for number in range(2)))
        return {
            split: sorted(level for path, level in levels.items() if str(Path(path).parent) in of.split())
            for split, of in expected.items()
        }

    return build


def alone(*paths, also: Callable[[Path], Any] = lambda root: None):
    """Images that are split by their hashes, and what else there is in the folder."""

    def build(root):
        levels = put(root, *paths)
        also(root)
        return drawn(levels)

    return build


def images(root, *paths):
    """Images that are not to count."""
    put(root, *paths, first=150)


def linked_classes(root):
    """42 images: one in each split, and twenty behind a link in each."""
    pool = root.with_name(f"{root.name}-pool")
    levels = put(root, "train/a.png", "test/b.png")
    more = put(pool, *(f"{split}/{n}.png" for split in ("x", "y") for n in range(20)), first=40)
    link(root, "train/cat", pool / "x")
    link(root, "test/cat", pool / "y")
    return {
        "train": [levels["train/a.png"], *(more[f"x/{n}.png"] for n in range(20))],
        "test": [levels["test/b.png"], *(more[f"y/{n}.png"] for n in range(20))],
    }


def linked_splits(root):
    pool = root.with_name(f"{root.name}-pool")
    levels = put(pool, *(f"{split}/{n}.png" for split in ("p", "q") for n in range(3)))
    link(root, "train", pool / "p")
    link(root, "test", pool / "q")
    return {name: [levels[f"{pool}/{n}.png"] for n in range(3)] for name, pool in (("train", "p"), ("test", "q"))}


def linked_files(root):
    pool = root.with_name(f"{root.name}-pool")
    put(pool, *(f"{n}.png" for n in range(30)))
    for n in range(30):
        link(root, f"image{n}.png", pool / f"{n}.png")
    return drawn({f"image{n}.png": 20 + n for n in range(30)})


def circles(root):
    link(root, "a/to_b", root / "b")
    link(root, "b/to_a", root / "a")
    link(root, "a/up", "..")
    link(root, "further_up", root.parent)
    link(root, "self", ".")


def many_links(root):
    """Twelve folders, each with links to all others: 10^8 paths without a circle."""
    for a in range(12):
        for b in range(12):
            link(root, f"{a}/to{b}", root / str(b))


def twice(root):
    link(root, "0_first", root / "z")
    link(root, "0.png", root / "z" / "3.png")


def in_two_splits(root):
    put(root, "train/a.png", "test/b.png")
    link(root, "test/a.png", root / "train" / "a.png")


def files(*names):
    def build(root):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"\0\5\x16\7")

    return build


def both(*builders):
    def build(root):
        expected, *_ = [builder(root) for builder in builders]
        return expected

    return build


def frames(name, num=2):
    def build(root):
        first, *rest = [picture(100 + n) for n in range(num)]
        first.save(root / name, save_all=True, append_images=rest)

    return build


def below_hidden(root):
    put(root, "images/a.png")
    return drawn(put(root, "images/a.png", "images/b.png"))


CLASSES = [f"{name}/{n}.png" for name in ("bus", "car", "cat") for n in range(12)]
FLAT = [f"{n}.png" for n in range(40)]
SAMPLES = [f"sample{n}/image.png" for n in range(40)]
CLIPS = [f"clip{n}/frame{t:03}.png" for n in range(5) for t in range(16)]
BYTES = [os.fsdecode(b"b\xe4r%d.png" % n) for n in range(12)]
UNICODE = [f"{word}/{n}.png" for word in ("Bär", "熊", "🐻", "a b", "%2e", "a\nb") for n in range(3)]
DEEP = [f"{'/'.join(['d' * 100] * 30)}/{n}.png" for n in range(5)]


class Case(NamedTuple):
    id: str
    build: Callable[[Path], Any]  # returns the splits that are expected
    refused: str | None = None  # or the line


TABLE = [
    # names
    Case("train and test", splits("train", "test", train="train", test="test")),
    Case("capitals", splits("Train", "Test", train="Train", test="Test")),
    Case("all capitals", splits("TRAIN", "TEST", "VAL", train="TRAIN", test="TEST", validation="VAL")),
    Case("-ing", splits("training", "Testing", train="training", test="Testing")),
    Case("valid", splits("train", "test", "valid", train="train", test="test", validation="valid")),
    Case("Validation", splits("train", "test", "Validation", train="train", test="test", validation="Validation")),
    Case("no test but val", splits("train", "val", train="train", test="val")),
    Case("deep in train", splits("train/a/b", "train/c", "test/a", train="train/a/b train/c", test="test/a")),
    Case("train in classes", splits("a/train", "a/Test", "b/train", train="a/train b/train", test="a/Test")),
    Case("wrapped", splits("set/images/Train", "set/images/val", train="set/images/Train", test="set/images/val")),
    Case(
        "class train", splits("train/train", "train/test", "test/bus", train="train/train train/test", test="test/bus")
    ),
    Case("split twice", splits("train", "Training", "test"), "two folders for one split, Training and train; expected"),
    Case("val twice", splits("train", "val", "valid", "test"), "two folders for one split, val and valid"),
    Case("train alone", splits("Train"), "has no images in 'test'; expected folders train and test"),
    Case("test alone", splits("TEST"), "has no images in 'train'; expected folders train and test"),
    Case("val alone", splits("val"), "has no images in 'train'"),
    Case("empty test", both(splits("train", "val"), lambda root: (root / "Test").mkdir()), "has no images in 'test'"),
    Case("loose beside", both(splits("Train", "Test"), lambda root: images(root, "x.png")), "x.png is beside the fold"),
    Case("folder beside", splits("train", "test", "more"), "more/0.png is beside the folders test and train; expected"),
    Case("val beside", splits("val", "other"), "other/0.png is beside the folders val"),
    Case("years", splits("train2017", "val2017"), "has folders train2017 and val2017; call them train and test"),
    Case("trainset", splits("trainset", "testset"), "has folders testset and trainset"),
    Case("letters", splits("trainA", "testA"), "has folders testA and trainA"),
    Case("suffixes", splits("a/images_train", "a/images-test"), "/a has folders images-test and images_train"),
    Case("classes like splits", alone(*(f"{name}/{n}.png" for name in ("train_station", "valley") for n in range(9)))),
    # what is left over
    Case("checkpoints", alone(*FLAT, also=lambda root: images(root, *(f".ipynb_checkpoints/{name}" for name in FLAT)))),
    Case("hidden in train", both(splits("train", "test", train="train", test="test"), files("train/.git/x.png"))),
    Case("macOS", alone(*FLAT, also=files("._3.png", ".DS_Store", "__MACOSX/3.png", "__MACOSX/a/._3.png"))),
    Case("Windows", alone(*FLAT, also=files("Thumbs.db", "desktop.ini", "$RECYCLE.BIN/x.png"))),
    Case("Synology", alone(*CLASSES, also=files("cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/1.png"))),
    Case("hidden train", alone(*FLAT, also=lambda root: images(root, ".train/a.png", ".test/b.png"))),
    Case("other files", alone(*FLAT, also=files("labels.csv", "cat.txt", "notes"))),
    # the split by hashes
    Case("flat", alone(*FLAT)),
    Case("classes", alone(*CLASSES)),
    Case("samples", alone(*SAMPLES)),
    Case("clips", alone(*CLIPS)),
    Case("two", alone("a.png", "b.png")),
    Case("one", alone("a.png"), "holds 1 image; expected at least two"),
    Case("none", files("notes.txt"), "holds no images; expected .png, .jpg"),
    Case("empty", lambda root: None, "holds no images"),
    Case("none but hidden", lambda root: images(root, ".a.png", ".b/c.png"), "holds no images"),
    # links
    Case("linked classes", linked_classes),
    Case("linked splits", linked_splits),
    Case("linked files", linked_files),
    Case("circles", alone(*(f"{name}/{n}.png" for name in "ab" for n in range(9)), also=circles)),
    Case("many links", alone(*(f"{n}/{n}.png" for n in range(12)), also=many_links)),
    Case("twice by links", alone(*(f"z/{n}.png" for n in range(30)), also=twice)),
    Case("in two splits", in_two_splits, "train/a.png and .*test/a.png are one file, in two splits"),
    Case("test is train", both(splits("train"), lambda root: link(root, "test", root / "train")), "one file, in two"),
    Case("broken", both(alone(*FLAT), lambda root: link(root, "x.png", "gone")), "x.png is not a regular file"),
    Case("broken folder", both(alone(*FLAT), lambda root: link(root, "cat", "gone")), "cat is not a regular file"),
    Case("own link", both(alone(*FLAT), lambda root: link(root, "x.png", "x.png")), "x.png cannot be read: Too many"),
    Case("pipe", both(alone(*FLAT), lambda root: os.mkfifo(root / "x.png")), "x.png is not a regular file"),
    # encodings and lengths
    Case("bytes", alone(*BYTES)),
    Case(
        "bytes in train", splits(os.fsdecode(b"train/b\xe4r"), "test", train=os.fsdecode(b"train/b\xe4r"), test="test")
    ),
    Case("Unicode", alone(*UNICODE)),
    Case("deep", alone(*DEEP)),
    Case("suffixes of files", alone("A.PNG", "b.JPG", "c.jfif", "d.Tiff", "e.webp", "f.pbm")),
    # frames
    Case(
        "animation", both(splits("train", "test"), frames("train/2.gif", 3)), "2.gif has 3 frames; expected one image"
    ),
    Case("pages", both(alone(*FLAT), frames("x.tiff")), "x.tiff has 2 frames; expected one image per file"),
    Case("animated PNG", both(alone(*FLAT), frames("x.png")), "x.png has 2 frames"),
]


def skip_unless_on_linux(error):
    if sys.platform == "linux":
        raise error
    pytest.skip(str(error))


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.id)
def test_the_splits_of_a_folder(case, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    try:
        expected = case.build(root)
    except (OSError, NotImplementedError, AttributeError) as error:  # names, links or pipes that the system lacks
        skip_unless_on_linux(error)
        return
    if case.refused is not None:
        with one_line(case.refused):
            data.load(str(root))
        return
    loaded = data.load(str(root))
    assert levels_of(loaded) == expected
    assert loaded.image_shape == (8, 8, 1)
    assert loaded.origin.isprintable()


@pytest.mark.parametrize("paths", [SAMPLES, CLIPS], ids=["samples", "clips"])
def test_equal_names_in_many_folders_leave_a_tenth_for_testing(tmp_path, paths):
    put(tmp_path, *paths)
    loaded = data.load(str(tmp_path))
    assert len(paths) / 20 <= len(loaded.test) <= len(paths) / 5
    assert len(loaded.train) == len(paths) - len(loaded.test)


def split_of(paths, root=Path("/images")):
    """The paths for training and for testing; no file is read."""
    found = [folders.Found(Path(path), root / path, False) for path in paths]
    named, _ = folders._by_hashes(root, found)
    return ({str(image.path) for image in named[split]} for split in ("train", "test"))


def test_the_test_part_is_near_a_tenth_for_any_number_of_images():
    paths = [f"{n}/x.png" for n in range(3000)]
    for num in [*range(2, 300), 3000]:
        train, test = split_of(paths[:num])
        assert len(train) + len(test) == num
        assert max(1, num / 20) <= len(test) <= max(1, num / 5), num
    assert 250 < len(test) < 350


def test_added_images_move_none_where_the_hashes_leave_a_fair_part():
    paths = [f"{n}/x.png" for n in range(3000)]
    for few in (200, 500, 1000):
        train, test = split_of(paths[:few])
        more_train, more_test = split_of(paths)
        assert train <= more_train
        assert test <= more_test


def test_the_split_is_that_of_earlier_versions_for_images_in_one_folder():
    paths = [f"p{n}.png" for n in range(200)]
    _, test = split_of(paths)
    assert test == {path for path in paths if int(hashlib.sha256(path.encode()).hexdigest()[:16], 16) % 10 == 0}


def test_the_split_does_not_depend_on_how_a_system_writes_names(tmp_path):
    names = [f"Bär/é{n}.png" for n in range(40)]
    put(tmp_path / "composed", *names)
    put(tmp_path / "decomposed", *(unicodedata.normalize("NFD", name) for name in names))
    assert levels_of(data.load(str(tmp_path / "composed"))) == levels_of(data.load(str(tmp_path / "decomposed")))
    assert folders._key(Path("a") / "é.png") == folders._key(Path("a/e\u0301.png")) == "a/é.png".encode()


@pytest.mark.parametrize("name", [".hidden", ".cache/images", "__MACOSX", os.fsdecode(b"b\xe4r"), "a\nb", "train"])
def test_a_folder_that_is_given_counts_whatever_its_name(tmp_path, name):
    try:
        levels = put(tmp_path / name, *FLAT)
    except OSError as error:
        skip_unless_on_linux(error)
        return
    loaded = data.load(tmp_path / name)
    assert levels_of(loaded) == drawn(levels)
    assert loaded.name.isprintable()
    assert loaded.name.encode()
    assert "\n" not in data.describe(loaded).split("name", 1)[1].split("images", 1)[0].strip()


@pytest.mark.parametrize("closed", ["images", "images/cat"])
def test_a_folder_without_permission_is_reported(tmp_path, monkeypatch, closed):
    put(tmp_path / "images", "cat/a.png", "dog/b.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path) == tmp_path / closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with one_line(f"{closed} cannot be read: Permission denied"):
        data.load(str(tmp_path / "images"))


# Pixels

QUARTERS = np.kron(np.array([[20, 60, 60], [100, 140, 140]], np.uint8), np.ones((8, 8), np.uint8))  # 16 high, 24 wide
TURNS = {  # by orientation: what has to be done to the pixels of the file
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: a[::-1].T,  # a quarter to the right
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: a.T[::-1],  # a quarter to the left
}


def save_turned(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}
    kind = Image.registered_extensions()[path.suffix]
    Image.fromarray(QUARTERS).save(path, exif=exif, **options.get(kind, {}))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", TURNS)
def test_images_are_turned_upright(tmp_path, suffix, orientation):
    for name in "ab":
        save_turned(tmp_path / f"{name}{suffix}", orientation)
    (image,) = data.load(str(tmp_path)).train
    expected = TURNS[orientation](QUARTERS)
    assert image.shape == (*expected.shape, 1)
    np.testing.assert_allclose(image[..., 0].astype(int), expected.astype(int), atol=2 if suffix == ".jpg" else 0)


def test_an_upright_photograph_is_cropped_after_it_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        Image.fromarray(np.zeros((8, 12), np.uint8) + 90).save(tmp_path / f"{name}.jpg", exif=exif)
    assert data.load(str(tmp_path)).image_shape == (12, 8, 1)
    assert data.load(str(tmp_path), image_size=(6, 4)).image_shape == (6, 4, 1)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\1"]
)
def test_damaged_exif_data_count_as_none(tmp_path, exif):
    for name in "ab":
        Image.fromarray(QUARTERS).save(tmp_path / f"{name}.png", exif=exif)
    np.testing.assert_array_equal(data.load(str(tmp_path)).train[0, ..., 0], QUARTERS)


def palette(levels, transparent=None):
    """An image of mode P; its columns take the colours in turn."""
    image = Image.fromarray(np.tile(np.arange(8, dtype=np.uint8) % len(levels), (8, 1)), "P")
    image.putpalette([value for level in levels for value in (level if isinstance(level, tuple) else (level,) * 3)])
    if transparent is not None:
        image.info["transparency"] = transparent
    return image


def flat(mode, value):
    return Image.new(mode, (8, 8), value)


def keyed(mode, value):
    image = flat(mode, value)
    image.info["transparency"] = value
    return image


RED = (200, 0, 0)
PIXELS = {  # the image, the suffix, and the first row's first two pixels
    "1": (flat("1", 1), ".png", [[255], [255]]),
    "L": (flat("L", 90), ".png", [[90], [90]]),
    "LA": (flat("LA", (90, 255)), ".png", [[90], [90]]),
    "P, grey": (palette([30, 90]), ".png", [[30], [90]]),
    "P, grey, in GIF": (palette([30, 90]), ".gif", [[30], [90]]),
    "RGB, grey": (flat("RGB", (90, 90, 90)), ".png", [[90], [90]]),
    "RGBA, grey": (flat("RGBA", (90, 90, 90, 255)), ".webp", [[90], [90]]),
    "RGB": (flat("RGB", RED), ".png", [RED, RED]),
    "P": (palette([30, RED]), ".png", [[30, 30, 30], RED]),
    "CMYK": (flat("CMYK", (0, 255, 255, 55)), ".tif", [RED, RED]),
    "invisible": (flat("RGBA", (*RED, 0)), ".png", [[255], [255]]),
    "LA, invisible": (flat("LA", (90, 0)), ".png", [[255], [255]]),
    "LA, half": (flat("LA", (55, 51)), ".png", [[215], [215]]),  # 55 of 255 in a fifth: 0.2 * 55 + 0.8 * 255
    "half": (flat("RGBA", (200, 0, 0, 51)), ".png", [[244, 204, 204]] * 2),
    "P, invisible": (palette([90, 30], transparent=0), ".png", [[255], [30]]),
    "P, invisible, in GIF": (palette([90, 30], transparent=0), ".gif", [[255], [30]]),
    "L, key": (keyed("L", 90), ".png", [[255], [255]]),
    "1, key": (keyed("1", 0), ".png", [[255], [255]]),
    "RGB, key": (keyed("RGB", RED), ".png", [[255], [255]]),
}


@pytest.mark.parametrize("name", PIXELS)
def test_pixels_of_all_modes(tmp_path, name):
    image, suffix, expected = PIXELS[name]
    options = {key: image.info[key] for key in ("transparency",) if key in image.info}
    options |= {"lossless": True} if suffix == ".webp" else {}
    for number in range(2):
        image.save(tmp_path / f"{number}{suffix}", **options)
    loaded = data.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.train[0, 0, :2], expected)
    is_transparent = any(word in name for word in ("invisible", "half", "key"))
    assert ("2 with transparent pixels, composited on white" in loaded.origin) == is_transparent


def test_one_image_in_colour_gives_all_of_them_three_channels(tmp_path):
    put(tmp_path, "train/a.png", "train/b.png", "test/c.png")
    assert data.load(str(tmp_path)).image_shape == (8, 8, 1)
    flat("RGB", RED).save(tmp_path / "test" / "d.png")
    loaded = data.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.train[0, 0, 0], [20, 20, 20])
    np.testing.assert_array_equal(loaded.test[:, 0, 0], [[22, 22, 22], RED])


def test_the_further_pictures_of_a_camera_s_file_do_not_count(tmp_path):
    for name in "ab":
        picture(90).save(tmp_path / f"{name}.jpg", "MPO", save_all=True, append_images=[picture(30)])
    assert levels_of(data.load(str(tmp_path))) == {"train": [90], "test": [90]}


@pytest.mark.parametrize("top", [1, 2, 15])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_images_on_another_scale_are_refused(tmp_path, mode, top):
    for number in range(4):
        image = palette([0, top]) if mode == "P" else Image.fromarray(np.eye(8, dtype=np.uint8) * top)
        image.save(tmp_path / f"{number}.png")
    with one_line(f"highest level of the training images is {top}, and 255 is white: pass 0 and 255 for binary images"):
        data.load(str(tmp_path))


def test_binary_images_of_one_bit_are_black_and_white(tmp_path):
    for number in range(4):
        Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / f"{number}.png")
    np.testing.assert_array_equal(data.load(str(tmp_path)).train[0, ..., 0], np.eye(8, dtype=np.uint8) * 255)
