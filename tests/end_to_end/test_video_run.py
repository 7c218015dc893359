"""Runs on videos from the command line: training, resuming, evaluation, samples, and refused input."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import rewind

from calibrax import cli
from calibrax.data import moving_digits
from calibrax.runs import presets
from calibrax.runs.config import TrainConfig
from calibrax.runs.presets import SMALL_SVG
from calibrax.runs.run import Run
from experiments import table2_bair

PAST, FUTURE, TEST_FRAMES = 2, 2, 6
TINY = {"features": 2, "g_dim": 8, "rnn_size": 8}


@pytest.fixture(autouse=True, scope="module")
def _tiny():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TINY.items():
            patch.setitem(SMALL_SVG, name, value)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
            yield


@pytest.fixture(scope="module", name="videos")
def _videos(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, train=moving_digits(num=12, num_frames=4), test=moving_digits(num=5, num_frames=TEST_FRAMES, seed=1))
    return str(path)


def train_args(videos, folder, *extra):
    args = ["train", "--model", "svg-small", "--data", videos, "--n-future", str(FUTURE), "--batch-size", "4"]
    return [*args, "--latent-dim", "2", "--run-dir", str(folder), *extra]


@pytest.fixture(scope="module", name="folder")
def _folder(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    assert cli.main(train_args(videos, folder, "--epochs", "2")) == 0
    return folder


def rows(folder, split):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if row["split"] == split]


def num_frames(path):
    with Image.open(path) as film:
        return getattr(film, "n_frames", 1)


def refused(capsys, args, message):
    assert cli.main(args) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_run_writes_metrics_animations_and_scores(folder):
    assert [row["step"] for row in rows(folder, "train")] == [1, 2, 3, 4, 5, 6]
    tested = rows(folder, "test")
    assert [row["step"] for row in tested] == [3, 6]
    for row in tested:
        assert row["ssim_best"] >= row["ssim_random"] - 1e-6  # the random sample is one of those for the best
        assert 0 < row["ssim_copied"] <= 1
        assert row["num_examples"] == 5
    for step in (3, 6):
        name = f"step_{step:07d}"
        assert num_frames(folder / "predictions" / f"{name}.gif") == TEST_FRAMES
        for picture in ("predictions", "scores"):
            with Image.open(folder / picture / f"{name}.png") as image:
                assert image.width > 500
    record = json.loads((folder / "results.json").read_text())
    assert record["event_shape"] == [TEST_FRAMES - 1, 64, 64, 1]
    test = record["test"]["running average"]
    assert test["bits_per_dim"] == pytest.approx(
        test["discretized_neg_elbo"] / ((TEST_FRAMES - 1) * 64 * 64 * np.log(2)), rel=1e-5
    )
    assert (folder / "curves.png").exists()


def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(folder, tmp_path):
    resumed = rewind(folder, tmp_path / "resumed")
    assert Run.open(resumed).saved_state().step == 3
    assert cli.main(["train", "--resume", "--run-dir", str(resumed)]) == 0
    one, other = (Run.open(place).saved_state() for place in (folder, resumed))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert jax.tree.leaves(one.model_state)
    assert rows(folder, "train") == rows(resumed, "train")
    assert rows(folder, "test") == rows(resumed, "test")


def test_evaluation_measures_predictions_and_calibration(folder, capsys):
    assert cli.main(["evaluate", str(folder), "--futures", "3", "--calibration-draws", "9"]) == 0
    out = capsys.readouterr().out
    assert f"a frame, of {TEST_FRAMES - 1}" in out
    assert "5 test videos, in the last column 12 of the 12 of training" in out
    assert "predicted frames (5 clips, 3 samples, data range 1): PSNR best" in out
    record = json.loads((folder / "results.json").read_text())
    found = record["prediction"]
    assert (found["samples"], found["clips"], found["past"]) == (3, 5, PAST)
    assert len(found["best"]["psnr"]) == TEST_FRAMES - PAST
    assert found["best"]["mean_ssim"] >= found["random"]["mean_ssim"]
    assert record["calibration"]["images"] == 5
    assert "importance" not in record
    for name in ("prediction.png", "film.png", "film.gif", "calibration.png"):
        assert (folder / name).stat().st_size > 1000


def test_samples_of_a_test_video(folder, tmp_path, capsys):
    path = tmp_path / "second.png"
    assert cli.main(["sample", str(folder), "--num", "2", "--clip", "2", "--out", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert num_frames(path.with_suffix(".gif")) == TEST_FRAMES
    refused(capsys, ["sample", str(folder), "--clip", "6"], "--clip is 6; expected 1 to 5, the test videos")
    refused(capsys, ["sample", str(folder), "--noise"], "--noise is for images")


def test_calibrax_data_describes_videos_and_draws_a_film_strip(videos, tmp_path, capsys):
    path = tmp_path / "film.png"
    assert cli.main(["data", videos, "--picture", str(path)]) == 0
    out = capsys.readouterr().out
    assert "12 videos, 4x64x64x1" in out
    assert path.exists()


def npz(path, train, test=None):
    np.savez(path, train=train, test=train if test is None else test)
    return str(path)


def test_unsuitable_videos_are_refused_in_one_line(videos, tmp_path, capsys):
    def args(data, *extra):
        return train_args(data, tmp_path / "run", *extra)

    refused(capsys, args(videos, "--n-future", "9"), "tiny.npz: number of frames is 11; expected 1 to 4")
    refused(capsys, args(videos, "--n-eval", "9"), "tiny.npz: number of frames is 9; expected 1 to 6")
    refused(capsys, args(videos, "--n-eval", "2"), "--n-eval is 2; expected more than the 2 frames that are given")
    short = npz(tmp_path / "short.npz", moving_digits(num=4, num_frames=4), moving_digits(num=4, num_frames=2))
    refused(capsys, args(short), "short: test videos have 2 frames; expected more than the 2")
    one = npz(tmp_path / "one.npz", moving_digits(num=4, num_frames=4), moving_digits(num=1, num_frames=4))
    refused(capsys, args(one), "one: there is one test video; expected two or more")
    small = npz(tmp_path / "small.npz", np.zeros((4, 4, 32, 32, 1), np.uint8))
    refused(capsys, args(small), "image_shape is (32, 32, 1); expected (64, 64, channels)")
    images = npz(tmp_path / "images.npz", np.zeros((4, 64, 64, 1), np.uint8))
    refused(capsys, args(images), f"--model svg-small is of videos, and --data {images} are images")
    refused(capsys, args(videos, "--batch-size", "1"), "--batch-size is 1; expected more videos")
    refused(capsys, args(videos, "--accumulate", "4"), "--batch-size is 4; expected more videos: batch norm takes")
    refused(capsys, args("svhn"), "--model svg-small is of videos, and --data svhn are images")
    refused(capsys, ["train", "--data", videos], "--model conv-vae is of images")
    refused(capsys, ["train", "--data", "svhn", "--n-past", "3"], "--n-past has no meaning for --model conv-vae")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", presets.LIKELIHOODS)
def test_every_decoder_can_be_applied_to_the_frames_of_a_video(name):
    likelihood = TrainConfig.for_model("svg-small", likelihood=name).make_likelihood()
    shapes = [jax.eval_shape(lambda time=time: likelihood.init((time, 64, 64, 1))) for time in (3, 9)]
    assert shapes[0] == shapes[1]


def test_a_table_of_decoders_from_end_to_end(videos, tmp_path, capsys):
    args = ["--data", videos, "--model", "svg-small", "--batch-size", "4", "--epochs", "1", "--seeds", "1"]
    args += ["--futures", "2", "--only", "optimal-sigma", "--out", str(tmp_path / "out")]
    assert table2_bair.main([*args, "--runs", str(tmp_path / "runs")]) == 2  # it needs 12 frames, and there are 4
    assert "number of frames is 12; expected 1 to 4" in capsys.readouterr().err
    longer = npz(tmp_path / "longer.npz", moving_digits(num=8, num_frames=12), moving_digits(num=3, num_frames=6))
    args[1] = longer
    assert table2_bair.main([*args, "--runs", str(tmp_path / "runs")]) == 0
    folder = tmp_path / "out" / "table2-bair"
    table = (folder / "table.md").read_text()
    assert "8 training and 3 test videos of 12×64×64×1" in table
    assert "| Optimal σ-VAE |" in table
    assert "PSNR, best" in table
    for name in ("prediction.png", "samples.png", "samples.gif", "chart.png", "provenance.json", "table.csv"):
        assert (folder / name).stat().st_size > 100
    record = json.loads((folder / "provenance.json").read_text())
    assert record["data"]["splits"]["test"]["videos"] == 3
    assert record["runs"][0]["event_shape"] == [5, 64, 64, 1]


def test_the_objective_of_the_original_is_a_row_of_the_table():
    row = next(case for case in table2_bair.table().cases if case.label == "β (original SVG)")
    assert row.settings["beta"] / 2 == pytest.approx(0.6144)  # σ² = βD/2 at β = 1e-4, D = 64·64·3
