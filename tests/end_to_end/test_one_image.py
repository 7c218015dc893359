"""A run on one training image and one test image: what has no standard error is null in JSON and a dash in tables."""

import json
import re

import jax
import numpy as np
import pytest
from tiny_runs import assert_one_line

from calibrax import cli
from calibrax.training import read_metrics


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


def assert_strict(folder):
    for path in (folder / "config.json", folder / "results.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_one_image_has_null_in_json_and_a_dash_in_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    np.savez("one.npz", train=image, test=image)
    folder = tmp_path / "run"
    assert cli.main(["train", "--data", "one.npz", "--run-dir", "run", "--epochs", "1", "--batch-size", "1"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  standard error +- +- +-$", out, re.MULTILINE)
    assert_strict(folder)
    assert read_metrics(folder / "metrics.jsonl")[-1]["neg_elbo_stderr"] is None
    assert cli.main(["evaluate", "run", "--importance-samples", "2", "--calibration-draws", "9"]) == 0
    out += capsys.readouterr().out
    assert_strict(folder)
    results = json.loads((folder / "results.json").read_text())
    assert results["test"]["running average"]["neg_elbo_stderr"] is None
    assert np.isfinite(results["test"]["running average"]["neg_elbo"])
    assert results["importance"]["stderr"] is None
    assert results["calibration"]["coverage"]["0.95"]["stderr_by_example"] is None
    assert results["reconstruction"]["stderr"] is None
    assert re.search(r"^-log p, 2 importance samples: -?[\d.]+ nats$", out, re.MULTILINE)
    assert re.search(r"^coverage of central intervals: 50% holds [\d.]+ %, 80% holds [\d.]+ %", out, re.MULTILINE)
    assert re.search(r"^reconstructions: PSNR [\d.]+ dB \(1 images", out, re.MULTILINE)
    assert cli.main(["compare", "run"]) == 0
    out += capsys.readouterr().out
    assert not re.search(r"\b(nan|inf)\b", out)
    # Results of an earlier version, which wrote NaN.
    text = (folder / "results.json").read_text()
    (folder / "results.json").write_text(text.replace("null", "NaN").replace('"layer_kls": NaN', '"layer_kls": null'))
    assert cli.main(["compare", "run"]) == 0
    assert not re.search(r"\b(nan|inf)\b", capsys.readouterr().out)
    args = ["evaluate", "run", "--inception", "weights.npz"]
    assert_one_line(
        capsys, cli.main(args), "--inception: 1 test images are too few for FID and KID; expected at least 4"
    )
