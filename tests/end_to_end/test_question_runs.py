"""The questions at full length on tiny data: their runs, files and answers."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import question_calibrated, question_test_sigma


@pytest.fixture(autouse=True)
def tiny(tmp_path, monkeypatch):
    """The folder of the images `tiny.npz`, whose test images are far from those of training."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    pixels = np.clip(128 + 30 * rng.normal(size=(280, 8, 8, 3)), 0, 255).astype(np.uint8)
    np.savez("tiny.npz", train=pixels[:240], test=pixels[240:] // 2)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


def test_what_each_sigma_costs(monkeypatch):
    argv = ["--data", "tiny.npz", "--epochs", "2", "--seeds", "1"]
    assert question_test_sigma.main(argv) == 0
    folder = Path("runs/paper/question-test-sigma")
    names = {"answer.md", "question-test-sigma.png", "question-test-sigma.svg", "provenance.json"}
    assert {path.name for path in folder.iterdir()} == names
    text = (folder / "answer.md").read_text(encoding="utf-8")
    assert text.startswith(
        "# Whose σ at test time?\n\ntiny, the first 90% of its training images: 216 training and 40 test"
    )
    (record,) = json.loads((folder / "provenance.json").read_text())["runs"]
    found = record["question-test-sigma"]
    # The run's own average and calibration, as the run itself reports them.
    assert found["sigma"]["decay 0.99"] == pytest.approx(record["test"]["running average"]["sigma"], rel=1e-5)
    assert found["sigma"]["train"] == pytest.approx(record["test"]["calibrated"]["sigma"], rel=1e-5)
    assert found["mse"]["test"] == pytest.approx(record["test"]["running average"]["mse"], rel=1e-5)
    distortions = [record["test"][name]["distortion"] for name in ("running average", "calibrated")]
    difference = found["cost"]["decay 0.99"] - found["cost"]["train"]
    assert difference == pytest.approx(distortions[0] - distortions[1], abs=1e-3 * abs(distortions[0]))
    assert found["cost"]["batch"] == pytest.approx(0, abs=1e-9)  # one batch
    monkeypatch.setattr(question_test_sigma, "nats", None)  # nothing is measured twice
    assert question_test_sigma.main(argv) == 0


def test_what_is_calibrated():
    names = ["optimal-sigma", "discretized-gaussian"]
    assert question_calibrated.main(["--data", "tiny.npz", "--epochs", "1", "--seeds", "1", "--only", *names]) == 0
    folder = Path("runs/paper/question-calibrated")
    names = {"answer.md", "question-calibrated.png", "question-calibrated.svg", "provenance.json"}
    assert {path.name for path in folder.iterdir()} == names
    optimal, discretized = json.loads((folder / "provenance.json").read_text())["runs"]
    for run in (optimal, discretized):
        shares = list(run["question-calibrated"]["pixel"]["coverage"].values())
        assert shares == sorted(shares)
    assert "covariance gain" in optimal["question-calibrated"]
    text = (folder / "answer.md").read_text(encoding="utf-8")
    share = 100 * optimal["question-calibrated"]["pixel"]["coverage"]["0.9"]
    assert f"| {share:.1f} |" in text
