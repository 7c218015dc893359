"""Runs of a hierarchical VAE from the command line: defaults, results, resuming, non-finite steps."""

import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny_runs import final_state, rewind, train_rows

from calibrax import cli
from calibrax.models import HVAE, StageSpec
from calibrax.runs.config import ConfigError, TrainConfig
from calibrax.runs.presets import HVAE_DEFAULTS, MODELS, HVAESettings, Preset
from calibrax.runs.run import Run
from calibrax.training import read_metrics

STAGES = (StageSpec(4, 3, 2, 2, 3), StageSpec(4, 3, 2, 2, 3))


@pytest.fixture(autouse=True, scope="module")
def _tiny_preset():
    """Add a model of two layers, `hvae-tiny`."""
    tiny = Preset(HVAESettings, {"stages": STAGES, "num_blocks": 1}, HVAE_DEFAULTS, ((8, 8, 3),))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "hvae-tiny", tiny)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adamax and schedules promote
            yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Smooth colour gradients, which two layers of latents can encode."""
    path = tmp_path_factory.mktemp("data") / "smooth.npz"
    rng = np.random.default_rng(0)
    ends = rng.uniform(0, 256, (70, 2, 1, 1, 3))
    weight = np.linspace(0, 1, 8)[:, None, None]
    smooth = (ends[:, 0] * weight + ends[:, 1] * (1 - weight) + np.zeros((8, 8, 3))).astype(np.uint8)
    np.savez(path, train=smooth[:60], test=smooth[60:])
    return path


def train_args(images, folder, *extra):
    args = ["train", "--model", "hvae-tiny", "--data", str(images), "--run-dir", str(folder), "--batch-size", "20"]
    return [*args, *extra]


@pytest.fixture(scope="module", name="folder")
def _folder(images, tmp_path_factory):
    """A run of three epochs of three steps."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(train_args(images, folder, "--epochs", "3")) == 0
    return folder


def test_the_model_brings_its_own_defaults_which_can_be_changed():
    settings = TrainConfig.for_model("hvae", data="cifar10", batch_size=96)
    optimizer = settings.optimizer
    assert (settings.run.batch_size, optimizer.name, optimizer.learning_rate) == (96, "adamax", 2e-3)
    assert (optimizer.ema_decay, optimizer.free_bits) == (0.9995, 2.0)
    assert TrainConfig.for_model("conv-vae") == TrainConfig()
    model = settings.make_model((32, 32, 3))
    assert isinstance(model, HVAE)
    assert len(model.stages) == 15
    assert settings.optimizer.make_step_options().free_bits == 2.0


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (["--latent-dim", "7"], "--latent-dim has no meaning for --model hvae-tiny"),
        (["--log-var", "relu"], "relu"),
        (["--dropout", "1"], "--dropout is 1"),
        (["--ema-decay", "1"], "--ema-decay is 1"),
        (["--free-bits", "-1"], "--free-bits is -1"),
        (["--lr-decay", "0"], "--lr-decay is 0"),
        (["--clip-grad-norm", "0"], "--clip-grad-norm is 0"),
        (["--accumulate", "3"], "--accumulate is 3; expected a divisor of the batch size, 20"),
        (
            ["--accumulate", "2", "--batch-size", "8", "--parallel", "pmap"],
            "devices times --accumulate 2",
        ),
        (["--image-size", "6"], "--model hvae-tiny cannot take smooth: image_shape is"),
        (["--max-skipped", "-1"], "--max-skipped is -1"),
    ],
)
def test_wrong_settings_are_reported_in_one_line(images, tmp_path, capsys, extra, match):
    assert cli.main(train_args(images, tmp_path / "run", *extra)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert match in lines[0]
    assert not (tmp_path / "run").exists()


def test_the_small_network_refuses_settings_of_the_hierarchical_one():
    with pytest.raises(ConfigError, match="--remat has no meaning for --model conv-vae"):
        TrainConfig.for_model(remat=True)


def test_a_run_evaluates_the_averaged_parameters_and_records_the_kl_of_each_layer(folder):
    state = final_state(folder)
    assert not np.array_equal(state.ema["model"]["head"]["v"], state.params["model"]["head"]["v"])
    rows = read_metrics(folder / "metrics.jsonl")
    for row in rows:
        np.testing.assert_allclose(row["kl/1"] + row["kl/2"], row["rate"], rtol=1e-4, atol=1e-4)
    train = [row for row in rows if row["split"] == "train"]
    assert [row["skipped"] for row in train] == 9 * [0.0]
    assert all(row["loss"] >= row["distortion"] + 4 - 1e-3 for row in train)  # free bits: 2 nats in each of two layers
    results = json.loads((folder / "results.json").read_text())
    assert results["training"]["skipped_steps"] == 0
    run = Run.open(folder)
    test = results["test"]["running average"]
    assert len(test["layer_kls"]) == 2
    keys = jax.vmap(jax.random.fold_in, (None, 0))(run.eval_key, jnp.arange(10))
    _, kl = run.model.apply({"params": state.ema["model"]}, run.data.test, keys)
    np.testing.assert_allclose(test["layer_kls"], kl.mean(0), rtol=1e-4, atol=1e-4)


def test_gains_and_biases_are_initialised_from_the_whole_first_batch(folder):
    run = Run.open(folder)
    first = next(run.batches())
    expected = run.model.init(run.init_key, first, run.init_key, train=True)["params"]
    chex.assert_trees_all_close(run.initial_state().params["model"], expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(run.initial_state().ema, run.initial_state().params)


def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(folder, tmp_path):
    resumed = rewind(folder, tmp_path / "resumed")
    assert int(final_state(resumed).step) == 6
    assert cli.main(["train", "--resume", "--run-dir", str(resumed)]) == 0
    chex.assert_trees_all_equal(final_state(resumed), final_state(folder))
    assert read_metrics(resumed / "metrics.jsonl") == read_metrics(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def one_device(images, tmp_path_factory):
    """The training rows of a run of one epoch on one device."""
    folder = tmp_path_factory.mktemp("one") / "run"
    assert cli.main(train_args(images, folder, "--batch-size", "16", "--epochs", "1")) == 0
    return train_rows(folder)


@pytest.mark.parametrize("parallel", ["pmap", "sharded"])
def test_runs_on_several_devices_start_and_train_like_one_device(images, one_device, tmp_path, parallel):
    args = ["--batch-size", "16", "--epochs", "1", "--parallel", parallel]
    assert cli.main(train_args(images, tmp_path / "many", *args)) == 0
    one, many = one_device, train_rows(tmp_path / "many")
    for name in ("loss", "rate", "kl/1", "kl/2", "grad_norm"):
        np.testing.assert_allclose(one[0][name], many[0][name], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose([row["loss"] for row in one], [row["loss"] for row in many], rtol=1e-2)


def test_evaluation_leaves_out_what_needs_a_single_layer(folder, capsys):
    assert cli.main(["evaluate", str(folder), "--importance-samples", "4", "--calibration-draws", "9"]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert np.isfinite(results["importance"]["neg_log_p"])
    assert "information" not in results
    assert "importance samples" in capsys.readouterr().out


def test_pictures_of_the_layers(folder, tmp_path, capsys):
    with Image.open(folder / "layers.png") as picture:
        picture.verify()
    capsys.readouterr()
    for name, extra in {
        "samples": ["--temperature", "0.5"],
        "layers_top": ["--layers", "top"],
        "layers_bottom": ["--layers", "bottom", "--temperature", "0"],
        "traversal_2": ["--traverse", "2"],
    }.items():
        assert cli.main(["sample", str(folder), *extra]) == 0
        path = capsys.readouterr().out.strip()
        assert path == str(folder / f"{name}.png")
        with Image.open(path) as picture:
            picture.verify()
    for extra, match in {
        ("--traverse", "3"): "--traverse is 3; expected 1, the bottom layer, to 2",
        ("--temperature", "-1"): "--temperature is -1.0; expected",
        ("--layers", "top", "--traverse", "1"): "give one of them",
        ("--layers", "middle"): "middle",
    }.items():
        assert cli.main(["sample", str(folder), *extra]) == 2
        message = capsys.readouterr().err.strip()
        assert len(message.splitlines()) == 1
        assert match in message


def test_repeated_non_finite_steps_stop_the_run_and_name_the_layer(folder, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(folder, tmp_path / "run")
    good = final_state(folder)
    run = Run.open(folder)
    bad = jax.tree.map(lambda leaf: leaf, good)
    bad.params["model"]["stage_1"]["inference_0"]["conv_1"]["v"][:] = 0  # finite, but has no direction
    monkeypatch.setattr(Run, "saved_state", lambda self: bad)
    capsys.readouterr()
    args = ["train", "--resume", "--run-dir", str(folder), "--epochs", "9", "--max-skipped", "4"]
    assert cli.main(args) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no usable update in 5 steps from step 10 on (loss nan" in message
    assert "the first that is not finite is the output of stage_1/inference_0/conv_1" in message
    monkeypatch.undo()
    # The checkpoints saved meanwhile hold the state before: no discarded step has changed it.
    assert [run.checkpoints.verify(step) for step in (9, run.checkpoints.latest_step())] == [None, None]
    newest = run.checkpoints.restore(good)
    chex.assert_trees_all_equal(newest.params, bad.params)
    assert [row["skipped"] for row in train_rows(folder)] == 9 * [0.0] + 5 * [1.0]
