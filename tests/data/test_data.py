"""Sources: files, folders, originals, prepared data, and what is said when they cannot be used."""

import gzip
import io
import struct
import tarfile
import time
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from calibrax import data
from calibrax.data import DataError, download, transforms
from calibrax.data import tfds_cache as prepared
from calibrax.data.datasets import cifar10, mnist, svhn

RNG = np.random.default_rng(0)


def images(num, shape=(8, 8, 3)):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


def test_npz_with_and_without_validation(tmp_path):
    train, test, validation = images(10), images(4), images(3)
    plain = data.load(npz(tmp_path / "a.npz", train=train, test=test, labels=np.arange(10)))
    np.testing.assert_array_equal(plain.train, train)
    np.testing.assert_array_equal(plain.test, test)
    assert plain.validation is None
    assert plain.name == "a"
    assert plain.event_shape == (8, 8, 3)
    full = data.load(npz(tmp_path / "b.npz", train=train, test=test, validation=validation))
    np.testing.assert_array_equal(full.validation, validation)
    assert "validation" in data.describe(full)


def test_compressed_npz(tmp_path):
    train = images(10)
    np.savez_compressed(tmp_path / "c.npz", train=train, test=train)
    np.testing.assert_array_equal(data.load(str(tmp_path / "c.npz")).train, train)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"train": images(2)}, "no array 'test'"),
        ({"test": images(2)}, "no array 'train'"),
        ({"train": images(2).astype(np.float32), "test": images(2)}, "'train' is float32 .*expected uint8"),
        ({"train": images(2), "test": images(2).astype(np.int64)}, "'test' is int64"),
        (
            {"train": images(2)[..., 0], "test": images(2)},
            r"'train' is uint8 \(2, 8, 8\); expected uint8 \[N, H, W, C\]",
        ),
        ({"train": images(2), "test": images(0)}, "'test' is empty"),
        ({"train": images(2), "test": images(2, (8, 9, 3))}, "differ in shape between splits"),
        ({"train": images(2, (8, 8, 0)), "test": images(2, (8, 8, 0))}, r"expected \[N, H, W, C\]"),
        ({"train": np.array([{}, {}]), "test": images(2)}, "'train' is object"),
    ],
)
def test_bad_npz_arrays(tmp_path, arrays, match):
    with one_line(match):
        data.load(npz(tmp_path / "bad.npz", **arrays))


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("no zip at all")
    good = tmp_path / "good.npz"
    npz(good, train=images(50), test=images(5))
    torn = tmp_path / "torn.npz"
    torn.write_bytes(good.read_bytes()[:-2000])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("text", "torn", "empty"):
        with one_line("cannot be read"):
            data.load(str(tmp_path / f"{name}.npz"))
    with one_line("there is no file"):
        data.load(str(tmp_path / "absent.npz"))


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 64, 64, 3)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("train.npy", header.getvalue())
        archive.writestr("test.npy", header.getvalue())
    with one_line("promises .* bytes, more than the file holds"):
        data.load(str(tmp_path / "bomb.npz"))


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


def test_one_folder_is_split_by_name_so_that_more_images_move_none(tmp_path):
    pictures = {f"p{i}.png": image[..., 0] for i, image in enumerate(images(60))}
    write_folder(tmp_path / "few", dict(list(pictures.items())[:40]))
    write_folder(tmp_path / "all", pictures)
    few, every = data.load(str(tmp_path / "few")), data.load(str(tmp_path / "all"))
    assert few.event_shape == (8, 8, 1)  # grey stays grey
    assert 0 < len(few.test) < 12
    assert {image.tobytes() for image in few.test} <= {image.tobytes() for image in every.test}
    assert "split by the hash" in few.origin


def test_folder_mistakes(tmp_path):
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


def test_resize_is_pillow_s_antialiased_bilinear():
    pictures = images(3, (32, 32, 3))
    expected = [np.asarray(Image.fromarray(p).resize((28, 20), Image.Resampling.BILINEAR)) for p in pictures]
    np.testing.assert_array_equal(transforms.resize(pictures, (20, 28)), np.stack(expected))
    two = transforms.resize(images(2, (8, 8, 2)), (4, 4))
    assert two.shape == (2, 4, 4, 2)


def test_unknown_names_say_what_would_do(tmp_path):
    with one_line("did you mean street-digits.*npz file, or a folder"):
        data.load("street-digit", data_dir=tmp_path)
    for name in ("../x", "/nowhere/at/all", "", "a\nb"):
        with pytest.raises(DataError):
            data.load(name, data_dir=tmp_path)


def write_svhn(folder, num=(30, 12)):
    splits = {}
    for split, count in zip(("train", "test"), num, strict=True):
        splits[split] = images(count, (32, 32, 3))
        savemat(folder / f"{split}_32x32.mat", {"X": np.moveaxis(splits[split], 0, 3), "y": np.ones((count, 1))})
    return splits


def test_svhn_from_its_mat_files_is_prepared_once_and_read_without_them(tmp_path):
    splits = write_svhn(tmp_path)
    first = data.load("svhn", data_dir=tmp_path, download=False)
    for split, expected in splits.items():
        np.testing.assert_array_equal(getattr(first, split), expected)
        (tmp_path / f"{split}_32x32.mat").unlink()
    again = data.load("svhn_cropped", data_dir=tmp_path, download=False)
    np.testing.assert_array_equal(again.train, splits["train"])
    assert "svhn_images" in again.origin
    small = data.load("svhn", data_dir=tmp_path, download=False, image_size=28)
    assert small.event_shape == (28, 28, 3)


def test_reading_prepared_data_needs_no_tensorflow(tmp_path):
    import subprocess
    import sys

    write_svhn(tmp_path)
    code = (
        "import sys; from calibrax import data;"
        f"[data.load('svhn', data_dir={str(tmp_path)!r}, download=False) for _ in range(2)];"
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules.get('calibrax.data').__dict__"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_mnist_frey_face_and_cifar_from_their_original_files(tmp_path):
    grey = {"train": images(6, (28, 28, 1)), "test": images(3, (28, 28, 1))}
    for split, name in (("train", "train-images-idx3-ubyte.gz"), ("test", "t10k-images-idx3-ubyte.gz")):
        header = struct.pack(">4i", 2051, len(grey[split]), 28, 28)
        (tmp_path / name).write_bytes(gzip.compress(header + grey[split].tobytes()))
    np.testing.assert_array_equal(data.load("mnist", data_dir=tmp_path).test, grey["test"])

    frames = RNG.integers(0, 256, (560, 1965), dtype=np.uint8)
    savemat(tmp_path / "frey_rawface.mat", {"ff": frames})
    faces = data.load("frey_face", data_dir=tmp_path)
    assert [len(split) for split in faces.splits.values()] == [1565, 200, 200]
    assert faces.event_shape == (28, 20, 1)
    every = np.concatenate(list(faces.splits.values())).reshape(1965, 560)
    assert {row.tobytes() for row in every} == {row.tobytes() for row in frames.T}

    rows = RNG.integers(0, 256, (6, 10_000, 3073), dtype=np.uint8)
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz", compresslevel=1) as archive:
        for name, batch in zip(names, rows, strict=True):
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = batch.nbytes
            archive.addfile(info, io.BytesIO(batch.tobytes()))
    splits = cifar10.read(tmp_path)
    assert splits["train"].shape == (50_000, 32, 32, 3)
    np.testing.assert_array_equal(splits["test"][7, 3, 5], rows[5, 7, 1:].reshape(3, 32, 32)[:, 3, 5])


@pytest.mark.parametrize(
    ("original", "file"),
    [
        (svhn.ORIGINAL, "train_32x32.mat"),
        (mnist.ORIGINAL, "train-images-idx3-ubyte.gz"),
        (cifar10.ORIGINAL, "cifar-10-binary.tar.gz"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_damaged_original_files_are_named(tmp_path, original, file):
    for remote in original.remotes:
        (tmp_path / remote).write_bytes(b"not what it says" * 10)
    with one_line(f"{file} (cannot be read|is not)"):
        data.load(original.name, data_dir=tmp_path)


def test_any_image_set_that_tfds_prepared_is_read_by_name(tmp_path):
    splits = {"train": images(5), "test": images(2)}
    prepared.prepare("flowers", splits, tmp_path, license="none")
    loaded = data.load("flowers_images", data_dir=tmp_path)
    np.testing.assert_array_equal(loaded.train, splits["train"])


def flip(content, at, num=16):
    return content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + num]) + content[at + num :]


def packed(content):
    """Where the middle is of what a shard holds, which is followed by zeros up to 64 KiB."""
    return len(content[:65_536].rstrip(b"\0")) // 2


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda whole: whole[: len(whole) // 2], "empty record"),
        (lambda whole: whole[: packed(whole)], "64KB"),
        (lambda whole: whole[:-1], ""),
        (lambda whole: b"", "64KB"),
        (lambda whole: bytes(len(whole)), "hash mismatch"),
        (lambda whole: flip(whole, packed(whole)), "data hash mismatch"),
        (lambda whole: flip(whole, packed(whole), 1), "data hash mismatch"),
        (lambda whole: flip(whole, len(whole) // 2), "hash mismatch"),
        (lambda whole: None, "No such file"),
    ],
    ids=["half", "inside", "last byte", "empty", "zeros", "flipped", "one flipped", "header", "missing"],
)
def test_a_damaged_shard_is_named_by_its_folder_and_split(tmp_path, damage, match):
    splits = {"train": images(60), "test": images(5)}
    prepared.prepare("svhn", splits, tmp_path, license="none")
    (shard,) = tmp_path.rglob("*train.array_record*")
    content = damage(shard.read_bytes())
    shard.unlink() if content is None else shard.write_bytes(content)
    with one_line(f"svhn_images/1.0.0: split 'train' cannot be read: .*{match}"):
        data.load("svhn", data_dir=tmp_path, download=False)


def test_no_flipped_byte_of_a_shard_changes_an_image_unnoticed(tmp_path):
    splits = {"train": images(60), "test": images(5)}
    prepared.prepare("flowers", splits, tmp_path, license="none")
    (shard,) = tmp_path.rglob("*train.array_record*")
    whole = shard.read_bytes()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    noticed = 0
    for at in [*RNG.choice(used, 60), len(whole) // 4, len(whole) - 100]:
        shard.write_bytes(flip(whole, at, 1))
        try:
            loaded = data.load("flowers_images", data_dir=tmp_path)
        except DataError:
            noticed += 1
        else:  # such a byte is padding
            np.testing.assert_array_equal(loaded.train, splits["train"])
    assert noticed >= 50


def test_a_damaged_description_of_prepared_data(tmp_path):
    prepared.prepare("flowers", {"train": images(5), "test": images(2)}, tmp_path, license="none")
    for name in ("dataset_info.json", "features.json"):
        (path,) = tmp_path.rglob(name)
        whole = path.read_text(encoding="utf-8")
        for content in (whole[: len(whole) // 2], "", "[]"):
            path.write_text(content, encoding="utf-8")
            with one_line("flowers_images/1.0.0 cannot be read"):
                data.load("flowers_images", data_dir=tmp_path)
        path.write_text(whole, encoding="utf-8")


def test_prepared_images_that_differ_in_size(tmp_path, monkeypatch):
    prepared.prepare("flowers", {"train": images(5), "test": images(2)}, tmp_path, license="none")
    monkeypatch.setattr(prepared, "READ_AT_ONCE", 2)
    assert len(data.load("flowers_images", data_dir=tmp_path).train) == 5
    heights = iter([7, 7, 8, 8, 8])
    monkeypatch.setattr(prepared, "image_of", lambda example: example["image"][: next(heights)])
    with one_line("flowers_images/1.0.0: images of 'train' differ in size"):
        data.load("flowers_images", data_dir=tmp_path)


def test_encoded_images_of_tfds_s_own_preparation_are_read_too(tmp_path):
    import tensorflow_datasets as tfds

    pictures = images(4, (28, 28, 1))

    class Encoded(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """PNG-encoded images, as TFDS's own builders write them."""

        name = "mnist"
        VERSION = tfds.core.Version("3.0.1")
        pkg_dir_path = None

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(28, 28, 1))})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in ("train", "test")}

        def _generate_examples(self):
            for index, picture in enumerate(pictures):
                stream = io.BytesIO()
                Image.fromarray(picture[..., 0]).save(stream, format="PNG")
                stream.seek(0)
                yield index, {"image": stream}

    Encoded(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    np.testing.assert_array_equal(data.load("mnist", data_dir=tmp_path, download=False).train, pictures)


def test_street_digits_has_a_name_of_its_own():
    drawn = data.load("street-digits", num_train=20, num_test=5, image_size=28)
    assert drawn.name == "street-digits"
    assert drawn.event_shape == (28, 28, 3)
    assert "not SVHN" in drawn.origin


def test_without_network_a_name_fails_soon_and_lists_the_ways(tmp_path, monkeypatch):
    silent = svhn.ORIGINAL._replace(
        remotes={"train_32x32.mat": download.Remote("http://127.0.0.1:9/train_32x32.mat")}
    )
    monkeypatch.setattr(svhn, "load", silent.load)
    start = time.monotonic()
    with one_line("neither in .* nor online.*Ways to get it: put train_32x32.mat.*calibrax data svhn.*images.npz"):
        data.load("svhn", data_dir=tmp_path, timeout=1.0)
    assert time.monotonic() - start < 3
