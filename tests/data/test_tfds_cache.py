"""Prepared data: written and read back, TFDS's own, and damaged."""

import io

import numpy as np
import pytest
from PIL import Image

from calibrax import data
from calibrax.data import DataError, tfds_cache

RNG = np.random.default_rng(0)


def images(num, shape=(8, 8, 3)):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


def test_other_prepared_image_sets_are_read_by_name(tmp_path):
    splits = {"train": images(5), "test": images(2)}
    tfds_cache.prepare("flowers", splits, tmp_path, license="none")
    loaded = data.load("flowers_images", data_dir=tmp_path)
    np.testing.assert_array_equal(loaded.train, splits["train"])


def flip(content, at, num=16):
    return content[:at] + bytes(byte ^ 0xFF for byte in content[at : at + num]) + content[at + num :]


def packed(content):
    """The middle of the records in a shard, which are followed by zeros up to 64 KiB."""
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
def test_the_error_for_a_damaged_shard_names_its_folder_and_split(tmp_path, damage, match):
    splits = {"train": images(60), "test": images(5)}
    tfds_cache.prepare("svhn", splits, tmp_path, license="none")
    (shard,) = tmp_path.rglob("*train.array_record*")
    content = damage(shard.read_bytes())
    shard.unlink() if content is None else shard.write_bytes(content)
    with one_line(f"svhn_images/1.0.0: split 'train' cannot be read: .*{match}"):
        data.load("svhn", data_dir=tmp_path, download=False)


def test_a_flipped_byte_in_a_shard_never_changes_an_image_unnoticed(tmp_path):
    splits = {"train": images(60), "test": images(5)}
    tfds_cache.prepare("flowers", splits, tmp_path, license="none")
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


def test_damaged_metadata_is_reported(tmp_path):
    tfds_cache.prepare("flowers", {"train": images(5), "test": images(2)}, tmp_path, license="none")
    for name in ("dataset_info.json", "features.json"):
        (path,) = tmp_path.rglob(name)
        whole = path.read_text(encoding="utf-8")
        for content in (whole[: len(whole) // 2], "", "[]"):
            path.write_text(content, encoding="utf-8")
            with one_line("flowers_images/1.0.0 cannot be read"):
                data.load("flowers_images", data_dir=tmp_path)
        path.write_text(whole, encoding="utf-8")


def test_prepared_images_of_different_sizes_are_refused(tmp_path, monkeypatch):
    tfds_cache.prepare("flowers", {"train": images(5), "test": images(2)}, tmp_path, license="none")
    monkeypatch.setattr(tfds_cache, "READ_AT_ONCE", 2)
    assert len(data.load("flowers_images", data_dir=tmp_path).train) == 5
    heights = iter([7, 7, 8, 8, 8])
    monkeypatch.setattr(tfds_cache, "image_of", lambda example: example["image"][: next(heights)])
    with one_line("flowers_images/1.0.0: split 'train' cannot be read: .*same shape"):
        data.load("flowers_images", data_dir=tmp_path)


def test_encoded_images_of_tfds_s_own_preparation_are_read(tmp_path):
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
