"""Videos: by name, from files, from a preparation of BAIR's, in batches; and what is said when they cannot be used."""

import functools
import io
import itertools
import subprocess
import sys
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from calibrax import data
from calibrax.data import DataError, batches, describe, epoch_order, first, load, take_fraction, transforms
from calibrax.data.datasets import bair
from calibrax.data.datasets.bair import RobotPushing
from calibrax.data.datasets.moving_digits import MovingDigits, moving_digits

RNG = np.random.default_rng(0)
NUM = {"train": 5, "test": 2}


def videos(num, shape=(6, 8, 10, 3)):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


# Moving digits by name


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


def test_digits_of_a_data_set_move_and_name_the_videos(tmp_path):
    train, test = (np.full((2, 28, 28, 1), level, np.uint8) for level in (50, 80))
    loaded = load(f"moving-digits:{npz(tmp_path / 'squares.npz', train=train, test=test)}", num_frames=3)
    assert loaded.name == "moving-squares"
    assert "squares.npz" in loaded.origin
    assert set(np.unique(loaded.train[0])) <= {0, 50, 100}
    assert set(np.unique(loaded.test[0])) <= {0, 80, 160}
    with one_line("moving-digits: digits is uint8 .*3.; expected"):
        load("moving-digits", digits=npz(tmp_path / "rgb.npz", train=videos(2)[0], test=videos(2)[0]))


def test_moving_mnist_says_how_to_get_mnist(tmp_path):
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
        ({"num_train": 0}, "moving-digits: num is 0"),
        ({"image_size": 0}, "image size is 0x0; expected 1 or more"),
    ],
)
def test_moving_digits_that_cannot_be(arguments, match):
    with one_line(match):
        load("moving-digits", **arguments)


def test_names_that_are_not_known():
    with one_line("no videos called 'moving-digit': did you mean moving-digits"):
        load("moving-digit")
    with one_line("expected moving-digits, moving-digits:IMAGES, moving-mnist, bair, or an .npz file"):
        load("/etc")
    assert "moving-digits" in known_videos()


# Files


def test_npz_with_and_without_validation(tmp_path):
    train, test, validation = videos(5), videos(2, (9, 8, 10, 3)), videos(1)
    plain = load(npz(tmp_path / "a.npz", train=train, test=test, actions=np.zeros(5)))
    np.testing.assert_array_equal(plain.train, train)
    np.testing.assert_array_equal(plain.test, test)
    assert plain.validation is None
    assert plain.name == "a"
    assert plain.event_shape == (6, 8, 10, 3)
    full = load(npz(tmp_path / "b.npz", train=train, test=test, validation=validation), num_frames=4)
    assert {split: np.shape(array)[:2] for split, array in full.splits.items()} == {
        "train": (5, 4),
        "validation": (1, 6),
        "test": (2, 9),
    }
    np.testing.assert_array_equal(full.test, test)
    more = load(str(tmp_path / "b.npz"), num_frames=2, num_test_frames=6)
    np.testing.assert_array_equal(more.train, train[:, :2])
    np.testing.assert_array_equal(more.validation, validation)


def test_resized_in_memory_and_on_demand(tmp_path):
    train = videos(3)
    loaded = load(npz(tmp_path / "a.npz", train=train, test=train), image_size=(4, 5), num_frames=2)
    np.testing.assert_array_equal(loaded.train[1], transforms.resize(train[1, :2], (4, 5)))
    assert "resized from 8x10 to 4x5" in loaded.origin
    digits = load("moving-digits", image_size=32, num_train=3, num_frames=4)
    assert digits.event_shape == (4, 32, 32, 1)
    np.testing.assert_array_equal(digits.train[2], transforms.resize(moving_digits(None, 3, 0, 4)[2], (32, 32)))
    assert len(digits.train) == 3


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"train": videos(2)}, r"no array 'test'; expected uint8 arrays 'train' and 'test' \[N, T, H, W, C\]"),
        ({"test": videos(2)}, "no array 'train'"),
        ({"train": videos(2).astype(np.float32), "test": videos(2)}, "'train' is float32 .*expected uint8"),
        ({"train": videos(2)[:, 0], "test": videos(2)}, r"'train' is uint8 \(2, 8, 10, 3\); expected .*T, H, W, C"),
        ({"train": videos(2), "test": videos(0)}, "'test' is empty"),
        ({"train": videos(2), "test": videos(2, (6, 8, 9, 3))}, "frames differ in shape between splits"),
        ({"train": np.array([{}, {}]), "test": videos(2)}, "'train' is object"),
    ],
)
def test_bad_npz_arrays(tmp_path, arrays, match):
    with one_line(match):
        load(npz(tmp_path / "bad.npz", **arrays))


@pytest.mark.parametrize("num", [0, 7])
def test_frames_that_a_file_does_not_have(tmp_path, num):
    path = npz(tmp_path / "a.npz", train=videos(2), test=videos(2))
    with one_line(f"number of frames is {num}; expected 1 to 6, those of 'train'"):
        load(path, num_frames=num)


def test_files_that_are_no_npz(tmp_path):
    (tmp_path / "text.npz").write_text("no zip at all")
    good = tmp_path / "good.npz"
    npz(good, train=videos(50), test=videos(5))
    (tmp_path / "torn.npz").write_bytes(good.read_bytes()[:-2000])
    flipped = bytearray(good.read_bytes())
    flipped[5000] ^= 1  # the zip's own checksum finds it
    (tmp_path / "flipped.npz").write_bytes(flipped)
    for name in ("text", "torn", "flipped"):
        with one_line("cannot be read"):
            load(str(tmp_path / f"{name}.npz"))
    with one_line("there is no file"):
        load(str(tmp_path / "absent.npz"))


def test_a_header_that_promises_more_than_the_file_holds(tmp_path):
    header = io.BytesIO()
    shape = (10**9, 20, 64, 64, 3)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("train.npy", header.getvalue())
        archive.writestr("test.npy", header.getvalue())
    with one_line("promises .* bytes, more than the file holds"):
        load(str(tmp_path / "bomb.npz"))


# BAIR's robot


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


def test_robot_sequences_are_read_without_tensorflow(robot):
    code = (
        "import sys; from calibrax.data import robot_pushing, video;"
        f"bair.NUM_SEQUENCES.update({NUM});"
        f"data = video.load('bair', data_dir={str(robot)!r}, num_frames=3);"
        "print(loaded.train[0].shape);"
        "assert 'tensorflow' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "(3, 64, 64, 3)"


def test_robot_preparations_that_are_damaged(tmp_path):
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
def test_robot_preparations_of_another_kind(tmp_path, options, match):
    write_tfds(tmp_path, **options)
    with one_line(match):
        load("bair", data_dir=tmp_path)


def test_robot_sequences_of_another_shape(tmp_path):
    small = {split: [sequence[:20, ::2, ::2] for sequence in some] for split, some in ROBOT.items()}
    write_tfds(tmp_path, small, shape=(32, 32, 3), length=20)
    sources, _ = load_robot_pushing(tmp_path, 12, 30)
    with one_line(r"sequence 0 is uint8 \(12, 32, 32, 3\); expected uint8 \(12, 64, 64, 3\)"):
        sources["train"][0]


def test_a_missing_robot_is_named_with_the_ways_to_get_it(tmp_path):
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


def test_preparing_the_robot(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def prepare():
        return load("bair", data_dir=tmp_path / "new", prepare=True)

    monkeypatch.setattr(bair.importlib.util, "find_spec", lambda name: None)
    with one_line("needs TensorFlow to be prepared"):
        prepare()
    monkeypatch.setattr(bair.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(robot_pushing, "_free", lambda folder: 80)
    with one_line("new has 80 GiB free; preparing bair_robot_pushing_small takes 81 GiB"):
        prepare()
    monkeypatch.setattr(robot_pushing, "SPACE", 1)

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


# Batches


def numbered(num):
    """Videos whose levels say which one it is, [N, 2, 1, 1, 1]."""
    return np.arange(num, dtype=np.uint8)[:, None, None, None, None].repeat(2, axis=1)


class Lazy:
    """A random-access source of the same videos, which remembers what was asked for."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        assert isinstance(index, int)
        self.asked.append(index)
        return self.array[index]


def taken(source, start, count, size=5, seed=0):
    stream = itertools.islice(batches(source, size, seed=seed, start_step=start), count)
    return [batch[:, 0, 0, 0, 0].tolist() for batch in stream]


def test_lazy_batches_are_those_of_an_array():
    array = numbered(23)
    expected = [batch[:, 0, 0, 0, 0].tolist() for batch in itertools.islice(batches(array, 5, seed=4), 12)]
    assert taken(array, 0, 12, seed=4) == expected
    assert taken(Lazy(array), 0, 12, seed=4) == expected
    assert sorted(itertools.chain(*expected[:4])) == sorted(epoch_order(23, seed=4, epoch=0)[:20].tolist())


@pytest.mark.parametrize("start", [0, 1, 3, 4, 7, 12])
def test_from_any_step_on_the_batches_are_those_of_the_whole_run(start):
    lazy = Lazy(numbered(23))
    assert taken(lazy, start, 6) == taken(lazy, 0, 20)[start : start + 6]


def test_batches_of_both_sources_by_name(robot):
    digits = load("moving-digits", num_train=6, num_frames=3)
    batch = next(batches(digits.train, 4, seed=0))
    assert batch.dtype == np.uint8
    order = epoch_order(6, seed=0, epoch=0)[:4]
    np.testing.assert_array_equal(batch, moving_digits(None, 6, 0, 3)[order])
    train = load("bair", data_dir=robot, num_frames=12).train
    assert isinstance(train, RobotPushing)
    order = epoch_order(5, seed=1, epoch=1)[:2]
    np.testing.assert_array_equal(next(batches(train, 2, seed=1, start_step=2)), [train[int(i)] for i in order])


def test_no_more_than_a_few_videos_are_read_ahead_and_the_threads_end():
    before = set(threading.enumerate())
    lazy = Lazy(numbered(200))
    stream = batches(lazy, 5, seed=0)
    next(stream)
    started = set(threading.enumerate()) - before
    del stream
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()
    assert 5 <= len(lazy.asked) <= 5 + 10 + 16


@pytest.mark.parametrize("size", [0, -1, 24])
def test_batches_that_cannot_be(size):
    for source in (numbered(23), Lazy(numbered(23))):
        with one_line(rf"batch size is {size}; expected 1 to 23"):
            next(batches(source, size, seed=0))


def test_the_first_videos_in_memory_and_a_fraction(tmp_path):
    for source in (numbered(7), Lazy(numbered(7))):
        assert first(source, 3)[:, 0, 0, 0, 0].tolist() == [0, 1, 2]
        assert len(first(source)) == len(first(source, 9)) == 7
        part = take_fraction(data.Data("numbers", train=source, test=source), 0.4)
        assert (len(part.train), len(part.test)) == (3, 7)
        assert part.train[2][0, 0, 0, 0] == 2
        assert part.origin.endswith("the first 3 of 7 training videos")
        with pytest.raises(IndexError):
            part.train[3]
    with one_line("fraction is 0; expected more than 0, at most 1"):
        take_fraction(part, 0)


def test_what_is_a_source_of_videos(tmp_path):
    images = np.zeros((2, 4, 4, 1), np.uint8)
    for source in (
        "bair",
        "moving-digits",
        "moving_mnist",
        "moving-digits:mnist",
        npz(tmp_path / "v.npz", train=videos(2), test=videos(2)),
    ):
        assert data.is_video_source(source)
    (tmp_path / "torn.npz").write_bytes(b"PK")
    for source in (
        "svhn",
        "absent.npz",
        str(tmp_path / "torn.npz"),
        npz(tmp_path / "i.npz", train=images, test=images),
    ):
        assert not data.is_video_source(source)


def test_a_description_names_shapes_and_levels():
    text = describe(load("moving-digits", num_frames=3, num_train=300, num_test=2))
    assert "300 videos, 3x64x64x1, uint8, the first 256: levels 0..255" in text
    assert "2 videos, 20x64x64x1, uint8, levels 0..255" in text
