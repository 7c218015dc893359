"""FID and KID of a run: cached features of the images, `--fid-images`, and the download of the weights."""

import hashlib
import http.server
import json

import jax
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from calibrax import cli
from calibrax.data.download import Remote
from calibrax.evaluation.metric import Subject, plain
from calibrax.evaluation.metrics import fid, inception, inception_weights
from calibrax.runs import evaluate as measure
from calibrax.runs.config import ConfigError
from calibrax.runs.run import Run

QUICK = ["--importance-samples", "0", "--calibration-draws", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fid")
    pixels = np.random.default_rng(0).integers(0, 256, (26, 8, 8, 3), dtype=np.uint8)
    np.savez(path / "tiny.npz", train=pixels[:16], test=pixels[16:])
    arguments = ["train", "--data", str(path / "tiny.npz"), "--run-dir", str(path / "run")]
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        assert cli.main([*arguments, "--epochs", "1", "--batch-size", "16"]) == 0
    return path / "run"


@pytest.fixture(autouse=True)
def network(tmp_path, monkeypatch):
    """Replace Inception by three layers of random weights. Returns the number of images in each pass through it."""
    rng = np.random.default_rng(0)
    layers = {
        name: {"kernel": rng.normal(size=shape).astype(np.float32) / 9, "bias": np.zeros(shape[-1], np.float32)}
        for name, shape in inception.parameter_shapes(64).items()
    }
    counts, features = [], inception.features

    def counted(params, images, **options):
        counts.append(len(images))
        return features(params, images, **options)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fid, "feature_of", lambda weights: 64)
    monkeypatch.setattr(inception_weights, "load_weights", lambda path, feature: unflatten_dict(layers, sep="."))
    monkeypatch.setattr(inception, "features", counted)
    return counts


def assert_one_line(capsys, code, match):
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(lines) == 1, lines
    assert match in lines[0]


def test_a_second_evaluation_computes_features_only_of_the_samples(folder, network, tmp_path, capsys):
    arguments = ["evaluate", str(folder), "--inception", "some.npz", *QUICK]
    records = []
    for _ in range(2):
        assert cli.main(arguments) == 0
        records.append(json.loads((folder / "results.json").read_text())["fid"])
    assert network == [10, 10, 10]
    assert records[0] == records[1]
    assert (records[0]["fid"]["num_a"], records[0]["fid"]["num_b"]) == (10, 10)
    assert records[0]["note"] is None
    (kept,) = (tmp_path / "calibrax" / "fid").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:2000] + bytes([whole[2000] ^ 1]) + whole[2001:])
    capsys.readouterr()
    assert cli.main(arguments) == 0
    record = json.loads((folder / "results.json").read_text())["fid"]
    assert record["note"].endswith("computed anew")
    assert f"note: {kept} cannot be read as features" in capsys.readouterr().out
    assert {**record, "note": None} == records[0]
    assert network[3:] == [10, 10]


def test_fid_images_takes_the_first_images(folder, network, tmp_path, capsys, monkeypatch):
    code = cli.main(["evaluate", str(folder), "--inception", "some.npz", "--fid-images", "6", *QUICK])
    assert code == 0
    assert "(6 images, 6 samples)" in capsys.readouterr().out
    assert network == [6, 6]
    opened = Run.open(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    subject = Subject(opened.trained(), opened.test[:6], opened.eval_key, 256, None, folder, "", "")
    expected = fid.METRIC.measure(fid.FidOptions("some.npz"), subject)
    assert json.loads((folder / "results.json").read_text())["fid"] == plain(expected)
    assert len(list((tmp_path / "other" / "calibrax" / "fid").iterdir())) == 1


def test_wrong_numbers_of_images_are_reported_in_one_line(folder, network, capsys):
    before = (folder / "results.json").read_bytes()
    for number, match in (
        ("3", "--fid-images is 3; expected 0, or 4 to 10, the test images"),
        ("-1", "--fid-images is -1; expected 0, or 4 to 10, the test images"),
        ("11", "--fid-images is 11; expected 0, or 4 to 10, the test images"),
    ):
        capsys.readouterr()
        arguments = ["evaluate", str(folder), "--inception", "some.npz", "--fid-images", number]
        assert_one_line(capsys, cli.main(arguments), match)
    assert network == []
    assert (folder / "results.json").read_bytes() == before


CONTENT = b"weights" * 1000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        body = {"/right": CONTENT, "/wrong": CONTENT[::-1]}[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(serve):
    httpd = serve(Handler)
    httpd.asked = []
    return httpd


def remote(server, path):
    url = f"http://127.0.0.1:{server.server_port}{path}"
    return Remote(url, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_weights_are_downloaded_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "INCEPTION", remote(server, "/right"))
    for _ in range(2):
        path = measure.weights_file("download")
        assert path == str(tmp_path / "calibrax" / "fid" / "pt_inception-2015-12-05-6726825d.pth")
        with open(path, "rb") as file:
            assert file.read() == CONTENT
    assert server.asked == ["/right"]
    assert measure.weights_file("some.npz") == "some.npz"


def test_a_download_with_the_wrong_content_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "INCEPTION", remote(server, "/wrong"))
    with pytest.raises(ConfigError, match=r"^--inception download: http.* is not the file it should be: .*FILE"):
        measure.weights_file("download")
    assert not list(tmp_path.rglob("*.pth"))


def test_a_failed_download_is_reported_in_one_line_before_any_measurement(
    folder, network, server, tmp_path, monkeypatch, capsys
):
    before = (folder / "results.json").read_bytes()
    (tmp_path / "file").write_text("")
    for cache, source, match in (
        (tmp_path, Remote("http://127.0.0.1:9/w.pth", sha256="0" * 64), "http://127.0.0.1:9/w.pth cannot be fetched"),
        (tmp_path / "file", remote(server, "/right"), "cannot be fetched: [Errno 20] Not a directory"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        monkeypatch.setattr(measure, "INCEPTION", source)
        capsys.readouterr()
        assert_one_line(capsys, cli.main(["evaluate", str(folder), "--inception", "download"]), match)
    assert network == []
    assert (folder / "results.json").read_bytes() == before


def test_the_published_file_is_named_after_its_checksum():
    assert measure.INCEPTION.sha256 is not None
    assert len(measure.INCEPTION.sha256) == 64
    assert f"-{measure.INCEPTION.sha256[:8]}.pth" in measure.INCEPTION.url
