"""Loggers: what they receive, what a run does if one of them fails, and a user's mistakes."""

import importlib.util
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from kept_log import Kept, config_of
from tiny_runs import assert_one_line, final_state, train_args, train_rows

from calibrax import cli
from calibrax.runs import Logger, LoggerError, train
from calibrax.training import read_metrics


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules promote
        yield


def test_a_logger_receives_the_settings_all_numbers_and_the_pictures(finished, tmp_path):
    kept = Kept()
    config = config_of(finished / "tiny.npz", tmp_path / "run", epochs=2)
    train(config, loggers=[kept.logger()])
    ((folder, settings, step),) = kept.starts
    assert (folder, settings["batch_size"], settings["likelihood"], step) == (tmp_path / "run", 16, "optimal-sigma", 0)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(step, next(iter(values)).partition("/")[0]) for step, values in kept.numbers] == [
        (row["step"], row["split"]) for row in rows
    ]
    for (_, values), row in zip(kept.numbers, rows, strict=True):
        floats = {name: value for name, value in row.items() if isinstance(value, float)}
        assert values == {f"{row['split']}/{name}": value for name, value in floats.items()}
    assert [(step, name) for step, name, _ in kept.pictures] == [
        (step, name) for step in (3, 6) for name in ("reconstructions", "samples")
    ]
    assert all(pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 for *_, pixels in kept.pictures)
    assert kept.num_closed == 1
    assert not (tmp_path / "run" / "tensorboard").exists()  # --log alone


def test_the_logger_of_the_docstring(finished, tmp_path):
    text = Logger.__doc__.partition("Example:")[2]
    code = "\n".join(line.strip()[4:] for line in text.splitlines() if line.strip()[:3] in (">>>", "..."))
    space = {"Path": Path, "Logger": Logger}
    exec(code.replace("best.txt", str(tmp_path / "best.txt")), space)
    train(config_of(finished / "tiny.npz", tmp_path / "run", epochs=1), loggers=[space["logger"]])
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    (value,) = [row["neg_elbo"] for row in rows if row["split"] == "test"]
    assert (tmp_path / "best.txt").read_text() == f"best test ELBO: {-value:.1f} nats per image"


def test_a_logger_that_raises_ends_the_run_with_its_state_saved(finished, tmp_path):
    """The run is resumed without it to the parameters of a run that was never interrupted, and no row is missing."""
    bad, good = Kept(fails_at=5), Kept()
    config = config_of(finished / "tiny.npz", tmp_path / "run", epochs=3)
    with pytest.raises(LoggerError, match=r"a logger failed \(ConnectionError: no server\); saved at step") as caught:
        train(config, loggers=[bad.logger(), good.logger()])
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert "\n" not in str(caught.value)
    assert "--resume" in str(caught.value)
    assert bad.num_closed == good.num_closed == 1
    assert max(step for step, _ in bad.numbers) == 4
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    rows = train_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, saved + 1))
    assert [step for step, values in good.numbers if "train/loss" in values] == list(range(1, saved + 1))
    train(config.replace(resume=True), loggers=[good.logger()])
    assert [row["step"] for row in train_rows(tmp_path / "run")] == list(range(1, 10))
    assert good.starts[1][2] == saved
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path / "run"), final_state(finished / "run"))


def test_the_command_line_reports_it_in_one_line(finished, tmp_path, monkeypatch, capsys):
    from calibrax.runs import loggers

    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", Kept(fails_at=2).logger)
    args = train_args(finished / "tiny.npz", tmp_path / "run", "--log", "tensorboard")
    assert cli.main(args) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("calibrax: a logger failed (ConnectionError: no server); saved at step")


def test_mistakes_are_one_line_before_anything_is_done(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    args = train_args(finished / "tiny.npz", tmp_path / "run")
    for given, match in {
        "trackio": r"trackio, of the extra trackio: pip install '\.\[trackio\]'",
        "tensorboard tensorboard": "expected each name once",
        "comet": "invalid choice 'comet'",
    }.items():
        assert_one_line(capsys, cli.main([*args, "--log", *given.split()]), match)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_that_name_is_no_package(tmp_path, monkeypatch):
    """W&B makes a folder `wandb` in the current one, which Python takes for a package without files."""
    from calibrax.runs.extra import is_installed

    (tmp_path / "wandb_like").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not is_installed("wandb_like")
    (tmp_path / "wandb_like" / "__init__.py").write_text("")
    importlib.invalidate_caches()
    assert is_installed("wandb_like")


def test_settings_of_loggers_are_kept_and_may_change_on_resume(finished, tmp_path):
    config = config_of(finished / "tiny.npz", tmp_path / "run", epochs=1, log=["tensorboard"])
    assert config.run.log == ("tensorboard",)
    assert hash(config)
    train(config)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["config"]["log"] == ["tensorboard"]
    train(config.replace(resume=True, epochs=2, log=()))
