"""Damaged and malicious files: a reader loads them or refuses them in one line, quickly and with little memory.

Each reader gets CALIBRAX_FUZZ inputs, 60 by default: valid files with some of their bytes changed. If a checksum would
catch every change, bytes are also changed inside the archive, and its checksums are recomputed.
"""

import collections
import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import itertools
import json
import os
import re
import signal
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat
from test_inception import write_published
from tfrecords import to_tfrecord

from calibrax import data
from calibrax.data import DataError, original
from calibrax.data import tfds_cache as prepared
from calibrax.data.datasets import celeba, cifar10, mnist
from calibrax.data.matlab import read_uint8
from calibrax.evaluation.metrics import feature_cache, inception_weights
from calibrax.evaluation.metrics.inception import parameter_shapes
from calibrax.runs import folder as run_folder
from calibrax.runs.config import ConfigError, TrainConfig
from calibrax.training import read_metrics

NUM = int(os.environ.get("CALIBRAX_FUZZ", "60"))
SECONDS, MEBIBYTES = 10, 64  # limits per input
RNG = np.random.default_rng(0)


# Mutations


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A change of a file's bytes at a position given as a share of its length."""

    kind: str
    share: float
    value: int  # of 64 bits

    def __call__(self, content: bytes) -> bytes:
        at, value = int(self.share * len(content)), self.value
        if not content:
            return content
        at, span = min(at, len(content) - 1), value % 40
        before, after = content[:at], content[at:]
        return {
            "flip": lambda: before + bytes([after[0] ^ (1 << value % 8)]) + after[1:],
            "byte": lambda: before + bytes([value % 256]) + after[1:],
            "word": lambda: before + value.to_bytes(8, "little")[: 1 << value % 4] + after[1 << value % 4 :],
            "cut": lambda: before,
            "remove": lambda: before + after[span:],
            "repeat": lambda: before + after[:span] + after,
            "insert": lambda: before + value.to_bytes(8, "little") + after,
        }[self.kind]()


EXTREMES = (0, 1, 2**8 - 1, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
MUTATIONS = st.lists(
    st.builds(
        Mutation,
        st.sampled_from(["flip", "byte", "word", "cut", "remove", "repeat", "insert"]),
        # Headers are at the beginning or at the end.
        st.one_of(st.floats(0, 1), st.floats(0, 0.05), st.floats(0.95, 1)),
        st.one_of(st.sampled_from(EXTREMES), st.integers(0, 2**64 - 1)),
    ),
    min_size=1,
    max_size=4,
)


def fuzzed(run, names):
    """Call `run(name, mutations)` NUM times. Without CALIBRAX_FUZZ, the mutations are the same in every session."""
    options: dict[str, Any] = {"print_blob": True} if "CALIBRAX_FUZZ" in os.environ else {"derandomize": True}
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    options |= {"phases": [Phase.generate], "deadline": None, "database": None, "suppress_health_check": checks}
    settings(max_examples=NUM, **options)(given(st.sampled_from(names), MUTATIONS)(run))()


# Limits


class TooLongError(BaseException):
    """A time-out that no reader catches."""


def memory_peak():
    """The peak resident memory of this process since `restart_peak`, in bytes; 0 on systems that do not report it."""
    try:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except (OSError, ValueError):
        return 0
    return int(line.split()[1]) << 10


def restart_peak():
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def limited(mebibytes=MEBIBYTES):
    """Fail if the block takes more than SECONDS or `mebibytes` of memory."""

    def too_long(signum, frame):
        raise TooLongError(f"more than {SECONDS} seconds")

    previous = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    restart_peak()
    before = memory_peak()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert memory_peak() - before <= mebibytes << 20


def message_of(read, errors, mebibytes=MEBIBYTES):
    """The one-line message with which a reader refuses a file; None if it reads the file."""
    message = None
    with limited(mebibytes):
        try:
            read()
        except errors as error:
            message = str(error)
    assert "\n" not in (message or "")
    return message


def test_the_limits_are_enforced(monkeypatch):
    if memory_peak():
        with pytest.raises(AssertionError), limited():
            bytearray(MEBIBYTES + 8 << 20)
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 0.1)
    with pytest.raises(TooLongError), limited():
        time.sleep(5)


# Readers and the files they read


@dataclasses.dataclass(frozen=True)
class Case:
    """The bytes to change, and a function that writes the file, or the files of a folder, from them."""

    name: str
    content: bytes
    write: Callable[[bytes], Any]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A reader, the files that it reads from a folder, the errors it may raise, and its memory limit."""

    read: Callable[[Path], Any]  # from the folder
    cases: Callable[[Path], list[Case]]  # in the folder
    errors: tuple[type[Exception], ...] = (DataError,)
    mebibytes: int = MEBIBYTES


def images(num, shape=(8, 8, 3)):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def case_of(path):
    return Case(path.name, path.read_bytes(), path.write_bytes)


def rewritten_zip(path, member):
    """A case that changes one member of an archive and rebuilds the archive around it."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}

    def write(content):
        with zipfile.ZipFile(path, "w") as archive:
            for name, old in contents.items():
                archive.writestr(name, content if name == member else old)

    return Case(f"{path.name}:{member}", contents[member], write)


def npz_cases(folder, arrays, member):
    np.savez_compressed(folder / "a.npz", **arrays)
    compressed = dataclasses.replace(case_of(folder / "a.npz"), name="compressed")
    np.savez(folder / "a.npz", **arrays)
    return [compressed, case_of(folder / "a.npz"), rewritten_zip(folder / "a.npz", f"{member}.npy")]


def picture_cases(folder):
    """Cases that change the last of three pictures, in every format."""
    cases = []
    for name, options in {
        "PNG": {},
        "JPEG": {},
        "BMP": {},
        "GIF": {},
        "TIFF": {"compression": "tiff_lzw"},
        "WEBP": {},
        "PPM": {},
    }.items():
        for number in range(3):
            stream = io.BytesIO()
            Image.fromarray(images(1)[0]).save(stream, format=name, **options)
            (folder / f"{number}.png").write_bytes(stream.getvalue())  # the suffix says nothing
        cases.append(dataclasses.replace(case_of(folder / "2.png"), name=name))
    png = next(case for case in cases if case.name == "PNG")
    return [*cases, dataclasses.replace(png, name="PNG's chunks", write=lambda content: png.write(with_crcs(content)))]


def with_crcs(png):
    """The PNG file with the checksums of its chunks recomputed."""
    at, fixed = 8, png[:8]
    while at + 12 <= len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        fixed += png[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return fixed


def idx_cases(folder):
    for name, num in (("train-images-idx3-ubyte.gz", 6), ("t10k-images-idx3-ubyte.gz", 3)):
        content = struct.pack(">4i", 2051, num, 28, 28) + images(num, (28, 28)).tobytes()
        (folder / name).write_bytes(gzip.compress(content))
    path = folder / "t10k-images-idx3-ubyte.gz"
    inside = Case("idx", content[:100], lambda changed: path.write_bytes(gzip.compress(changed + content[100:])))
    return [case_of(path), inside]


def mat_cases(folder, names, arrays):
    cases = []
    for compress in (True, False):
        for name, (key, array) in zip(names, arrays, strict=True):
            savemat(folder / name, {key: array, "y": np.ones(3)}, do_compression=compress)
        cases.append(dataclasses.replace(case_of(folder / names[-1]), name=f"compressed: {compress}"))
    path, whole = folder / names[-1], cases[-1].content
    header = Case("header", whole[:256], lambda changed: path.write_bytes(changed + whole[256:]))

    def write(changed):
        packed = zlib.compress(changed)
        path.write_bytes(whole[:128] + struct.pack("<2I", 15, len(packed)) + packed)

    return [*cases, header, Case("inside", whole[128 : 128 + 8 + struct.unpack("<I", whole[132:136])[0]], write)]


def svhn_cases(folder):
    arrays = [("X", np.moveaxis(images(num, (32, 32, 3)), 0, 3)) for num in (5, 2)]
    return mat_cases(folder, ["test_32x32.mat", "train_32x32.mat"], arrays)


def frey_cases(folder):
    return mat_cases(folder, ["frey_rawface.mat"], [("ff", images(560, (1965,)))])


def cifar_cases(folder):
    path, plain = folder / "cifar-10-binary.tar.gz", io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin", "readme.html"]:
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = cifar10.ROWS * 3073
            archive.addfile(info, io.BytesIO(images(cifar10.ROWS, (3073,)).tobytes()))
    content = plain.getvalue()
    path.write_bytes(gzip.compress(content))
    head = 512
    inside = Case("header", content[:head], lambda changed: path.write_bytes(gzip.compress(changed + content[head:])))
    return [case_of(path), inside, Case("tar", content, lambda changed: path.write_bytes(gzip.compress(changed, 1)))]


def prepared_cases(folder):
    prepared.prepare("flowers", {"train": images(60), "test": images(5)}, folder, license="none")
    names = ("dataset_info.json", "features.json", "*train.array_record*", "*test.array_record*")
    return [case_of(next(folder.rglob(name))) for name in names]


def tfrecord_cases(folder):
    prepared.prepare("flowers", {"train": images(60), "test": images(5)}, folder, license="none")
    to_tfrecord(folder)
    return [case_of(next(folder.rglob(name))) for name in ("*train.tfrecord*", "*test.tfrecord*")]


def face_cases(folder):
    stream = io.BytesIO()
    Image.fromarray(images(1, (celeba.HEIGHT, celeba.WIDTH, 3))[0]).save(stream, format="JPEG")
    return [Case("JPEG", stream.getvalue(), (folder / "a.jpg").write_bytes)]


def weights_cases(folder):
    shapes = {name.removeprefix("Conv2d_"): shape for name, shape in parameter_shapes(64).items()}
    arrays = {}
    for number, (height, width, inputs, outputs) in enumerate(shapes.values()):
        end = f"_{number}" if number else ""
        arrays[f"weights_conv{end}"] = RNG.normal(size=height * width * inputs * outputs).astype(np.float32)
        arrays[f"bias_conv{end}"] = np.zeros(outputs, np.float32)
    return npz_cases(folder, arrays, "weights_conv_1")


def torch_cases(folder):
    state = {}
    for name, (height, width, inputs, outputs) in parameter_shapes(64).items():
        state[f"{name}.conv.weight"] = RNG.normal(size=(outputs, inputs, height, width)).astype(np.float32)
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{part}"] = RNG.uniform(0.1, 2, outputs).astype(np.float32)
    write_published(folder / "a.pth", state)
    (folder / "digest").write_text(hashlib.sha256((folder / "a.pth").read_bytes()).hexdigest())
    return [case_of(folder / "a.pth")]


IDENTITY = feature_cache.features_identity(images(20), feature=6, weights="abc")


def features_cases(folder):
    features = RNG.normal(size=(20, 6)).astype(np.float32)
    feature_cache.save_features(folder / "a.npz", features, IDENTITY)
    stored = case_of(folder / "a.npz")
    return [stored, *(rewritten_zip(folder / "a.npz", f"{name}.npy") for name in ("features", "identity"))]


def config_cases(folder):
    record = {"config": TrainConfig().flat(), "data": {"name": "svhn"}}
    run_folder.write_json(folder / "config.json", record)
    return [case_of(folder / "config.json")]


def metrics_cases(folder):
    rows = [{"step": step, "split": "train", "loss": 1 / step} for step in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [case_of(folder / "metrics.jsonl")]


def load_original(name):
    def load(folder):
        with mock.patch.object(original, "prepare"):  # the prepared copy is tested as another reader
            return data.load(name, data_dir=folder, download=False)

    return load


def load_torch(folder):
    """Load the weights with this digest as the published one; no other file is unpickled."""
    with mock.patch.object(inception_weights, "WEIGHTS_SHA256", (folder / "digest").read_text()):
        return inception_weights.load_weights(folder / "a.pth", 64)


READERS = {
    "images.npz": Reader(
        lambda folder: data.load(str(folder / "a.npz")),
        lambda folder: npz_cases(folder, {"train": images(6), "test": images(3)}, "train"),
    ),
    "videos.npz": Reader(
        lambda folder: (data.is_video_source(str(folder / "a.npz")), data.load(str(folder / "a.npz"))),
        lambda folder: npz_cases(folder, {"train": images(4, (3, 8, 8, 1)), "test": images(3, (5, 8, 8, 1))}, "train"),
    ),
    "folder of images": Reader(lambda folder: data.load(str(folder), image_size=8), picture_cases, mebibytes=1500),
    "mnist": Reader(load_original("mnist"), idx_cases),
    "svhn": Reader(load_original("svhn"), svhn_cases),
    "frey_face": Reader(load_original("frey_face"), frey_cases),
    "cifar10": Reader(load_original("cifar10"), cifar_cases),
    "prepared": Reader(lambda folder: data.load("flowers_images", data_dir=folder), prepared_cases),
    "prepared as tfrecord": Reader(lambda folder: data.load("flowers_images", data_dir=folder), tfrecord_cases),
    "celeba's photographs": Reader(
        lambda folder: celeba.face(("a.jpg", (folder / "a.jpg").read_bytes()), (64, 64)), face_cases
    ),
    "weights.npz": Reader(
        lambda folder: inception_weights.load_weights(folder / "a.npz", 64),
        weights_cases,
        (inception_weights.InceptionWeightsError,),
    ),
    "weights.pth": Reader(load_torch, torch_cases, (inception_weights.InceptionWeightsError,)),
    "features": Reader(
        lambda folder: feature_cache.load_features(folder / "a.npz", IDENTITY),
        features_cases,
        (feature_cache.FeaturesError,),
    ),
    "config.json": Reader(run_folder.read_config, config_cases, (run_folder.RunError, ConfigError)),
    "metrics.jsonl": Reader(lambda folder: read_metrics(folder / "metrics.jsonl"), metrics_cases, (ValueError,)),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")  # users do not turn warnings into errors
def test_damaged_files_are_read_or_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "ROWS", 10)
    reader, counts = READERS[name], collections.Counter()
    cases = {case.name: case for case in reader.cases(tmp_path)}

    def message(case, content):
        case.write(content)
        return message_of(lambda: reader.read(tmp_path), reader.errors, reader.mebibytes)

    for case in cases.values():
        assert message(case, case.content) is None, case.name

    def run(name, mutations):
        case = cases[name]
        counts[
            "refused" if message(case, functools.reduce(lambda old, new: new(old), mutations, case.content)) else "read"
        ] += 1
        case.write(case.content)

    fuzzed(run, list(cases))
    assert counts.total() >= NUM
    assert counts["refused"] > 0


ODD = ["null", "true", "-1", "0.5", "1e400", "NaN", str(2**70), '"x"', '"\\ud800"', "[]", "{}"]


def test_odd_settings_are_accepted_or_refused_in_one_line(tmp_path):
    settings = {name: json.dumps(value) for name, value in TrainConfig().flat().items()}
    refused = 0
    for name, odd in itertools.product(settings, ODD):
        listed = ", ".join(f'"{key}": {odd if key == name else value}' for key, value in settings.items())
        (tmp_path / "config.json").write_text(f'{{"config": {{{listed}}}}}')
        refused += message_of(lambda: run_folder.read_config(tmp_path), READERS["config.json"].errors) is not None
    for content in (*ODD, *(f'{{"config": {odd}}}' for odd in ODD[:-1])):
        (tmp_path / "config.json").write_text(content)
        assert message_of(lambda: run_folder.read_config(tmp_path), READERS["config.json"].errors)
    assert refused > len(settings)


# Files made to do harm


def deflated_zeros(mebibytes):
    """Many MiB of zeros, deflated to a thousandth of their size, without a header."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return block * mebibytes + b"\x03\x00"


def write_bomb(path, names, begin=b"", mebibytes=512, method=zipfile.ZIP_DEFLATED, claim=None):
    """Write a zip file whose members are some bytes and then zeros; `claim` replaces their true size in the headers."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(begin) + deflate.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(mebibytes)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, packed)
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):  # the method, and 14 bytes on the true size
        for match in re.finditer(re.escape(signature), bytes(content)):
            struct.pack_into("<H", content, match.start() + at, method)
            struct.pack_into("<I", content, match.start() + at + 14, claim or (mebibytes << 20) + len(begin))
    path.write_bytes(content)


def npy_header(shape, descr="|u1", version=(1, 0)):
    stream = io.BytesIO()
    write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    write(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


SHAPES = {"images": (8192, 256, 256, 1), "videos": (8192, 1, 256, 256, 1)}  # 512 MiB


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    ("begin", "options"),
    [
        (npy_header, {}),
        (npy_header, {"mebibytes": 1, "claim": 2**32 - 2}),
        (lambda shape: npy_header((200, *shape[1:])), {}),
        (lambda shape: npy_header((10**12, *shape[1:])), {"mebibytes": 1}),
        (lambda shape: npy_header((-1, *shape[1:])), {"mebibytes": 1}),
        (lambda shape: npy_header((2**70, 0, *shape[2:])), {"mebibytes": 1}),
        (lambda shape: b"\x93NUMPY\x02\x00" + struct.pack("<I", 500 << 20), {}),
        (lambda shape: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1), {"mebibytes": 1}),
        (npy_header, {"method": zipfile.ZIP_BZIP2}),
        (npy_header, {"method": zipfile.ZIP_LZMA}),
    ],
    ids=["zeros", "claim", "more", "header", "negative", "overflow", "long header", "longer", "bzip2", "lzma"],
)
def test_npz_files_that_inflate_are_refused_by_their_headers(kind, begin, options, tmp_path):
    path = tmp_path / "a.npz"
    write_bomb(path, ["train.npy", "test.npy"], begin(SHAPES[kind]), **options)
    message = message_of(lambda: data.load(str(path)), DataError)
    assert message is not None
    assert options.get("method") is None or "packed in a way that NumPy does not write" in message
    with limited():
        assert not data.is_video_source(str(path)) or kind == "videos"


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_weights_and_features_that_inflate_are_refused_by_their_headers(method, tmp_path):
    path, header = tmp_path / "a.npz", npy_header((1 << 27,), "<f4")
    write_bomb(path, ["weights_conv.npy", "bias_conv.npy"], header, method=method)
    assert message_of(lambda: inception_weights.load_weights(path, 64), inception_weights.InceptionWeightsError)
    write_bomb(path, ["features.npy", "identity.npy"], header, method=method)
    assert message_of(lambda: feature_cache.load_features(path, IDENTITY), feature_cache.FeaturesError)
    feature_cache.save_features(path, np.zeros((20, 6), np.float32), IDENTITY)
    with zipfile.ZipFile(path) as archive:
        identity = archive.read("identity.npy")
    write_bomb(path, ["features.npy"], header, method=method)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("identity.npy", identity)
    message = message_of(lambda: feature_cache.load_features(path, IDENTITY), feature_cache.FeaturesError)
    assert message is not None
    assert "features" in message


def picture(kind, width, height):
    """A picture whose header claims that size."""
    stream = io.BytesIO()
    Image.fromarray(images(1)[0]).save(stream, format=kind)
    content = bytearray(stream.getvalue())
    if kind == "PNG":
        struct.pack_into(">2I", content, 16, width, height)
        return with_crcs(bytes(content))
    if kind == "PPM":
        return bytes(content).replace(b"8 8", f"{width} {height}".encode())
    struct.pack_into(*{"GIF": ("<2H", content, 6), "BMP": ("<2i", content, 18)}[kind], width, height)
    return bytes(content)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "PPM"])
@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 10_000)], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_pictures_too_large_are_refused_by_their_headers(kind, size, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(picture(kind, *size))
    message = message_of(lambda: data.load(str(tmp_path), image_size=8), DataError)
    assert message is not None
    assert "exceeds limit" in message


def gzipped_zeros(mebibytes, begin=b""):
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflate.compress(begin) + deflate.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\2\xff" + packed + deflated_zeros(mebibytes) + bytes(8)


@pytest.mark.parametrize("shape", [(-2, 1, 1), (-2, -2, 784), (2**31 - 1,) * 3, (2**20, 28, 28), (0, 0, 0)], ids=str)
def test_idx_files_that_inflate_are_refused_by_their_headers(shape, tmp_path):
    for name in mnist.ORIGINAL.remotes:
        (tmp_path / name).write_bytes(gzipped_zeros(1024, struct.pack(">4i", 2051, *shape)))
    assert message_of(lambda: data.load("mnist", data_dir=tmp_path, download=False), DataError)


def tar_header(name, size, kind=b"0"):
    """A header in GNU format, in which sizes may be negative."""
    info = tarfile.TarInfo(name)
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (size % (1 << 96) | (0 if size < 0 else 1 << 95)).to_bytes(12, "big")
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:512]))
    return bytes(header)


@pytest.mark.parametrize(
    "begin",
    [
        b"",
        tar_header("data_batch_1.bin", 1 << 40),
        tar_header("data_batch_1.bin", -512),
        tar_header("readme.html", -1024) * 4,
        tar_header("././@LongLink", 1 << 40, b"L"),
        tar_header("pax", 1 << 40, b"x"),
        tar_header("pax", -512, b"x") * 3000,
        tar_header("data_batch_1.bin", 512, b"S"),
        tar_header("data_batch_1.bin", 0, b"1"),
    ],
    ids=["zeros", "large", "negative", "backwards", "long name", "pax", "chain", "sparse", "link"],
)
def test_tar_archives_that_inflate_or_loop_are_refused(begin, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "MAX_BYTES", 16 << 20)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(gzipped_zeros(1024, begin))
    assert message_of(lambda: data.load("cifar10", data_dir=tmp_path, download=False), DataError)


def part(order, kind, content, size=None):
    """An element of a MATLAB file."""
    tag = struct.pack(f"{order}2I", kind, len(content) if size is None else size)
    return tag + content + bytes(-len(content) % 8)


def matrix(order, name, shape, content, size=None):
    inside = part(order, 6, struct.pack(f"{order}2I", 9, 0)) + part(
        order, 5, struct.pack(f"{order}{len(shape)}i", *shape)
    )
    inside += part(order, 1, name) + part(order, 2, content, size)
    return part(order, 14, inside)


def mat_header(order):
    return b"MATLAB 5.0".ljust(124) + struct.pack(f"{order}2H", 0x0100, 0x4D49)


@pytest.mark.parametrize("order", "<>")
def test_matlab_files_are_read_as_scipy_reads_them(order, tmp_path):
    path, name = tmp_path / "a.mat", "X"
    for shape in ((5, 1), (3, 4), (2, 3, 4, 5), (1, 3)):
        array = images(1, shape)[0]
        whole = matrix(order, b"other", (2, 2), bytes(4)) + matrix(order, b"X", shape, array.tobytes("F"))
        path.write_bytes(mat_header(order) + whole)
        np.testing.assert_array_equal(read_uint8(path, name, array.shape), array)
        np.testing.assert_array_equal(loadmat(path)[name], array)
        for compress in (True, False):
            savemat(path, {"label": np.ones(3), name: array}, do_compression=compress)
            np.testing.assert_array_equal(read_uint8(path, name, array.shape), array)
        with pytest.raises(DataError, match=r"expected \(9, N\)"):
            read_uint8(path, name, (9, None))
        with pytest.raises(DataError, match="absent"):
            read_uint8(path, "absent", array.shape)
    for other in (array * 1.0, array * 1j, ["text"], {"a": array}):
        savemat(path, {name: other})
        with pytest.raises(DataError, match="no array of uint8"):
            read_uint8(path, name, array.shape)


def test_a_flipped_bit_in_a_compressed_matlab_file_never_changes_an_image_silently(tmp_path):
    path, array = tmp_path / "a.mat", images(1, (7, 9))[0]
    savemat(path, {"X": array}, do_compression=True)
    whole = path.read_bytes()
    for at in range(128, len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with contextlib.suppress(DataError):
                np.testing.assert_array_equal(read_uint8(path, "X", array.shape), array)


def compressed(content, mebibytes=1024):
    """An element with that content followed by zeros."""
    deflate = zlib.compressobj(9)
    packed = deflate.compress(content) + deflate.flush(zlib.Z_FULL_FLUSH) + deflated_zeros(mebibytes)
    return part("<", 15, packed)


FLAGS, DIMENSIONS = part("<", 6, struct.pack("<2I", 9, 0)), part("<", 5, struct.pack("<2i", 560, 1965))


@pytest.mark.parametrize(
    "content",
    [
        compressed(part("<", 14, b"", 2**32 - 1) + FLAGS + DIMENSIONS + part("<", 1, b"", 1000 << 20)),
        compressed(part("<", 14, b"", 2**32 - 1) + FLAGS + part("<", 5, b"", 1000 << 20)),
        compressed(matrix("<", b"ff", (1 << 15, 1 << 15), b"", 1 << 30)[:-8]),
        compressed(matrix("<", b"ff", (560, 1965), b"", 1000 << 20)[:-8]),
        matrix("<", b"ff", (560, 1965), b"", 2**32 - 1),
        matrix("<", b"ff", (-560, -1965), b"", 560 * 1965),
        part("<", 14, b"", 0) * 1000,
        b"".join(compressed(part("<", 14, b"", 8), 1) for _ in range(100)),
    ],
    ids=["name", "dimensions", "shape", "size", "short", "negative", "empty", "many"],
)
def test_matlab_files_that_inflate_are_refused_by_their_headers(content, tmp_path):
    (tmp_path / "frey_rawface.mat").write_bytes(mat_header("<") + content)
    assert message_of(lambda: data.load("frey_face", data_dir=tmp_path, download=False), DataError)


def test_a_matlab_file_that_crashes_scipy_is_refused(tmp_path):
    """It has an unknown type of element, which SciPy 1.17 looks up beyond the end of a table."""
    content = bytearray(mat_header("<") + matrix("<", b"ff", (560, 1965), bytes(560 * 1965)))
    content[content.index(b"ff") + 9] = 0xFF
    (tmp_path / "frey_rawface.mat").write_bytes(content)
    message = message_of(lambda: data.load("frey_face", data_dir=tmp_path, download=False), DataError)
    assert message is not None
    assert "an element has type 65282" in message
