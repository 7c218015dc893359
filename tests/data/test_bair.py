"""BAIR's robot: read from a preparation of TFDS's, prepared, and the errors if it is missing or damaged."""

import functools
import io
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from tfrecords import to_tfrecord

from calibrax.data import DataError, batches, epoch_order, load, transforms
from calibrax.data.datasets import bair

NUM = {"train": 5, "test": 2}


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


def robot_video(seed):
    """A smooth drawn sequence, [30, 64, 64, 3]."""
    rng = np.random.default_rng(seed)
    corners = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((64, 64)) for _ in range(2)]
    first, last = (np.asarray(picture, np.float32) for picture in corners)
    return np.stack([first + (last - first) * t / 29 for t in range(30)]).astype(np.uint8)


ROBOT = {split: [robot_video(100 * len(split) + i) for i in range(num)] for split, num in NUM.items()}


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    stream.seek(0)  # TFDS takes an encoded file as it is, and encodes arrays by TensorFlow alone
    return stream


def write_tfds(folder, sequences, cameras=("image_main", "image_aux1"), shape=(64, 64, 3), length=30):
    """A TFDS data set of BAIR's name, version and features; frames of `image_main` are the negatives."""
    import tensorflow_datasets as tfds

    class BairRobotPushingSmall(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "bair_robot_pushing_small"
        VERSION = tfds.core.Version("2.0.0")
        pkg_dir_path = None

        def _info(self):
            images = {camera: tfds.features.Image(shape=shape) for camera in cameras}
            numbers = {name: tfds.features.Tensor(shape=(num,), dtype=np.float32) for name, num in self.NUMBERS.items()}
            features = tfds.features.Sequence(images | numbers, length=length)
            return tfds.core.DatasetInfo(builder=self, features=features)

        NUMBERS = {"action": 4, "endeffector_pos": 3}  # noqa: RUF012

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(some) for split, some in sequences.items()}

        def _generate_examples(self, some):
            numbers = {name: np.ones(num, np.float32) for name, num in self.NUMBERS.items()}
            for index, sequence in enumerate(some):
                frames = ({"image_main": 255 - frame, "image_aux1": frame} for frame in sequence)
                yield str(index), [{camera: png(frame[camera]) for camera in cameras} | numbers for frame in frames]

    BairRobotPushingSmall(data_dir=str(folder), file_format="array_record").download_and_prepare()


@pytest.fixture(autouse=True)
def few_sequences(monkeypatch):
    for split, num in NUM.items():
        monkeypatch.setitem(bair.NUM_SEQUENCES, split, num)


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robot")
    write_tfds(folder, ROBOT)
    return folder


def test_robot_sequences_are_those_of_the_second_camera(robot):
    loaded = load("bair", data_dir=robot)
    assert loaded.name == "bair_robot_pushing_small"
    assert loaded.event_shape == (30, 64, 64, 3)
    assert "image_aux1" in loaded.origin
    for split, sequences in ROBOT.items():
        source = loaded.splits[split]
        assert len(source) == NUM[split]
        found = {source[index].tobytes() for index in range(len(source))}  # TFDS shuffles
        assert found == {sequence.tobytes() for sequence in sequences}
        with pytest.raises(IndexError, match=f"index is {NUM[split]}; expected 0 to"):
            source[NUM[split]]


def test_robot_sequences_begin_at_frame_0(robot):
    loaded = load("bair_robot_pushing_small", data_dir=robot, num_frames=12, num_test_frames=30)
    whole = load("bair", data_dir=robot)
    assert loaded.event_shape == (12, 64, 64, 3)
    for index in range(NUM["train"]):
        np.testing.assert_array_equal(loaded.train[index], whole.train[index][:12])
    np.testing.assert_array_equal(loaded.test[1], whole.test[1])
    small = load("bair", data_dir=robot, num_frames=2, image_size=16)
    np.testing.assert_array_equal(small.train[3], transforms.resize(whole.train[3][:2], (16, 16)))
    for num in (0, 31):
        with one_line(f"number of frames is {num}; expected 1 to 30"):
            load("bair", data_dir=robot, num_frames=num)


def test_robot_sequences_are_read_from_tfrecord(robot, tmp_path):
    shutil.copytree(robot, tmp_path, dirs_exist_ok=True)
    to_tfrecord(tmp_path)
    loaded, same = load("bair", data_dir=tmp_path, num_frames=4), load("bair", data_dir=robot, num_frames=4)
    for index in (4, 0):
        np.testing.assert_array_equal(loaded.train[index], same.train[index])
    batch = next(batches(loaded.train, 5, seed=0))
    np.testing.assert_array_equal(batch, next(batches(same.train, 5, seed=0)))


def test_robot_sequences_are_read_without_tensorflow(robot):
    code = (
        "import sys; from calibrax.data import load; from calibrax.data.datasets import bair;"
        f"bair.NUM_SEQUENCES.update({NUM});"
        f"print(load('bair', data_dir={str(robot)!r}, num_frames=3).train[0].shape);"
        "assert 'tensorflow' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "(3, 64, 64, 3)"


def test_damaged_robot_preparations_are_refused(tmp_path):
    write_tfds(tmp_path, ROBOT)
    (shard,) = tmp_path.rglob("*train.array_record*")
    whole = shard.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:3000] + bytes(9000) + whole[12_000:]):
        shard.write_bytes(content)
        with one_line("2.0.0.* cannot be read"):
            train = load("bair", data_dir=tmp_path).train
            [train[index] for index in range(len(train))]
        with one_line("2.0.0.* cannot be read"):
            next(batches(load("bair", data_dir=tmp_path).train, 5, seed=0))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sequences": ROBOT | {"test": ROBOT["test"][:1]}}, "2.0.0 has 1 sequences for test; bair.* has 2"),
        ({"sequences": {"train": ROBOT["train"]}}, "2.0.0 has no split 'test'"),
        ({"sequences": ROBOT, "cameras": ("image_main",)}, "bair_robot_pushing_small is not in .* as array_record"),
    ],
)
def test_other_preparations_under_the_robot_s_name_are_refused(tmp_path, options, match):
    write_tfds(tmp_path, **options)
    with one_line(match):
        load("bair", data_dir=tmp_path)


def test_robot_sequences_of_another_shape_are_refused(tmp_path):
    small = {split: [sequence[:20, ::2, ::2] for sequence in some] for split, some in ROBOT.items()}
    write_tfds(tmp_path, small, shape=(32, 32, 3), length=20)
    train = load("bair", data_dir=tmp_path, num_frames=12).train
    with one_line(r"sequence 0 cannot be read: it is uint8 \(12, 32, 32, 3\); expected uint8 \(12, 64, 64, 3\)"):
        train[0]


def test_the_error_for_a_missing_robot_says_how_to_get_it(tmp_path):
    ways = "not in .*`calibrax data bair`.*TensorFlow.*81 GiB .*GiB free.*videos.npz"
    for folder in (tmp_path, tmp_path / "not" / "there"):
        with one_line(ways):
            load("bair", data_dir=folder)
    empty = tmp_path / "bair_robot_pushing_small" / "2.0.0"
    empty.mkdir(parents=True)
    (empty / "dataset_info.json").write_text("{}")
    with one_line(ways):  # prepared in another format
        load("bair", data_dir=tmp_path)
    (empty / "x.array_record-0").touch()
    with one_line("2.0.0 cannot be read"):
        load("bair", data_dir=tmp_path)


def test_the_robot_is_prepared_if_tensorflow_and_space_are_there(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def prepare():
        return load("bair", data_dir=tmp_path / "new", prepare=True)

    monkeypatch.setattr(bair.importlib.util, "find_spec", lambda name: None)
    with one_line("needs TensorFlow to be prepared"):
        prepare()
    monkeypatch.setattr(bair.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(bair, "free_space", lambda folder: 80 << 30)
    with one_line("new has 80 GiB free; preparing bair_robot_pushing_small takes 81 GiB"):
        prepare()
    monkeypatch.setattr(bair, "SPACE", 1)

    class Builder:
        def __init__(self, name, data_dir, file_format):
            assert (name, file_format) == ("bair_robot_pushing_small", "array_record")
            self.download_and_prepare = functools.partial(write_tfds, data_dir, ROBOT)

    def unreachable(*args, **kwargs):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(tfds, "builder", unreachable)
    with one_line("cannot be prepared in .*new: no network"):
        prepare()
    monkeypatch.setattr(tfds, "builder", Builder)
    assert prepare().event_shape == (30, 64, 64, 3)
    monkeypatch.setattr(tfds, "builder", None)
    assert len(prepare().train) == NUM["train"]  # it is there now


def test_batches_of_robot_sequences(robot):
    train = load("bair", data_dir=robot, num_frames=12).train
    order = epoch_order(5, seed=1, epoch=1)[:2]
    np.testing.assert_array_equal(next(batches(train, 2, seed=1, start_step=2)), [train[int(i)] for i in order])
