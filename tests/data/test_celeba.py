"""CelebA on drawn images: its crop, its partition, the kept faces, and the errors for damaged or missing files."""

import io
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from tfrecords import to_tfrecord

from calibrax import cli, data
from calibrax.data import DataError, transforms
from calibrax.data.datasets import celeba, celeba_jpegs

NUM = {"train": 7, "validation": 2, "test": 3}
SPLIT_OF = {f"{i:06d}.jpg": "001010200202"[i - 1] for i in range(1, 13)}  # as in the partition file: 0, 1 or 2


def encode(picture, format="JPEG"):
    stream = io.BytesIO()
    picture.save(stream, format=format, quality=90)
    return stream.getvalue()


def photograph(seed, size=(178, 218)):
    """A smooth picture, (width, height)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


PHOTOGRAPHS = {name: encode(photograph(seed)) for seed, name in enumerate(SPLIT_OF)}


def expected(split, size):
    """Faces of a split, by plain slicing and the transform that every other source goes through."""
    wanted = str(list(NUM).index(split))
    whole = [np.asarray(Image.open(io.BytesIO(PHOTOGRAPHS[n]))) for n in sorted(SPLIT_OF) if SPLIT_OF[n] == wanted]
    cut = np.stack(whole)[:, 39:179, 19:159]
    assert cut.shape[1:] == (140, 140, 3)
    return transforms.resize(cut, size)


def write_partition(folder, lines=None):
    lines = [f"{name} {split}" for name, split in SPLIT_OF.items()] if lines is None else lines
    (folder / "list_eval_partition.txt").write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def write_zip(folder, members=PHOTOGRAPHS, prefix="img_align_celeba/"):
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(prefix + name, content)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")


@pytest.fixture(autouse=True)
def twelve_photographs(monkeypatch):
    for split, num in NUM.items():
        monkeypatch.setitem(celeba_jpegs.NUM_IMAGES, split, num)


@pytest.fixture
def folder(tmp_path):
    """A data folder with the original files, the photographs zipped."""
    write_partition(tmp_path)
    write_zip(tmp_path)
    return tmp_path


@pytest.mark.parametrize("size", [28, 140, (20, 30)])
def test_faces_are_cropped_and_resized_exactly_and_split_as_the_partition_says(folder, size):
    loaded = data.load("celeba", data_dir=folder, image_size=size)
    size = (size, size) if isinstance(size, int) else size
    for split, num in NUM.items():
        faces = getattr(loaded, split)
        assert faces.shape == (num, *size, 3)
        assert faces.dtype == np.uint8
        np.testing.assert_array_equal(faces, expected(split, size))
    assert loaded.name == "celeba"
    assert "non-commercial" in loaded.license
    assert "img_align_celeba.zip, cut to the centre 140x140 of 178x218 (rows 39-178, columns 19-158" in loaded.origin


def test_colour_is_resized_as_pillow_does_it_in_one_go():
    cut = photograph(5).crop((19, 39, 159, 179))
    whole = np.asarray(cut.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(transforms.resize(np.asarray(cut)[None], (32, 32))[0], whole)


def test_kept_faces_are_read_without_the_files_and_sizes_do_not_mix(folder, monkeypatch):
    first = data.load("celeba", data_dir=folder)
    assert first.event_shape == (64, 64, 3)
    small = data.load("celeb_a", data_dir=folder, image_size=32)
    (folder / "img_align_celeba.zip").unlink()
    (folder / "list_eval_partition.txt").unlink()
    monkeypatch.setattr(celeba, "face", None)
    for size, made in ((None, first), (64, first), (32, small)):
        again = data.load("celeba", data_dir=folder, image_size=size)
        assert again.origin == made.origin
        for split in NUM:
            np.testing.assert_array_equal(getattr(again, split), getattr(made, split))
    assert {path.name for path in (folder / "celeba_images").iterdir()} == {"32x32", "64x64"}
    with one_line("celeba is not in"):
        data.load("celeba", data_dir=folder, image_size=28)


def test_a_plain_folder_of_photographs_and_a_zip_without_one_inside(tmp_path):
    write_partition(tmp_path)
    (tmp_path / "img_align_celeba").mkdir()
    for name, content in PHOTOGRAPHS.items():
        (tmp_path / "img_align_celeba" / name).write_bytes(content)
    loaded = data.load("celeba", data_dir=tmp_path, image_size=32)
    np.testing.assert_array_equal(loaded.train, expected("train", (32, 32)))
    write_zip(tmp_path, prefix="")
    loaded = data.load("celeba", data_dir=tmp_path, image_size=28)
    np.testing.assert_array_equal(loaded.test, expected("test", (28, 28)))
    assert "img_align_celeba.zip" in loaded.origin


def write_tfds(folder, images):
    """A TFDS data set of `celeb_a`'s name, version and features, JPEG as in its own; `images` by split."""
    import tensorflow_datasets as tfds

    class CelebA(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "celeb_a"
        VERSION = tfds.core.Version("2.1.0")
        pkg_dir_path = None

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(218, 178, 3), encoding_format="jpeg"),
                "landmarks": {"nose_x": np.int64},
                "attributes": {"Smiling": np.bool_},
                "identity": {"Identity_No": np.int64},
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(jpegs) for split, jpegs in images.items()}

        def _generate_examples(self, jpegs):
            for name, content in jpegs.items():
                rest = {"landmarks": {"nose_x": 9}, "attributes": {"Smiling": True}, "identity": {"Identity_No": 1}}
                yield name, {"image": io.BytesIO(content), **rest}

    CelebA(data_dir=str(folder), file_format="array_record").download_and_prepare()


def by_split():
    return {split: {n: PHOTOGRAPHS[n] for n in SPLIT_OF if SPLIT_OF[n] == str(i)} for i, split in enumerate(NUM)}


def test_tfds_s_own_preparation_is_read_without_tensorflow_then_kept(tmp_path):
    write_tfds(tmp_path, by_split())
    code = (
        "import sys; from calibrax.data import load; from calibrax.data.datasets import celeba_jpegs;"
        f"celeba_jpegs.NUM_IMAGES.update({NUM});"
        f"print(load('celeb_a', data_dir={str(tmp_path)!r}, image_size=32).origin);"
        "assert 'tensorflow' not in sys.modules"
    )
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert "celeb_a/2.1.0, cut to the centre 140x140" in run.stdout
    for path in (tmp_path / "celeb_a").rglob("*.array_record*"):
        path.unlink()
    loaded = data.load("celeba", data_dir=tmp_path, image_size=32)
    assert loaded.origin == run.stdout.strip()
    for split in NUM:  # TFDS shuffles
        found = {face.tobytes() for face in getattr(loaded, split)}
        assert found == {face.tobytes() for face in expected(split, (32, 32))}


def test_tfds_s_own_preparation_as_tfrecord_is_read(tmp_path):
    write_tfds(tmp_path, by_split())
    to_tfrecord(tmp_path)
    loaded = data.load("celeba", data_dir=tmp_path, image_size=32)
    for split in NUM:
        found = {face.tobytes() for face in getattr(loaded, split)}
        assert found == {face.tobytes() for face in expected(split, (32, 32))}


def test_other_tfds_preparations_are_refused(tmp_path):
    images = by_split()
    write_tfds(tmp_path / "few", images | {"test": dict(list(images["test"].items())[:2])})
    with one_line("celeb_a/2.1.0 has 2 images for test; CelebA has 3"):
        data.load("celeba", data_dir=tmp_path / "few")
    write_tfds(tmp_path / "small", images | {"validation": {n: encode(photograph(0, (64, 64))) for n in "ab"}})
    before = tree(tmp_path)
    with one_line("2.1.0: .* is 64 wide and 64 high; expected 178 and 218"):
        data.load("celeba", data_dir=tmp_path / "small")
    (shard,) = (tmp_path / "small").rglob("*train.array_record*")
    whole = shard.read_bytes()
    for content in (whole[: len(whole) // 2], b"", whole[:3000] + bytes(9000) + whole[12_000:]):
        shard.write_bytes(content)
        with one_line("2.1.0.* cannot be read"):
            data.load("celeba", data_dir=tmp_path / "small")
    write_tfds(tmp_path / "two", {"train": images["train"], "test": images["test"]})
    with one_line("has no split 'validation'"):
        data.load("celeba", data_dir=tmp_path / "two")
    assert before == [name for name in tree(tmp_path) if not name.startswith("two")]


def test_the_error_for_missing_files_names_them_and_says_how_to_get_them(tmp_path):
    ways = "not downloaded.*put img_align_celeba.zip.*list_eval_partition.txt.*celeb_a.*array_record.*images.npz"
    with one_line(rf"no img_align_celeba.zip and no list_eval_partition.txt\. {'.*'}{ways}"):
        data.load("celeba", data_dir=tmp_path)
    write_zip(tmp_path)
    with one_line("celeba is not in .*: no list_eval_partition.txt. It"):
        data.load("celeba", data_dir=tmp_path)
    (tmp_path / "img_align_celeba.zip").unlink()
    write_partition(tmp_path)
    with one_line("celeba is not in .*: no img_align_celeba.zip. It"):
        data.load("celeba", data_dir=tmp_path)
    assert tree(tmp_path) == ["list_eval_partition.txt"]


@pytest.mark.parametrize("size", [0, 141, (32, 150)])
def test_sizes_larger_than_the_crop_are_refused(folder, size):
    with one_line(r"image size is 0x0; expected one whole number|image size of celeba is .*; expected 1 to 140"):
        data.load("celeba", data_dir=folder, image_size=size)


LINES = [f"{name} {split}" for name, split in SPLIT_OF.items()]


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([*LINES[:4], "000005.jpg", *LINES[5:]], "line 5 is '000005.jpg'; expected a line like '000001.jpg 0'"),
        ([*LINES[:4], "000005.jpg 3", *LINES[5:]], "line 5 is '000005.jpg 3'"),
        ([*LINES[:4], "../005.jpg 1", *LINES[5:]], "line 5 is '../005.jpg 1'"),
        ([*LINES[:4], "00000é.jpg 1", *LINES[5:]], "cannot be read"),
        ([*LINES, LINES[0]], "names a photograph twice"),
        (LINES[:-1], "partition.txt has 2 images for test; CelebA has 3"),
        ([], "has 0 images for train"),
    ],
)
def test_damaged_partition_files_are_refused(folder, lines, match):
    write_partition(folder, lines)
    before = tree(folder)
    with one_line(match):
        data.load("celeba", data_dir=folder)
    assert tree(folder) == before


def with_header_size(content, width, height):
    """The same JPEG with another size in its header."""
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + content[start + 4 :]


FIFTH = PHOTOGRAPHS["000005.jpg"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (FIFTH[:-1000], "000005.jpg cannot be read as a JPEG image"),
        (FIFTH[:30], "000005.jpg cannot be read as a JPEG image"),
        (b"", "000005.jpg is no JPEG image"),
        (b"not an image", "000005.jpg is no JPEG image"),
        (encode(photograph(0), "PNG"), "000005.jpg is no JPEG image"),
        (encode(photograph(0, (218, 178))), "000005.jpg is 218 wide and 178 high; expected 178 and 218"),
        (with_header_size(FIFTH, 8000, 8000), "000005.jpg is 8000 wide"),
        (with_header_size(FIFTH, 65_000, 65_000), "000005.jpg cannot be read as a JPEG image: .*bomb"),
        (FIFTH + bytes(celeba_jpegs.MAX_JPEG), "000005.jpg is no JPEG image of at most"),
    ],
    ids=["torn", "header", "empty", "text", "png", "turned", "large", "bomb", "long"],
)
def test_damaged_photographs_are_refused(tmp_path, content, match):
    write_partition(tmp_path)
    write_zip(tmp_path, PHOTOGRAPHS | {"000005.jpg": content})
    before = tree(tmp_path)
    with one_line(match):
        data.load("celeba", data_dir=tmp_path, image_size=28)
    (tmp_path / "img_align_celeba.zip").unlink()
    (tmp_path / "img_align_celeba").mkdir()
    for name, jpeg in (PHOTOGRAPHS | {"000005.jpg": content}).items():
        (tmp_path / "img_align_celeba" / name).write_bytes(jpeg)
    with one_line(match):
        data.load("celeba", data_dir=tmp_path, image_size=28)
    assert [name for name in tree(tmp_path) if not name.startswith("img_align_celeba")] == before[1:]


def test_damaged_and_incomplete_zip_files_are_refused(folder):
    path = folder / "img_align_celeba.zip"
    whole = path.read_bytes()
    torn = whole.index(b"img_align_celeba/000004.jpg") + 200  # inside what is packed
    bad = [
        (whole[: len(whole) // 2], "img_align_celeba.zip cannot be read as a zip file"),
        (b"", "img_align_celeba.zip cannot be read as a zip file"),
        (whole[:torn] + bytes(40) + whole[torn + 40 :], "img_align_celeba.zip: 000004.jpg cannot be read"),
    ]
    before = tree(folder)
    for content, match in bad:
        path.write_bytes(content)
        with one_line(match):
            data.load("celeba", data_dir=folder, image_size=28)
    write_zip(folder, prefix="../img_align_celeba/")
    with one_line("lacks 12 of the images in list_eval_partition.txt, the first 000001.jpg"):
        data.load("celeba", data_dir=folder, image_size=28)
    some = {name: jpeg for name, jpeg in PHOTOGRAPHS.items() if name != "000003.jpg"}
    write_zip(folder, some | {"../000003.jpg": b""})
    with one_line("lacks 1 of the images in list_eval_partition.txt, the first 000003.jpg"):
        data.load("celeba", data_dir=folder, image_size=28)
    assert tree(folder) == before
    assert not (folder.parent / "000003.jpg").exists()


def interrupt(at):
    seen = []

    def call(*args, **kwargs):
        seen.append(args)
        if len(seen) == at:
            raise KeyboardInterrupt
        return np.zeros((28, 28, 3), np.uint8)

    return call


@pytest.mark.parametrize(("step", "at"), [("_write", 1), ("_write", 3), ("face", 9), ("_origin", 1)])
def test_an_interruption_leaves_nothing_behind(folder, monkeypatch, step, at):
    before = tree(folder)
    with monkeypatch.context() as patched:
        patched.setattr(celeba, step, interrupt(at))
        with pytest.raises(KeyboardInterrupt):
            data.load("celeba", data_dir=folder, image_size=28)
    assert tree(folder) == before
    np.testing.assert_array_equal(data.load("celeba", data_dir=folder, image_size=28).test, expected("test", (28, 28)))


def test_an_interruption_leaves_other_sizes_alone(folder, monkeypatch):
    data.load("celeba", data_dir=folder, image_size=28)
    before = tree(folder)
    monkeypatch.setattr(celeba, "_write", interrupt(2))
    with pytest.raises(KeyboardInterrupt):
        data.load("celeba", data_dir=folder, image_size=32)
    assert tree(folder) == before


def test_a_full_disk_is_reported_and_nothing_is_left_behind(folder, monkeypatch):
    before = tree(folder)
    with monkeypatch.context() as patched:
        patched.setattr(celeba.shutil, "disk_usage", lambda path: celeba.shutil._ntuple_diskusage(10, 10, 0))
        with one_line("has 0 MiB free"):
            data.load("celeba", data_dir=folder)

    def full(path, images):
        path.write_bytes(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(celeba, "_write", full)
    with one_line("celeba cannot be kept in .*64x64: No space left on device"):
        data.load("celeba", data_dir=folder)
    assert tree(folder) == before


def test_the_folder_of_another_process_that_was_faster_is_kept(tmp_path):
    path = tmp_path / "celeba_images" / "8x8"
    with celeba._appears_whole(path) as temporary:
        (temporary / "mine").touch()
        path.mkdir()
        (path / "theirs").touch()
    assert tree(tmp_path) == ["celeba_images", "celeba_images/8x8", "celeba_images/8x8/theirs"]


def test_damaged_kept_faces_are_reported(folder):
    data.load("celeba", data_dir=folder, image_size=28)
    path = folder / "celeba_images" / "28x28" / "test.npy"
    whole = path.read_bytes()
    wrong = io.BytesIO()
    np.save(wrong, np.zeros((3, 28, 28, 3), np.float32))
    for content in (whole[:-10], whole[:20], b"", wrong.getvalue()):
        path.write_bytes(content)
        with one_line(r"28x28 cannot be read \(remove it to prepare it again\): "):
            data.load("celeba", data_dir=folder, image_size=28)
    path.unlink()
    with one_line("28x28 cannot be read"):
        data.load("celeba", data_dir=folder, image_size=28)


def test_celeba_is_known_by_name_and_described(folder, capsys):
    assert "celeba" in data.known_sources()
    with one_line("did you mean celeba"):
        data.load("celebA", data_dir=folder)
    assert cli.main(["data", "celeba", "--data-dir", str(folder), "--image-size", "32"]) == 0
    shown = capsys.readouterr()
    train = expected("train", (32, 32))
    assert "32x32x3, uint8" in shown.out
    levels = f"levels {train.min()}..{train.max()}, mean {train.mean():.1f}, std {train.std():.1f}"
    assert f"7 images, {levels}" in shown.out
    assert "celeba 32x32" in shown.err  # progress
    assert cli.main(["data", "celeba", "--data-dir", str(folder / "nowhere")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
