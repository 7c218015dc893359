"""Sources by name: the table, aliases, descriptions, and the errors for names that are not known."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
from drawn_arrays import images, npz, one_line

from calibrax import data
from calibrax.data import DataError, load, sources, tfds_cache
from calibrax.data.datasets.moving_digits import MovingDigits, moving_digits


@pytest.mark.parametrize("source", sources.SOURCES, ids=lambda source: source.name)
def test_every_entry_of_the_table_names_a_loader(source):
    module, function = source.loader.split(".")
    assert callable(getattr(importlib.import_module(f"calibrax.data.datasets.{module}"), function))
    for name in (source.name, *source.aliases):
        assert sources.BY_NAME[name] is source
        assert data.is_video_source(name) == source.is_video
    assert source.name in data.known_sources()
    assert source.name in data.sources_in_words()


def test_names_and_aliases_are_unique():
    assert len(sources.BY_NAME) == sum(1 + len(source.aliases) for source in sources.SOURCES)


def test_a_source_imports_only_its_own_module():
    code = (
        "import sys; from calibrax import data; data.load('street-digits', num_train=1, num_test=1);"
        "print([name for name in ('celeba', 'bair', 'svhn') if f'calibrax.data.datasets.{name}' in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_the_error_for_an_unknown_name_lists_the_sources(tmp_path):
    with one_line("no data called 'street-digit': did you mean street-digits.*npz file, or a folder"):
        data.load("street-digit", data_dir=tmp_path)
    with one_line("did you mean moving-digits.*videos moving-digits, moving-digits:IMAGES, moving-mnist, bair, or an"):
        data.load("moving-digit", data_dir=tmp_path)
    for name in ("../x", "/nowhere/at/all", "", "a\nb"):
        with pytest.raises(DataError):
            data.load(name, data_dir=tmp_path)


def test_the_data_folder_is_that_of_tfds(tmp_path, monkeypatch):
    chosen, other = {"train": images(5), "test": images(2)}, {"train": images(3), "test": images(2)}
    tfds_cache.prepare("flowers", chosen, tmp_path / "chosen", license="none")
    tfds_cache.prepare("flowers", other, tmp_path / "other", license="none")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "chosen").rename(tmp_path / "tensorflow_datasets")
    for value in (None, "", "~/tensorflow_datasets"):
        monkeypatch.delenv("TFDS_DATA_DIR", raising=False) if value is None else monkeypatch.setenv(
            "TFDS_DATA_DIR", value
        )
        assert len(data.load("flowers_images").train) == 5
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "other"))
    assert len(data.load("flowers_images").train) == 3
    assert len(data.load("flowers_images", data_dir="~/tensorflow_datasets").train) == 5
    with one_line(f"mnist is not in {tmp_path}/other. Ways"):
        data.load("mnist", download=False)


def test_prepared_images_on_another_scale_are_refused(tmp_path):
    tfds_cache.prepare("binary", {"train": images(5) % 2, "test": images(2)}, tmp_path, license="none")
    with one_line("binary_images/1.0.0: the highest level of the training images is 1"):
        data.load("binary_images", data_dir=tmp_path)


def test_street_digits_has_a_name_of_its_own():
    drawn = data.load("street-digits", num_train=20, num_test=5, image_size=28)
    assert drawn.name == "street-digits"
    assert drawn.event_shape == (28, 28, 3)
    assert "not SVHN" in drawn.origin


def test_moving_digits_by_name():
    loaded = load("moving-digits", num_frames=5, num_test_frames=9, seed=3, num_train=7, num_test=4)
    assert loaded.is_video
    assert loaded.event_shape == (5, 64, 64, 1)
    assert {split: len(source) for split, source in loaded.splits.items()} == {"train": 7, "test": 4}
    assert loaded.test[0].shape == (9, 64, 64, 1)
    assert loaded.name == "moving-digits"
    assert "not MNIST" in loaded.origin
    np.testing.assert_array_equal(loaded.train[2], MovingDigits(None, 7, 6, 5)[2])
    np.testing.assert_array_equal(loaded.test[3], MovingDigits(None, 4, 7, 9)[3])
    still = load("moving_digits", deterministic=True, num_train=2)
    assert still.event_shape == (20, 64, 64, 1)
    np.testing.assert_array_equal(still.train[1], moving_digits(None, 2, deterministic=True)[1])


def test_digits_of_an_image_source_move_and_name_the_videos(tmp_path):
    train, test = (np.full((2, 28, 28, 1), level, np.uint8) for level in (50, 80))
    loaded = load(f"moving-digits:{npz(tmp_path / 'squares.npz', train=train, test=test)}", num_frames=3)
    assert loaded.name == "moving-squares"
    assert "squares.npz" in loaded.origin
    assert set(np.unique(loaded.train[0])) <= {0, 50, 100}
    assert set(np.unique(loaded.test[0])) <= {0, 80, 160}
    with one_line("moving-digits: digits is uint8 .*3.; expected"):
        load("moving-digits", digits=npz(tmp_path / "rgb.npz", train=images(2), test=images(2)))


def test_the_error_of_moving_mnist_says_how_to_get_mnist(tmp_path):
    with one_line("mnist is not in .*Ways to get it"):
        load("moving-mnist", data_dir=tmp_path, download=False)


def test_moving_mnist_of_real_digits(real_data):
    loaded = load("moving-mnist", digits=str(real_data / "mnist.npz"), num_frames=2)
    assert loaded.name == "moving-mnist"
    assert loaded.train[0].max() > 200


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_frames": 0}, "moving-digits: num_frames is 0; expected 1 or more"),
        ({"seed": -1}, "moving-digits: seed is -1"),
        ({"num_train": 0}, "moving-digits: num_train is 0"),
        ({"image_size": 0}, "image size is 0x0; expected one whole number"),
    ],
)
def test_moving_digits_refuse_arguments_out_of_range(arguments, match):
    with one_line(match):
        load("moving-digits", **arguments)


def test_digits_of_videos_are_refused():
    for digits in ("moving-digits", "bair"):
        with one_line(f"moving-digits: digits is '{digits}', which are videos; expected images"):
            load(f"moving-digits:{digits}")


def test_is_video_source(tmp_path):
    film, picture = images(2, (6, 8, 10, 3)), images(2)
    for source in ("moving-digits:mnist", npz(tmp_path / "v.npz", train=film, test=film)):
        assert data.is_video_source(source) is True
    for source in (str(tmp_path), npz(tmp_path / "i.npz", train=picture, test=picture)):
        assert data.is_video_source(source) is False
    (tmp_path / "torn.npz").write_bytes(b"PK")
    for source in ("absent.npz", str(tmp_path / "torn.npz"), "svnh", "svhn:mnist", npz(tmp_path / "no.npz", test=film)):
        assert data.is_video_source(source) is None


def test_a_description_names_shapes_and_levels():
    text = data.describe(load("moving-digits", num_frames=3, num_train=300, num_test=2))
    assert "300 videos, 3x64x64x1, uint8, the first 256: levels 0..255" in text
    assert "2 videos, 20x64x64x1, uint8, levels 0..255" in text


def test_a_description_of_images(tmp_path):
    train = images(10)
    text = data.describe(data.load(npz(tmp_path / "a.npz", train=train, test=train[:4], validation=train[:2])))
    assert "\nimages      8x8x3, uint8\n" in text
    levels = f"levels {train.min()}..{train.max()}, mean {train.mean():.1f}, std {train.std():.1f}"
    assert f"\ntrain       10 images, {levels}\nvalidation  2 images, " in text
