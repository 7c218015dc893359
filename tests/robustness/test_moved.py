"""Runs whose data, or whose own folder, are in another place than when they were begun."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import assert_one_line, write_images

from calibrax import cli
from calibrax.data import Data
from calibrax.data.tfds_cache import prepare
from calibrax.runs import ConfigError, RunError, TrainConfig, load_data
from calibrax.runs import folder as run_folder
from calibrax.runs.run import Run, load_data_again


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


@pytest.fixture
def inside(tmp_path, monkeypatch):
    """The working directory of the test, which is an empty folder, with the images `tiny.npz`."""
    monkeypatch.chdir(tmp_path)
    write_images("tiny.npz")
    return tmp_path


def begin(source, folder="run", data=None, **settings):
    """The folder of a run that was begun, without a checkpoint."""
    config = TrainConfig.for_model(data=str(source), run_dir=str(folder), batch_size=2, **settings)
    with run_folder.claimed(config, load_data(config) if data is None else data) as claimed:
        return claimed


def reopened(folder="run", **moved):
    return load_data_again(run_folder.read_config(folder).replace(**moved))


def edit(folder, change):
    record = json.loads((Path(folder) / "config.json").read_text())
    change(record)
    (Path(folder) / "config.json").write_text(json.dumps(record))


def assert_equal_data(ours, theirs):
    assert ours.name == theirs.name
    for split in ("train", "test"):
        for index in range(4):
            np.testing.assert_array_equal(getattr(ours, split)[index], getattr(theirs, split)[index])


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("tiny.npz", "{here}/tiny.npz"),
        ("folder/../tiny.npz", "{here}/folder/../tiny.npz"),
        ("folder", "{here}/folder"),
        (".", "{here}"),
        ("link", "{here}/link"),
        ("{here}/tiny.npz", "{here}/tiny.npz"),
        ("~/tiny.npz", "{here}/tiny.npz"),
        ("mnist", "mnist"),  # a known name, although there is such a folder
        ("street-digits", "street-digits"),
        ("prepared_by_tfds", "prepared_by_tfds"),
        ("moving-digits", "moving-digits"),
        ("moving-digits:tiny.npz", "moving-digits:{here}/tiny.npz"),
        ("moving-digits:mnist", "moving-digits:mnist"),
        ("moving-digits:folder", "moving-digits:{here}/folder"),
    ],
)
def test_the_config_of_a_run_holds_absolute_paths_and_names(inside, monkeypatch, given, saved):
    monkeypatch.setenv("HOME", str(inside))
    for name in ("folder", "mnist"):
        Path(name).mkdir()
    Path("link").symlink_to("folder")
    images = np.zeros((4, 8, 8, 3), np.uint8)
    folder = begin(given.format(here=inside), data=Data("d", images, images), data_dir="prepared")
    config = run_folder.read_config(folder)
    assert config.data.name == saved.format(here=inside)
    assert config.data.data_dir == str(inside / "prepared")
    recorded = json.loads((folder / "config.json").read_text())["data"]
    assert ("sha256" in recorded) == (given not in ("mnist", "street-digits", "moving-digits", "moving-digits:mnist"))


def write_folder(folder):
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for index in range(4):
            level = 40 * index + (20 if split == "test" else 0)
            Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(folder / split / f"{index}.png")


@pytest.mark.parametrize("source", ["tiny.npz", "folder", "moving-digits:tiny.npz", "moving-digits:folder"])
def test_files_that_moved_are_found_by_data_under_any_name(inside, source, monkeypatch):
    write_folder(Path("folder"))
    settings = {"model": "svg-small"} if source.startswith("moving") else {}
    if source.endswith("npz"):  # grey ones, which can be moved as digits
        rng = np.random.default_rng(0)
        train, test = rng.integers(0, 256, (2, 4, 8, 8, 1), np.uint8)
        np.savez("tiny.npz", train=train, test=test)
    elif settings:
        for path in Path("folder").rglob("*.png"):
            Image.open(path).convert("L").save(path)
    folder = begin(source, **settings)
    begun = reopened()
    elsewhere, old = inside / "elsewhere", source.removeprefix("moving-digits:")
    new = elsewhere / ("renamed.npz" if old == "tiny.npz" else "renamed")
    elsewhere.mkdir()
    os.rename(old, new)
    os.rename(folder, elsewhere / "run")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(RunError, match=f"the run in run was trained on .*{inside / old}, which is not there.*--data"):
        reopened()
    moved = source.replace(old, str(new.name))
    assert_equal_data(reopened(data=moved), begun)
    assert_equal_data(reopened(data=source.replace(old, str(new))), begun)


def test_a_prepared_data_set_that_moved_is_found_by_data_dir(inside):
    pytest.importorskip("tensorflow_datasets")
    rng = np.random.default_rng(0)
    splits = {split: rng.integers(0, 256, (4, 8, 8, 3), np.uint8) for split in ("train", "test")}
    prepare("drawn", splits, Path("prepared").absolute(), license="")
    begin("drawn_images", data_dir="prepared")
    begun = reopened()
    os.rename("prepared", "moved")
    with pytest.raises(RunError, match=f"trained on drawn_images in {inside}/prepared, which is not.*--data-dir"):
        reopened()
    assert_equal_data(reopened(data_dir="moved"), begun)


def test_a_known_data_set_that_moved_names_its_folder(inside, monkeypatch):
    np.savez("frey.npz", train=np.zeros((4, 8, 8, 1), np.uint8), test=np.zeros((4, 8, 8, 1), np.uint8))
    begin("frey_face", data=load_data(TrainConfig.for_model(data="frey.npz")), data_dir="originals")

    def load(source, **options):
        from calibrax.data import DataError

        raise DataError(f"{source} is not here")

    monkeypatch.setattr("calibrax.data.load", load)
    message = f"trained on frey_face in {inside}/originals; --data-dir gives its new place: frey_face is not here"
    with pytest.raises(RunError, match=message):
        reopened()


def test_only_the_data_that_the_run_was_begun_on_are_taken(inside):
    begin("tiny.npz")
    with np.load("tiny.npz") as arrays:
        train, test = arrays["train"], arrays["test"]
    other = test.copy()
    other[3, 2, 1, 0] ^= 1
    Path("other").mkdir()
    np.savez("other/tiny.npz", train=train, test=other)
    np.savez("shorter.npz", train=train[1:], test=test)
    np.savez("larger.npz", train=train.repeat(2, 1), test=test.repeat(2, 1))
    for source, words in (
        ("other/tiny.npz", "begun on other images than other/tiny.npz holds"),
        ("shorter.npz", "begun on data with train 50; shorter has 49"),
        ("larger.npz", r"begun on data with event_shape \[8, 8, 3\]; larger has \[16, 8, 3\]"),
    ):
        with pytest.raises(RunError, match=words):
            reopened(data=source)
    with pytest.raises(ValueError, match=r"there is no file none\.npz$"):
        reopened(data="none.npz")
    os.replace("other/tiny.npz", "tiny.npz")  # where the run looks for its data
    with pytest.raises(RunError, match="begun on other images"):
        reopened()
    with pytest.raises(ConfigError, match="--data is ' '; expected a name or a path"):
        reopened(data=" ")


def test_a_run_of_an_older_version_opens_in_its_working_directory_or_with_data(inside, monkeypatch):
    def as_before(record):
        record["config"]["data"] = "tiny.npz"
        del record["data"]["sha256"]

    edit(begin("tiny.npz"), as_before)
    begun = reopened()
    monkeypatch.chdir(Path("run"))
    with pytest.raises(RunError, match=r"trained on tiny\.npz, which is not there now; --data gives"):
        reopened(inside / "run")
    assert_equal_data(reopened(inside / "run", data="../tiny.npz"), begun)
    os.rename("../tiny.npz", "../renamed.npz")
    with pytest.raises(RunError, match="begun on data with name tiny; renamed has renamed"):  # no checksum was recorded
        reopened(inside / "run", data="../renamed.npz")


def test_a_config_without_a_description_of_its_data_opens(inside):
    edit(begin("tiny.npz"), lambda record: record.pop("data"))
    assert reopened().name == "tiny"
    edit("run", lambda record: record.update(data=3))
    with pytest.raises(RunError, match="it does not say what data the run was begun on"):
        reopened()


def test_data_of_a_known_name_are_compared_by_name(inside):
    images = np.zeros((4, 8, 8, 3), np.uint8)
    folder = begin("street-digits", data=Data("street-digits", images, images))
    changed = Data("street-digits", images + 1, images)  # drawn by another version of a library
    assert run_folder.check_data(folder / "config.json", changed).train is changed.train
    with pytest.raises(RunError, match="begun on data with name street-digits; svhn has svhn"):
        run_folder.check_data(folder / "config.json", Data("svhn", images, images))


def test_every_command_takes_data_that_moved(finished, run_copy, tmp_path, capsys, monkeypatch):
    gone, new = tmp_path / "gone" / "tiny.npz", tmp_path / "renamed.npz"
    shutil.copy(finished / "tiny.npz", new)
    edit(run_copy, lambda record: record["config"].update(data=str(gone)))
    monkeypatch.chdir(run_copy)
    quick = ["--importance-samples", "0", "--calibration-draws", "0"]
    resume = ["train", "--resume", "--run-dir", ".", "--epochs", "4"]
    for command in (["evaluate", ".", *quick], ["sample", "."], resume):
        assert_one_line(
            capsys, cli.main(command), f"the run in . was trained on {gone}, which is not there now; --data"
        )
    before = json.loads(Path("results.json").read_text())
    moved = ["--data", "../renamed.npz"]
    assert cli.main(["evaluate", ".", *quick, *moved]) == 0
    after = json.loads(Path("results.json").read_text())
    assert {name: after[name] for name in before} == before  # the name of the data too
    assert cli.main(["sample", ".", "--num", "2", *moved]) == 0
    assert cli.main(["compare", ".", *moved]) == 0
    assert Run.open(".", data=new).data.name == "tiny"
    assert cli.main([*resume, *moved]) == 0
    assert json.loads(Path("results.json").read_text())["step"] == 12
    write_images(tmp_path / "other.npz")
    with np.load(tmp_path / "other.npz") as arrays:
        np.savez(tmp_path / "other.npz", train=arrays["train"], test=255 - arrays["test"])
    other = ["--data", "../other.npz"]
    capsys.readouterr()
    for command in (["evaluate", "."], ["sample", "."], ["compare", "."], resume):
        assert_one_line(capsys, cli.main([*command, *other]), "begun on other images than ../other.npz holds")
