"""Files that try to run code, import modules or write elsewhere have no effect and are refused in one line.

While they are read, an audit hook records the programs, modules and files that any code in the process opens.
"""

import builtins
import contextlib
import io
import json
import os
import pickle
import pickletools
import sys
import tarfile
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_inception import pickled_state, write_published

from calibrax import cli, data
from calibrax.data import DataError
from calibrax.data import tfds_cache as prepared
from calibrax.data.datasets import cifar10
from calibrax.data.download import file_sha256
from calibrax.evaluation.metrics import feature_cache, inception_weights
from calibrax.evaluation.metrics.inception_weights import InceptionWeightsError
from calibrax.training import Checkpoints, DamagedCheckpoint, TrainState, read_metrics
from calibrax.training.manifest import write_manifest

PROGRAMS = "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.fork", "subprocess.Popen"
EVENTS = {*PROGRAMS, "import", "open", "exec", "pickle.find_class", "socket.connect"}
HARMFUL = "harmful_module"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watch = []  # (folder, list of events) of the active `watched` block


def _hook(event, args):
    if not _watch or event not in EVENTS:
        return
    folder, seen = _watch[-1]
    if event == "import" and HARMFUL not in str(args[0]):
        return
    if event == "exec" and str(folder) not in getattr(args[0], "co_filename", ""):
        return
    if event == "open":
        path, flags = args[0], args[2]
        if not flags & WRITING or not isinstance(path, str | bytes):
            return
        path = os.path.abspath(os.fsdecode(path))
        if path.startswith((str(folder), "/dev/", "/proc/")) or "__pycache__" in path:
            return
        args = path, flags
    if event == "pickle.find_class" and args in ALLOWED:
        return
    seen.append((event, *map(str, args)))


ALLOWED = {  # names in Inception's file, which are looked up in a table and not imported
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch", "FloatStorage"),
    ("torch", "LongStorage"),
}


@pytest.fixture(scope="module", autouse=True)
def hook():
    sys.addaudithook(_hook)


@pytest.fixture
def harmless(tmp_path, monkeypatch):
    """`harmless(read, errors)` asserts that `read` raises one of the errors, in one line, and has no other effect."""
    folder = tmp_path / "inside"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / f"{HARMFUL}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(folder)

    def harmless(read, errors, words=""):
        outside = set(tmp_path.rglob("*"))
        with watched(folder) as seen, pytest.raises(errors) as caught:
            read()
        assert seen == []
        assert "\n" not in str(caught.value)
        assert words in str(caught.value)
        assert {path for path in tmp_path.rglob("*") if folder not in path.parents} <= outside
        assert HARMFUL not in sys.modules

    harmless.folder, harmless.ran = folder, tmp_path / "ran"
    return harmless


@contextlib.contextmanager
def watched(folder):
    _watch.append((folder, []))
    try:
        yield _watch[-1][1]
    finally:
        _watch.pop()


class Call:
    """An object that calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self._call = function, args

    def __reduce__(self):
        return self._call


def attacks(marker):
    """Pickles that create a file or import a module when loaded with `pickle.loads`."""
    touch, line = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    text = [f"c{HARMFUL}\nanything\n.", f"(S{line!r}\ni{builtins.__name__}\neval\n.", f"(cos\nsystem\nS{touch!r}\no."]
    yield from (pickle.dumps(Call(os.system, touch), protocol) for protocol in range(6))
    yield from (pickle.dumps(Call(eval, line), protocol) for protocol in (0, 2, 4))
    yield pickle.dumps(Call(Path.touch, Path(marker)), 4)
    yield pickle.dumps(Call(getattr(builtins, "exec"), line), 2)  # noqa: B009
    yield pickle.dumps([1, {"weight": Call(os.system, touch)}], 2)
    yield pickle.dumps(Call(__import__, HARMFUL), 2)
    yield from (opcodes.encode() for opcodes in text)


NUM_ATTACKS = len(list(attacks("x")))


def is_dangerous(pickled):
    """True if Python's own unpickler would look up a global."""
    return any(op.name in ("GLOBAL", "STACK_GLOBAL", "INST") for op, _, _ in pickletools.genops(pickled))


def images(num):
    return np.random.default_rng(0).integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)


def test_the_audit_hook_records_programs_imports_and_writes(tmp_path, monkeypatch):
    (tmp_path / f"{HARMFUL}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    marker, elsewhere = tmp_path / "ran", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with watched(elsewhere) as seen:
        pickle.loads(pickle.dumps(Call(os.system, f"touch {marker}")))
        __import__(HARMFUL)
        (tmp_path / "file").write_text("")
    assert marker.exists()
    del sys.modules[HARMFUL]
    assert {event for event, *_ in seen} == {"pickle.find_class", "os.system", "import", "open"}


@pytest.mark.parametrize("number", range(NUM_ATTACKS))
def test_pickles_in_npz_files_are_not_loaded(number, harmless):
    attack = list(attacks(harmless.ran))[number]
    assert is_dangerous(attack)
    path, header = harmless.folder / "a.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (32,)})
    identity = feature_cache.features_identity(images(32), feature=6, weights="abc")
    splits, weights, features = ("train", "test"), ("weights_conv", "bias_conv"), ("features", "identity")
    for names, reader, error in [
        (splits, data.load, DataError),
        (weights, lambda path: inception_weights.load_weights(path, 64), InceptionWeightsError),
        (features, lambda path: feature_cache.load_features(Path(path), identity), feature_cache.FeaturesError),
    ]:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(f"{name}.npy", header.getvalue() + attack)
        harmless(lambda reader=reader: reader(str(path)), error)
    path.write_bytes(attack)  # np.load treats such a file as a pickle
    harmless(lambda: data.load(str(path)), DataError)


@pytest.mark.parametrize("number", range(NUM_ATTACKS))
def test_pickles_in_weights_run_no_code(number, harmless, monkeypatch):
    attack, path = list(attacks(harmless.ran))[number], harmless.folder / "a.pth"
    write_published(path, {}, pickled=attack)

    def load():
        return inception_weights.load_weights(path, 64)

    harmless(load, InceptionWeightsError, "SHA-256 is")
    monkeypatch.setattr(inception_weights, "WEIGHTS_SHA256", file_sha256(path))
    with watched(harmless.folder) as seen, pytest.raises(InceptionWeightsError):
        load()
    assert not harmless.ran.exists()
    assert HARMFUL not in sys.modules
    assert {event for event, *_ in seen} <= {"pickle.find_class"}  # requested, and refused


def test_tensors_in_weights_are_still_read(harmless, monkeypatch):
    state = {"a": np.ones((2, 3), np.float32)}
    write_published(harmless.folder / "a.pth", state, pickled=pickled_state(state))
    with watched(harmless.folder) as seen:
        tensors = inception_weights._read_torch(harmless.folder / "a.pth")
    np.testing.assert_array_equal(tensors.array("a", (2, 3)), 1)
    assert seen == []


def link(kind):
    def member(name, target):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, str(target)
        return info

    return member


@pytest.mark.parametrize("where", ["../../{}", "{outside}/{}", "a/../../../{}"])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_tar_archives_write_nothing(where, kind, harmless):
    """The members have the expected names with a path outside the folder; links also point outside."""
    folder, outside = harmless.folder, harmless.folder.parent
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as archive:
        for name in (*cifar10.TRAIN, cifar10.TEST, "evil"):
            info = tarfile.TarInfo(where.format(name, outside=outside))
            info.type, info.linkname, info.mode = kind, str(outside / "target"), 0o4777
            content = b"x" * 3073 if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    harmless(lambda: data.load("cifar10", data_dir=folder, download=False), DataError, "cannot be read")


@pytest.mark.parametrize("where", ["../../{}", "{outside}/{}", "img_align_celeba/../../../{}"])
def test_zip_archives_write_nothing(where, harmless):
    folder, stream = harmless.folder, io.BytesIO()
    Image.fromarray(np.zeros((218, 178, 3), np.uint8)).save(stream, format="JPEG")
    names = [f"{number:06d}.jpg" for number in range(1, 4)]
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {i}\n" for i, n in enumerate(names)))
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for name in names:
            archive.writestr(where.format(name, outside=folder.parent), stream.getvalue())
    before = set(folder.parent.rglob("*"))
    with watched(folder) as seen:
        try:
            assert len(data.load("celeba", data_dir=folder, image_size=8).train) == 1
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
    assert seen == []
    assert {path for path in folder.parent.rglob("*") if folder not in path.parents} <= before


def test_paths_in_celeba_s_partition_file_are_not_followed(harmless):
    folder = harmless.folder
    (folder.parent / "secret.jpg").write_bytes(b"secret")
    (folder / "img_align_celeba").mkdir()
    for name in ("../../secret.jpg", str(folder.parent / "secret.jpg")):
        (folder / "list_eval_partition.txt").write_text(f"{name} 0\n{name} 1\n{name} 2\n")
        harmless(lambda: data.load("celeba", data_dir=folder, image_size=8), DataError)


CODE = [
    "os.system",
    "os:system",
    f"{HARMFUL}.Model",
    f"{HARMFUL}:Model",
    f"__import__('{HARMFUL}')",
    f"!!python/object/apply:{HARMFUL}.f []",
    "${jndi:ldap://127.0.0.1/a}",
    f"py://{HARMFUL}",
    "; touch ../ran",
    "$(touch ../ran)",
    "../../ran",
]


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("field", ["likelihood", "model", "data", "objective", "parallel", "__class__", "py/object"])
def test_settings_cannot_name_code(name, field, harmless):
    folder = harmless.folder / "run"
    folder.mkdir()
    settings = {"data": "nothing.npz", "model": "conv-vae", "likelihood": "gaussian"}
    for content in ({"config": settings | {field: name}}, {"config": {field: name}}, {field: name}):
        (folder / "config.json").write_text(json.dumps(content))
        with watched(harmless.folder) as seen:
            for args in (["sample", str(folder)], ["train", "--resume", "--run-dir", str(folder)]):
                assert cli.main(args) == 2
            for value in (name, f"{folder}/config.json:{name}"):
                assert cli.main(["train", "--from", value]) == 2
        assert seen == []
    assert not harmless.ran.exists()
    assert HARMFUL not in sys.modules
    assert sorted(path.name for path in harmless.folder.iterdir()) == [f"{HARMFUL}.py", "run"]


@pytest.mark.parametrize("name", CODE)
def test_names_of_data_import_nothing(name, harmless):
    """TFDS's own `load` would import `my_module/my_dataset`."""
    folder = harmless.folder
    for source in (name, f"{HARMFUL}/x", f"huggingface:{name}", f"{HARMFUL}.Builder/config:1.0.0"):
        harmless(lambda source=source: data.load(source, data_dir=folder, download=False), DataError)


def state_of(value):
    return TrainState(jnp.asarray(1, jnp.int32), {"model": {"kernel": jnp.full((2, 3), value)}}, (), (), None)


@pytest.mark.parametrize("whole", [False, True], ids=["old manifest", "matching manifest"])
def test_checkpoints_cannot_name_code(whole, harmless):
    folder = harmless.folder / "checkpoints"
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
        checkpoints.save(state_of(1.5), seed=0, steps_per_epoch=10)
    (step,) = (path for path in folder.iterdir() if path.is_dir())
    metadata = [path for path in step.rglob("*") if path.is_file() and path.read_bytes()[:1] == b"{"]
    for path in metadata:
        text = path.read_text()
        for word in ("jax.Array", "np.ndarray", "TrainState", "orbax.checkpoint", "NamedTuple", "dict"):
            text = text.replace(word, f"{HARMFUL}.Evil")
        path.write_text(text)
    assert any(HARMFUL in path.read_text() for path in metadata)
    for attack in attacks(harmless.ran):
        for path in (step / "extra.pkl", *(path for path in step.rglob("*") if path.name == "_sharding")):
            path.write_bytes(attack)
        if whole:
            write_manifest(step)
        abstract = state_of(0.0)
        with watched(harmless.folder) as seen, contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
            try:
                restored = checkpoints.restore(abstract)
                assert whole
                np.testing.assert_array_equal(restored.params["model"]["kernel"], 1.5)
            except DamagedCheckpoint as error:
                assert "\n" not in str(error)  # noqa: PT017
        assert seen == []
    assert not harmless.ran.exists()


@pytest.mark.parametrize("layout", ["proto", "legacy", "nested"])
def test_features_of_prepared_data_import_no_module(layout, harmless):
    folder = harmless.folder / "data"
    prepared.prepare("flowers", {"train": images(3), "test": images(2)}, folder, license="none")
    name, (path,) = f"{HARMFUL}.Feature", folder.rglob("features.json")
    own = json.loads(path.read_text())
    inner = {"type": name, "content": {}}
    content = {
        "proto": own | {"pythonClassName": name},
        "legacy": inner,
        "nested": {
            "pythonClassName": own["pythonClassName"],
            "jsonFeature": {"json": json.dumps({"image": inner})},
        },
    }[layout]
    path.write_text(json.dumps(content))
    harmless(lambda: data.load("flowers_images", data_dir=folder), DataError, f"asks for {name}")
    path.write_text(json.dumps(own))
    assert len(data.load("flowers_images", data_dir=folder).train) == 3


def test_postscript_with_another_suffix_is_not_run(harmless):
    for number in range(2):
        with (harmless.folder / f"{number}.png").open("wb") as stream:
            Image.fromarray(images(1)[0]).save(stream, format="EPS")
    harmless(lambda: data.load(str(harmless.folder), image_size=8), DataError, "is none of PNG, JPEG")


@pytest.mark.parametrize("line", [*CODE, '{"py/object": "harmful_module"'])
def test_a_log_runs_no_code(line, harmless):
    path = harmless.folder / "metrics.jsonl"
    path.write_text(line + "\n" + '{"split": "train", "step": 1}\n')
    harmless(lambda: read_metrics(path), ValueError)
