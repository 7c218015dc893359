"""The command line on runs of a few steps."""

import json
import re

import chex
import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import assert_one_line, final_state, train_args, train_rows

from calibrax import cli
from calibrax.runs import RunError, TrainConfig, load_data
from calibrax.runs import folder as run_folder
from calibrax.training import read_metrics


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


def test_a_run_leaves_everything_it_should(finished):
    folder = finished / "run"
    assert [row["step"] for row in train_rows(folder)] == list(range(1, 10))
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["split"] == "test"]
    assert [row["step"] for row in rows] == [3, 6, 9]
    for name in ("samples", "reconstructions"):
        assert len(list((folder / name).glob("step_*.png"))) == 3
    with Image.open(folder / "curves.png") as picture:
        picture.verify()
    config = json.loads((folder / "config.json").read_text())
    assert config["config"]["likelihood"] == "optimal-sigma"
    assert not {"n_past", "dropout", "beta"} & set(config["config"])
    assert {"jax", "flax", "python"} <= set(config["versions"])
    results = json.loads((folder / "results.json").read_text())
    assert results["data"] == "tiny"
    assert results["training"]["from_step"] == 0
    assert np.isfinite(results["test"]["running average"]["neg_elbo"])
    assert "calibrated" in results["test"]
    assert not list(folder.rglob("*.tmp"))


def test_a_run_cut_short_and_resumed_equals_the_uninterrupted_one_to_the_bit(finished, tmp_path, capsys):
    folder, images = tmp_path / "cut", finished / "tiny.npz"
    cli.main([*train_args(images, folder)[:-4], "--batch-size", "16", "--epochs", "1", "--save-every", "2"])
    capsys.readouterr()
    assert cli.main(["train", "--resume", "--run-dir", str(folder), "--epochs", "3"]) == 0
    assert "-ELBO (nats)" in capsys.readouterr().out
    chex.assert_trees_all_equal(final_state(folder), final_state(finished / "run"))
    whole, cut = (read_metrics(path / "metrics.jsonl") for path in (finished / "run", folder))
    assert whole == cut
    assert json.loads((folder / "results.json").read_text())["training"]["from_step"] == 3


def test_evaluate_sample_and_compare_a_run(run_copy, tmp_path, capsys):
    before = json.loads((run_copy / "results.json").read_text())
    quick = ["--importance-samples", "3", "--calibration-draws", "19"]
    assert cli.main(["evaluate", str(run_copy), *quick]) == 0
    results, out = json.loads((run_copy / "results.json").read_text()), capsys.readouterr().out
    assert results["test"] == before["test"]
    assert results["train"] == before["train"]
    assert results["training"] == before["training"]
    assert results["importance"]["neg_log_p"] < results["test"]["running average"]["neg_elbo"] + 1
    assert set(results["calibration"]["coverage"]) == {"0.5", "0.8", "0.95", "0.99"}
    assert results["information"]["rate"] == pytest.approx(results["test"]["running average"]["rate"], rel=1e-3)
    assert "fid" not in results
    for line in ("-log p, 3 importance samples", "coverage of central intervals", "FID and KID: not measured"):
        assert line in out
    with Image.open(run_copy / "calibration.png") as picture:
        assert picture.size == (1500, 600)
    for wrong, match in (
        (["--importance-samples", "-1"], "--importance-samples is -1; expected 0 or more"),
        (["--calibration-draws", "1"], "--calibration-draws is 1; expected 0, or 2 and more"),
        (["--inception", "nowhere.pth"], "--inception: weights file is nowhere.pth; expected pt_inception"),
        (["--calibrate-on", "validation"], "left no training images out; train with --fraction 0.9 to keep a tenth"),
    ):
        assert_one_line(capsys, cli.main(["evaluate", str(run_copy), *wrong]), match)
    for extra in ([], ["--noise", "--num", "7", "--out", str(tmp_path / "drawn.png"), "--seed", "3"]):
        capsys.readouterr()
        assert cli.main(["sample", str(run_copy), *extra]) == 0
        with Image.open(capsys.readouterr().out.strip()) as picture:
            picture.verify()
    compared = tmp_path / "compared.svg"
    assert cli.main(["compare", str(run_copy), "--out", str(compared)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(compared)
    assert compared.exists()


def test_run_folders_are_never_overwritten(finished, run_copy, tmp_path, capsys):
    images = finished / "tiny.npz"
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    assert_one_line(capsys, cli.main(train_args(images, run_copy)), "already holds a run; add --resume")
    for extra, match in [
        (["--batch-size", "8"], "--batch-size is 8, but the run .* was begun with 16"),
        (["--likelihood", "gaussian"], "--likelihood is gaussian, but"),
        (["--model", "hvae-small"], "--model is hvae-small, but the run .* was begun with conv-vae"),
        (["--seed", "5"], "--seed is 5, but"),
    ]:
        assert_one_line(capsys, cli.main(["train", "--resume", "--run-dir", str(run_copy), *extra]), match)
    other = tmp_path / "tiny.npz"
    np.savez(other, **{name: np.zeros((40, 8, 8, 3), np.uint8) for name in ("train", "test")})
    config = json.loads((run_copy / "config.json").read_text())
    config["config"]["data"] = str(other)
    (run_copy / "config.json").write_text(json.dumps(config))
    args = ["train", "--resume", "--run-dir", str(run_copy)]
    assert_one_line(capsys, cli.main(args), "was begun on data with train 50; tiny has 40")
    del before[run_copy / "config.json"]
    assert before.items() <= {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}.items()


def test_two_processes_do_not_train_in_one_folder(finished, tmp_path, capsys):
    folder, images = tmp_path / "run", finished / "tiny.npz"
    config = TrainConfig.for_model(data=str(images), run_dir=str(folder), batch_size=16)
    data = load_data(config)
    with run_folder.claimed(config, data):
        described = (folder / "config.json").read_text()
        resume = ["train", "--resume", "--run-dir", str(folder)]
        assert_one_line(capsys, cli.main(resume), "another process is training")
        assert_one_line(capsys, cli.main(train_args(images, folder)), "already holds a run")
        with pytest.raises(RunError, match="another process is training in"), run_folder.claimed(config, data):
            pass
    assert (folder / "config.json").read_text() == described
    with run_folder.claimed(config.replace(resume=True), data):  # the lock has been released
        pass


def test_the_default_folder_is_a_new_one_each_time(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = TrainConfig.for_model(data=str(finished / "tiny.npz"))
    for _ in range(2):
        with run_folder.claimed(config, load_data(config)):
            pass
    names = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert names == ["tiny-optimal-sigma-seed0", "tiny-optimal-sigma-seed0-2"]


def test_models_and_data_and_help(capsys, finished):
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "992,427" in out
    assert "optimal-sigma-per-image" in out
    assert cli.main(["data", str(finished / "tiny.npz")]) == 0
    assert "50 images" in capsys.readouterr().out
    for args in (["--help"], ["--version"]):
        assert cli.main(args) == 0
    assert cli.main([]) == 2
    for command in ("train", "evaluate", "sample", "compare", "data"):
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        assert stop.value.code == 0


def test_data_says_from_which_sigma_on_a_linear_vae_encodes_nothing(tmp_path, monkeypatch, capsys):
    black_then_white = np.repeat(np.uint8([0, 255]), 20).reshape(40, 1, 1, 1) * np.ones((8, 8, 1), np.uint8)
    np.savez(tmp_path / "images.npz", train=black_then_white, test=black_then_white[:1])
    np.savez(tmp_path / "videos.npz", train=black_then_white[None], test=black_then_white[None])
    # Each of the 64 pixels is ½ from its mean, all together: λ = 64/4, σ = 4.
    words = "collapse    a linear VAE encodes nothing from σ = 4 (β = 2σ² = 32) on"
    assert cli.main(["data", str(tmp_path / "images.npz")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == words
    monkeypatch.setattr(cli, "COLLAPSE_VALUES", 10 * 64)
    assert cli.main(["data", str(tmp_path / "images.npz")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{words}, by 10 of the training images"
    assert cli.main(["data", str(tmp_path / "videos.npz")]) == 0
    assert "collapse" not in capsys.readouterr().out


def test_the_help_of_train_lists_the_options_of_the_chosen_model(capsys):
    for model, has, has_not in (("conv-vae", "latent-dim", "n-past"), ("svg-small", "n-past", "dropout")):
        with pytest.raises(SystemExit):
            cli.main(["train", "--model", model, "--help"])
        out = capsys.readouterr().out
        assert re.search(rf"--{has}\b", out)
        assert not re.search(rf"--{has_not}\b", out)
