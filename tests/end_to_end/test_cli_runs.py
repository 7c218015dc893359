"""The command line on runs of a few steps, at length: options, damage, devices, other settings."""

import json
import shutil
import subprocess
import sys

import chex
import jax
import numpy as np
import pytest
from tiny_runs import assert_one_line, final_state, train_args, train_rows, write_images

from calibrax import cli
from calibrax.runs.run import Run
from calibrax.training import read_metrics


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "tiny.npz")


@pytest.mark.parametrize("likelihood", ["bernoulli", "pixel-sigma"])
def test_a_decoder_without_an_average_is_trained_and_has_no_calibrated_results(images, tmp_path, capsys, likelihood):
    folder = tmp_path / "run"
    assert cli.main(train_args(images, folder, "--likelihood", likelihood)) == 0
    assert "-ELBO (nats)" in capsys.readouterr().out
    assert [row["step"] for row in train_rows(folder)] == list(range(1, 10))
    assert json.loads((folder / "config.json").read_text())["config"]["likelihood"] == likelihood
    results = json.loads((folder / "results.json").read_text())
    assert np.isfinite(results["test"]["running average"]["neg_elbo"])
    assert "calibrated" not in results["test"]


def test_a_fraction_of_the_images_evaluated_every_other_epoch(images, tmp_path, capsys):
    folder = tmp_path / "run"
    assert cli.main(train_args(images, folder, "--fraction", "0.65", "--eval-every", "2")) == 0
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "test"] == [4, 6]  # the last epoch as well
    results = json.loads((folder / "results.json").read_text())
    assert results["train_examples"] == 32
    assert results["train"]["running average"]["num_examples"] == 32
    assert results["training"]["from_step"] == 0
    assert results["training"]["seconds"] > 0
    assert "the first 32 of 50 training images" in json.loads((folder / "config.json").read_text())["data"]["origin"]
    capsys.readouterr()
    out = tmp_path / "compared.svg"
    assert cli.main(["compare", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert out.exists()


def test_sigma_is_calibrated_on_the_images_that_training_left_out(images, tmp_path, capsys):
    folder, moved = tmp_path / "run", tmp_path / "moved.npz"
    assert cli.main(train_args(images, folder, "--fraction", "0.8")) == 0
    assert json.loads((folder / "results.json").read_text())["calibrated_on"] == "train"
    images.rename(moved)
    quick = ["--importance-samples", "0", "--calibration-draws", "0", "--data", str(moved)]
    capsys.readouterr()
    assert cli.main(["evaluate", str(folder), "--calibrate-on", "validation", *quick]) == 0
    assert "in the last column 40 of the 40 of training; calibrated on 10 of validation" in capsys.readouterr().out
    results = json.loads((folder / "results.json").read_text())
    assert results["calibrated_on"] == "validation"

    run = Run.open(folder, data=moved)
    trained = run.trained()

    def errors(pixels):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(run.eval_key, np.arange(len(pixels)))
        means = 1 / (1 + np.exp(-np.asarray(trained.outputs(pixels, keys), np.float64)))
        return np.square(pixels / 255 - means)

    with np.load(moved) as arrays:
        left_out, test = errors(arrays["train"][40:]), errors(arrays["test"])
    calibrated = results["test"]["calibrated"]
    assert calibrated["sigma"] == pytest.approx(np.sqrt(left_out.mean()), rel=1e-5)
    variance, (num, *event) = left_out.mean(), test.shape
    distortion = 0.5 * np.prod(event) * (np.log(2 * np.pi * variance) + test.mean() / variance)
    assert calibrated["distortion"] == pytest.approx(distortion, rel=1e-5)
    assert num == calibrated["num_examples"]


@pytest.mark.parametrize("parallel", ["pmap", "sharded"])
def test_parallel_runs_give_the_single_device_s_losses(images, tmp_path, parallel):
    """In the first epoch: later on Adam has amplified rounding. `test_parallel` compares 20 steps of SGD, to 1e-5."""
    cli.main(train_args(images, tmp_path / "one"))
    assert cli.main(train_args(images, tmp_path / "many", "--parallel", parallel)) == 0
    losses = [[row["loss"] for row in train_rows(tmp_path / name)[:3]] for name in ("one", "many")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(images, tmp_path, capsys):
    folder, whole = tmp_path / "damaged", tmp_path / "whole"
    cli.main(train_args(images, folder, "--save-every", "2"))
    shutil.copytree(folder, whole)
    newest, before = (int(path.name) for path in sorted((folder / "checkpoints").glob("[0-9]*"), reverse=True))
    largest = max((folder / "checkpoints" / str(newest)).rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--run-dir", str(folder)]) == 0
    assert f"calibrax: checkpoint {newest} is damaged" in (err := capsys.readouterr().err)
    assert f"1 bytes short); going back to {before}" in err
    chex.assert_trees_all_equal(final_state(folder), final_state(whole))
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(whole / "metrics.jsonl")
    metrics = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(b"\xff" + metrics)
    assert_one_line(capsys, cli.main(["train", "--resume", "--run-dir", str(folder)]), "line 1 is not a row of metrics")
    for path in (folder / "checkpoints").glob("[0-9]*/manifest.sha256"):
        path.unlink()
    assert_one_line(capsys, cli.main(["evaluate", str(folder)]), "no intact checkpoint in .*: checkpoint 9 is damaged")


def test_a_config_file_is_enough_to_run_again(images, tmp_path, capsys):
    first, config = tmp_path / "first", str(tmp_path / "first" / "config.json")
    cli.main(train_args(images, first, "--likelihood", "laplace", "--seed", "3"))
    again, other = tmp_path / "again", tmp_path / "other"
    assert cli.main(["train", "--from", config, "--run-dir", str(again)]) == 0
    chex.assert_trees_all_equal(final_state(first), final_state(again))
    assert (first / "metrics.jsonl").read_bytes() == (again / "metrics.jsonl").read_bytes()
    assert cli.main(["train", f"--from={config}", "--run-dir", str(other), "--epochs", "1", "--seed", "4"]) == 0
    saved = json.loads((other / "config.json").read_text())["config"]
    assert [saved[name] for name in ("likelihood", "epochs", "seed")] == ["laplace", 1, 4]
    capsys.readouterr()
    new = ["--run-dir", str(tmp_path / "new")]
    cases = [
        (["--from", "none.json", *new], "there is no file none.json; expected the config.json of a run"),
        (["--from", str(images), *new], "cannot read .*tiny.npz"),
        (["--from", config, "--run-dir", str(again), "--resume"], "--from begins a new run, and --resume resumes one"),
        (["--from", config, "--run-dir", str(again)], "already holds a run"),
    ]
    for args, match in cases:
        assert_one_line(capsys, cli.main(["train", *args]), match)
    np.savez(images, **{name: np.zeros((40, 8, 8, 3), np.uint8) for name in ("train", "test")})
    assert_one_line(capsys, cli.main(["train", "--from", config, *new]), "begun on data with train 50; tiny has 40")
    assert not (tmp_path / "new").exists()


def test_the_default_folder_is_a_new_one_each_time(images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert cli.main(["train", "--data", str(images), "--epochs", "1", "--batch-size", "16"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "tiny-optimal-sigma-seed0",
        "tiny-optimal-sigma-seed0-2",
    ]


WITHOUT = """
import sys
for name in ("tensorflow_datasets", "grain", "tyro", "tensorboardX", "tensorflow", "array_record"):
    sys.modules[name] = None
from calibrax.runs import TrainConfig, train
train(TrainConfig.for_model(data=sys.argv[1], run_dir=sys.argv[2], epochs=1, batch_size=16))
"""


def test_a_run_needs_neither_tfds_nor_grain_nor_tyro_nor_tensorboard(images, tmp_path):
    """As on an accelerator machine that holds JAX, Flax, optax, chex and orbax."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(images), str(tmp_path / "run")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "tensorboardX is not installed" in done.stderr
    assert (tmp_path / "run" / "results.json").exists()


def test_a_run_in_calls_of_several_steps_is_the_run(tmp_path):
    """5 steps a call, saved every 2 and at the ends of epochs of 3: calls of 1 and 2; then gone on with by ones.

    And the run with nothing said, whose calls take what two seconds have.
    """
    path = write_images(tmp_path / "images.npz")
    args = "--save-every", "2", "--eval-every", "2"
    assert cli.main([*train_args(path, tmp_path / "plain"), *args, "--epochs", "2"]) == 0
    assert cli.main([*train_args(path, tmp_path / "scan"), *args, "--scan-steps", "5", "--epochs", "1"]) == 0
    assert int(final_state(tmp_path / "scan").step) == 3
    resumed = ["train", "--resume", "--run-dir", str(tmp_path / "scan"), "--epochs", "2", "--scan-steps", "1"]
    assert cli.main(resumed) == 0
    single = [*train_args(path, tmp_path / "single"), *args, "--epochs", "2", "--scan-steps", "1"]
    assert cli.main(single) == 0
    ours = train_rows(tmp_path / "single")
    assert [row["step"] for row in ours] == [1, 2, 3, 4, 5, 6]
    for folder in ("scan", "plain"):
        rows = train_rows(tmp_path / folder)
        assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
        assert rows[0].keys() == ours[0].keys()
        np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in ours], rtol=1e-3)  # Adam
