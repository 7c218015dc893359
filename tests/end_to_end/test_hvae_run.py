"""Runs of a hierarchical VAE from the command line: its defaults, what it writes, resuming, trouble."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from calibrax import cli
from calibrax.models import HVAE, StageSpec
from calibrax.runs.config import ConfigError, TrainConfig
from calibrax.runs.presets import HVAE_DEFAULTS, HVAE_FIELDS, MODELS, Preset
from calibrax.runs.run import Run
from calibrax.training import read_metrics

STAGES = (StageSpec(4, 3, 2, 2, 3), StageSpec(4, 3, 2, 2, 3))


@pytest.fixture(autouse=True)
def _a_tiny_preset(monkeypatch):
    make = MODELS["hvae"].make

    def make_tiny(settings, image_shape):
        return make(settings, image_shape).clone(stages=STAGES, num_blocks=1)

    tiny = Preset(make_tiny, HVAE_FIELDS, HVAE_DEFAULTS, ((8, 8, 3),))
    monkeypatch.setitem(MODELS, "hvae-tiny", tiny)
    with jax.numpy_dtype_promotion("standard"):  # optax's Adamax and schedules promote
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Smooth colours, which two layers of latents can tell apart."""
    path = tmp_path_factory.mktemp("data") / "smooth.npz"
    rng = np.random.default_rng(0)
    ends = rng.uniform(0, 256, (70, 2, 1, 1, 3))
    weight = np.linspace(0, 1, 8)[:, None, None]
    smooth = (ends[:, 0] * weight + ends[:, 1] * (1 - weight) + np.zeros((8, 8, 3))).astype(np.uint8)
    np.savez(path, train=smooth[:60], test=smooth[60:])
    return path


def train_args(images, folder, *extra):
    return [
        "train",
        "--model",
        "hvae-tiny",
        "--data",
        str(images),
        "--run-dir",
        str(folder),
        "--batch-size",
        "20",
        *extra,
    ]


def final_state(folder):
    return jax.device_get(Run.open(folder).saved_state())


@functools.cache
def whole(images, folder):
    assert cli.main(train_args(images, folder, "--epochs", "3")) == 0
    return folder


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    return images, tmp_path_factory.mktemp("whole") / "run"


def test_the_defaults_are_the_model_s_own_and_can_be_changed():
    settings = TrainConfig.for_model("hvae", data="cifar10", batch_size=96)
    assert (settings.batch_size, settings.optimizer, settings.learning_rate) == (96, "adamax", 2e-3)
    assert (settings.ema_decay, settings.free_bits) == (0.9995, 2.0)
    assert TrainConfig.for_model("conv-vae") == TrainConfig()
    model = settings.make_model((32, 32, 3))
    assert isinstance(model, HVAE)
    assert len(model.stages) == 15
    assert settings.make_step_options().free_bits == 2.0


def test_the_learning_rate_falls_a_millionth_a_step_to_its_floor():
    optimizer = TrainConfig.for_model("hvae").make_optimizer()
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.ones(1)}, state, params)
    np.testing.assert_allclose(updates["w"], -2e-3, rtol=1e-6)  # Adamax's first step is the learning rate

    def after(steps):
        moved = jax.tree.map(lambda leaf: jnp.asarray(steps) if leaf.dtype == jnp.int32 else leaf, state)
        rate, _ = optimizer.update({"w": jnp.ones(1)}, moved, params)
        return -float(rate["w"][0])

    # At the same moments: the ratio of two steps' sizes is that of their learning rates.
    np.testing.assert_allclose(after(520_834) / after(100_000), 0.999999**420_834, rtol=1e-4)
    np.testing.assert_allclose(after(10_000_000) / after(100_000), 1e-4 / (2e-3 * 0.999999**100_000), rtol=1e-4)


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
def test_wrong_settings_are_one_line(images, tmp_path, capsys, extra, match):
    assert cli.main(train_args(images, tmp_path / "run", *extra)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert match in lines[0]
    assert not (tmp_path / "run").exists()


def test_the_small_network_has_no_use_for_the_hierarchical_one_s_settings():
    with pytest.raises(ConfigError, match="--remat has no meaning for --model conv-vae"):
        TrainConfig(remat=True)


def test_a_run_evaluates_the_average_and_writes_each_layer_s_kl(trained):
    folder = whole(*trained)
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


def test_the_gains_and_biases_come_from_the_whole_first_batch(trained):
    run = Run.open(whole(*trained))
    first = next(run.batches())
    expected = run.model.init(run.init_key, first, run.init_key, train=True)["params"]
    chex.assert_trees_all_close(run.initial_state().params["model"], expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_equal(run.initial_state().ema, run.initial_state().params)


def test_a_run_cut_short_and_resumed_equals_the_uninterrupted_one_to_the_bit(trained, tmp_path):
    images, _ = trained
    folder = tmp_path / "cut"
    assert cli.main(train_args(images, folder, "--epochs", "1", "--save-every", "2")) == 0
    assert cli.main(["train", "--resume", "--run-dir", str(folder), "--epochs", "3"]) == 0
    chex.assert_trees_all_equal(final_state(folder), final_state(whole(*trained)))
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(whole(*trained) / "metrics.jsonl")


@pytest.mark.parametrize("parallel", ["pmap", "sharded"])
def test_parallel_runs_begin_and_train_alike(trained, tmp_path, parallel):
    images, _ = trained
    args = ["--batch-size", "16", "--epochs", "1", "--parallel"]
    assert cli.main(train_args(images, tmp_path / "one", *args, "jit")) == 0
    assert cli.main(train_args(images, tmp_path / "many", *args, parallel)) == 0
    one, many = (
        [r for r in read_metrics(tmp_path / name / "metrics.jsonl") if r["split"] == "train"]
        for name in ("one", "many")
    )
    for name in ("loss", "rate", "kl/1", "kl/2", "grad_norm"):
        np.testing.assert_allclose(one[0][name], many[0][name], rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose([row["loss"] for row in one], [row["loss"] for row in many], rtol=1e-2)


def test_everything_is_measured_but_what_needs_one_layer(trained, capsys):
    folder = whole(*trained)
    assert cli.main(["evaluate", str(folder), "--importance-samples", "4", "--calibration-draws", "9"]) == 0
    results = json.loads((folder / "results.json").read_text())
    assert np.isfinite(results["importance"]["neg_log_p"])
    assert "information" not in results
    assert "importance samples" in capsys.readouterr().out


def test_pictures_of_the_layers(trained, tmp_path, capsys):
    folder = whole(*trained)
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


def test_a_step_that_goes_bad_again_and_again_stops_with_its_place(trained, tmp_path, capsys, monkeypatch):
    images, _ = trained
    folder = tmp_path / "run"
    assert cli.main(train_args(images, folder, "--epochs", "1")) == 0
    good = final_state(folder)
    run = Run.open(folder)
    bad = jax.tree.map(lambda leaf: leaf, good)
    bad.params["model"]["stage_1"]["inference_0"]["conv_1"]["v"][:] = 0  # finite, but of no direction
    monkeypatch.setattr(Run, "saved_state", lambda self: bad)
    capsys.readouterr()
    args = ["train", "--resume", "--run-dir", str(folder), "--epochs", "9", "--max-skipped", "4"]
    assert cli.main(args) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no usable update in 5 steps from step 4 on (loss nan" in message
    assert "the first that is not finite is the output of stage_1/inference_0/conv_1" in message
    monkeypatch.undo()
    # What was saved meanwhile is the state before: no discarded step has touched it.
    assert [run.checkpoints.verify(step) for step in (3, run.checkpoints.latest_step())] == [None, None]
    newest = run.checkpoints.restore(good)
    chex.assert_trees_all_equal(newest.params, bad.params)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["split"] == "train"]
    assert [row["skipped"] for row in rows] == 3 * [0.0] + 5 * [1.0]
