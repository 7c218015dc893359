"""The user's own files: `.npz` of images and of videos, folders of images, and the errors for other files."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from calibrax import data
from calibrax.data import DataError, FramesError

RNG = np.random.default_rng(0)


def images(num, shape=(8, 8, 3)):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def videos(num, shape=(6, 8, 10, 3)):
    return images(num, shape)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


def test_npz_of_images_with_and_without_validation(tmp_path):
    train, test, validation = images(10), images(4), images(3)
    plain = data.load(npz(tmp_path / "a.npz", train=train, test=test, labels=np.arange(10)))
    np.testing.assert_array_equal(plain.train, train)
    np.testing.assert_array_equal(plain.test, test)
    assert plain.validation is None
    assert plain.name == "a"
    assert plain.event_shape == plain.image_shape == (8, 8, 3)
    assert plain.noun == "images"
    full = data.load(npz(tmp_path / "b.npz", train=train, test=test, validation=validation))
    np.testing.assert_array_equal(full.validation, validation)


def test_npz_of_videos_with_and_without_validation(tmp_path):
    train, test, validation = videos(5), videos(2, (9, 8, 10, 3)), videos(1)
    plain = data.load(npz(tmp_path / "a.npz", train=train, test=test, actions=np.zeros(5)))
    np.testing.assert_array_equal(plain.train, train)
    np.testing.assert_array_equal(plain.test, test)
    assert plain.validation is None
    assert plain.name == "a"
    assert plain.event_shape == (6, 8, 10, 3)
    assert plain.image_shape == (8, 10, 3)
    assert plain.noun == "videos"
    full = data.load(npz(tmp_path / "b.npz", train=train, test=test, validation=validation), num_frames=4)
    assert {split: np.shape(array)[:2] for split, array in full.splits.items()} == {
        "train": (5, 4),
        "validation": (1, 6),
        "test": (2, 9),
    }
    np.testing.assert_array_equal(full.test, test)
    more = data.load(str(tmp_path / "b.npz"), num_frames=2, num_test_frames=6)
    np.testing.assert_array_equal(more.train, train[:, :2])
    np.testing.assert_array_equal(more.validation, validation)


def test_compressed_npz(tmp_path):
    train = images(10)
    np.savez_compressed(tmp_path / "c.npz", train=train, test=train)
    np.testing.assert_array_equal(data.load(str(tmp_path / "c.npz")).train, train)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"train": images(2)}, "no array 'test'; expected uint8 arrays 'train' and 'test'"),
        ({"test": images(2)}, "no array 'train'; expected uint8 arrays 'train' and 'test'"),
        ({"train": images(2).astype(np.float32), "test": images(2)}, "'train' is float32 .*expected uint8"),
        ({"train": images(2), "test": images(2).astype(np.int64)}, "'test' is int64"),
        (
            {"train": images(2)[..., 0], "test": images(2)},
            r"'train' is uint8 \(2, 8, 8\); expected uint8 \[N, H, W, C\] or \[N, T, H, W, C\], all 1 or more",
        ),
        (
            {"train": videos(2), "test": images(2)},
            r"frames differ in shape between splits: 'train' \(2, 6, 8, 10, 3\), 'test' \(2, 8, 8, 3\)",
        ),
        ({"train": images(2), "test": videos(2)}, "images differ in shape between splits"),
        ({"train": images(2), "test": images(0)}, r"'test' is uint8 \(0, 8, 8, 3\); expected .*, all 1 or more"),
        ({"train": videos(2), "test": videos(0)}, r"'test' is uint8 \(0, 6, 8, 10, 3\)"),
        ({"train": images(2), "test": images(2, (8, 9, 3))}, "images differ in shape between splits"),
        ({"train": videos(2), "test": videos(2, (6, 8, 9, 3))}, "frames differ in shape between splits"),
        ({"train": images(2, (8, 8, 0)), "test": images(2, (8, 8, 0))}, r"'train' is uint8 \(2, 8, 8, 0\)"),
        ({"train": videos(2)[:, :0], "test": videos(2)}, r"'train' is uint8 \(2, 0, 8, 10, 3\)"),
        ({"train": np.array([{}, {}]), "test": images(2)}, "'train' is object"),
        ({"train": images(2)[..., 0] > 99, "test": images(2)}, r"'train' is uint8 \(2, 8, 8\); expected uint8"),
    ],
)
def test_npz_files_with_other_arrays_are_refused(tmp_path, arrays, match):
    with one_line(match):
        data.load(npz(tmp_path / "bad.npz", **arrays))


def test_booleans_are_read_as_black_and_white(tmp_path):
    mask = images(10) > 99
    for shape in (mask.shape, (5, 2, 8, 8, 3)):
        loaded = data.load(
            npz(tmp_path / "masks.npz", train=mask.reshape(shape), test=mask[:4].reshape(-1, *shape[1:]))
        )
        assert loaded.train[0].dtype == np.uint8
        np.testing.assert_array_equal(loaded.train, 255 * mask.reshape(shape))


@pytest.mark.parametrize("top", [1, 2, 10, 15])
@pytest.mark.parametrize("make", [images, videos])
def test_arrays_on_another_scale_are_refused(tmp_path, make, top):
    path = npz(tmp_path / "binary.npz", train=make(6) % (top + 1), test=make(2))
    kind = "videos" if make is videos else "images"
    with one_line(
        rf"binary.npz: the highest level of the training {kind} is {top}, .*: pass 0 and 255 for binary {kind}"
    ):
        data.load(path)


@pytest.mark.parametrize("top", [0, 16, 255])
def test_dark_arrays_are_read(tmp_path, top):
    train = (images(6) > 99) * np.uint8(top)
    loaded = data.load(npz(tmp_path / "dark.npz", train=train, test=images(2) % 2))
    np.testing.assert_array_equal(loaded.train, train)


def test_damaged_and_missing_npz_files_are_reported(tmp_path):
    (tmp_path / "text.npz").write_text("no zip at all")
    good = tmp_path / "good.npz"
    npz(good, train=images(50), test=images(5))
    (tmp_path / "torn.npz").write_bytes(good.read_bytes()[:-2000])
    (tmp_path / "empty.npz").write_bytes(b"")
    flipped = bytearray(good.read_bytes())
    flipped[5000] ^= 1  # the zip's own checksum finds it
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("text", "torn", "empty", "flipped"):
        with one_line("cannot be read"):
            data.load(str(tmp_path / f"{name}.npz"))
    with one_line("there is no file"):
        data.load(str(tmp_path / "absent.npz"))


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("train.npy", header.getvalue())
        archive.writestr("test.npy", header.getvalue())
    with one_line("promises .* bytes, more than the file holds"):
        data.load(str(tmp_path / "bomb.npz"))


@pytest.mark.parametrize("num", [0, 7])
def test_more_frames_than_a_file_has_are_refused(tmp_path, num):
    path = npz(tmp_path / "a.npz", train=videos(2), test=videos(2))
    with one_line(f"number of frames is {num}; expected 1 to 6, those of 'train'"):
        data.load(path, num_frames=num)
    with pytest.raises(FramesError) as caught:
        data.load(path, num_test_frames=num)
    assert caught.value.split == "test"


def write_folder(folder, pictures):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in pictures.items():
        Image.fromarray(array).save(folder / name)


def test_folder_with_train_and_test(tmp_path):
    train = {f"{i}.png": image for i, image in enumerate(images(5))}
    write_folder(tmp_path / "train", train)
    write_folder(tmp_path / "test", {f"{i}.png": image for i, image in enumerate(images(2))})
    loaded = data.load(str(tmp_path))
    np.testing.assert_array_equal(loaded.train, np.stack(list(train.values())))
    assert len(loaded.test) == 2


def test_adding_images_to_a_folder_moves_none_between_splits(tmp_path):
    pictures = {f"p{i}.png": image[..., 0] for i, image in enumerate(images(60))}
    write_folder(tmp_path / "few", dict(list(pictures.items())[:40]))
    write_folder(tmp_path / "all", pictures)
    few, every = data.load(str(tmp_path / "few")), data.load(str(tmp_path / "all"))
    assert few.event_shape == (8, 8, 1)  # grey stays grey
    assert 0 < len(few.test) < 12
    assert {image.tobytes() for image in few.test} <= {image.tobytes() for image in every.test}
    assert "split by the hash" in few.origin


def test_folders_without_usable_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with one_line("holds no images"):
        data.load(str(tmp_path / "empty"))
    write_folder(tmp_path / "single", {"a.png": images(1)[0]})
    with one_line("expected at least two"):
        data.load(str(tmp_path / "single"))
    write_folder(tmp_path / "half" / "train", {"a.png": images(1)[0]})
    with one_line("no images in 'test'"):
        data.load(str(tmp_path / "half"))
    write_folder(tmp_path / "mixed", {"a.png": images(1)[0], "b.png": images(1, (9, 8, 3))[0], "c.png": images(1)[0]})
    with one_line("differ in size"):
        data.load(str(tmp_path / "mixed"))
    assert data.load(str(tmp_path / "mixed"), image_size=6).event_shape == (6, 6, 3)
    write_folder(tmp_path / "torn", {"a.png": images(1)[0]})
    (tmp_path / "torn" / "b.png").write_bytes((tmp_path / "torn" / "a.png").read_bytes()[:60])
    with one_line("b.png cannot be read as an image"):
        data.load(str(tmp_path / "torn"))
