"""Loggers: what they receive, over interruptions too; what the run does if one fails; W&B offline and Trackio."""

import contextlib
import importlib.util
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_runs import assert_one_line, final_state, rewind, train_args, train_rows

from calibrax import cli
from calibrax.runs import Logger, LoggerError, TrainConfig, train
from calibrax.training import read_metrics


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules promote
        yield


def config_of(images, folder, **settings):
    settings = {"epochs": 2, "batch_size": 16, "log": (), **settings}
    return TrainConfig.for_model(data=str(images), run_dir=str(folder), **settings)


class Kept:
    """A logger that keeps its calls; `fails_at` is the step at which `numbers` raises."""

    def __init__(self, fails_at=None):
        self.starts, self.numbers, self.pictures, self.num_closed, self.fails_at = [], [], [], 0, fails_at

    def logger(self):
        return Logger(
            lambda *args: self.starts.append(args),
            self._take,
            lambda *args: self.pictures.append(args),
            self._close,
        )

    def _take(self, step, values):
        if step == self.fails_at:
            raise ConnectionError("no server\nat all")
        self.numbers.append((step, dict(values)))

    def _close(self):
        self.num_closed += 1


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


@pytest.mark.parametrize("fails_at", [2, 6])
def test_a_logger_that_raises_ends_the_run_with_its_state_saved(finished, tmp_path, fails_at):
    """The run is resumed without it to the parameters of a run that was never interrupted, and no row is missing."""
    bad, good = Kept(fails_at), Kept()
    config = config_of(finished / "tiny.npz", tmp_path / "run", epochs=3)
    with pytest.raises(LoggerError, match=r"a logger failed \(ConnectionError: no server\); saved at step") as caught:
        train(config, loggers=[bad.logger(), good.logger()])
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert "\n" not in str(caught.value)
    assert "--resume" in str(caught.value)
    assert bad.num_closed == good.num_closed == 1
    assert max(step for step, _ in bad.numbers) == fails_at - 1
    saved = max(int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir())
    rows = train_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, saved + 1))
    assert [step for step, values in good.numbers if "train/loss" in values] == list(range(1, saved + 1))
    train(config.replace(resume=True), loggers=[good.logger()])
    assert [row["step"] for row in train_rows(tmp_path / "run")] == list(range(1, 10))
    assert good.starts[1][2] == saved
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path / "run"), final_state(finished / "run"))


def _raise(*args):
    raise RuntimeError("not logged in")


def test_a_logger_that_cannot_start_or_close_ends_the_run_with_its_state_saved(finished, tmp_path):
    for place, logger in {
        "start": Logger(_raise, lambda *args: None),
        "picture": Logger(lambda *args: None, lambda *args: None, _raise),
        "close": Logger(lambda *args: None, lambda *args: None, close=_raise),
    }.items():
        config = config_of(finished / "tiny.npz", tmp_path / place, epochs=1)
        with pytest.raises(LoggerError, match="not logged in"):
            train(config, loggers=[logger])
        assert train(config.replace(resume=True))["step"] == 3


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


# TensorBoard


def board_events(folder):
    """Pairs (tag, step) in the order of the files, with None for a new session, which hides later steps."""
    from tensorboardX import proto

    found = []
    for path in sorted(Path(folder).iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = proto.event_pb2.Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            if event.session_log.status == proto.event_pb2.SessionLog.START:
                found.append((None, event.step))
            found += [(value.tag, event.step) for value in event.summary.value]
    return found


def test_tensorboard_has_each_number_once_and_the_pictures_over_a_resume(finished, tmp_path):
    config = config_of(finished / "tiny.npz", tmp_path / "run", log=None, epochs=2)
    with pytest.raises(LoggerError):
        train(config.replace(epochs=3), loggers=[Kept(fails_at=4).logger()])
    train(config.replace(resume=True, epochs=3))
    shown = []
    for tag, step in board_events(tmp_path / "run" / "tensorboard"):
        if tag is None:  # TensorBoard hides earlier events from this step on
            shown = [(name, at) for name, at in shown if at < step]
        else:
            shown.append((tag, step))
    assert sorted(step for tag, step in shown if tag == "train/loss") == list(range(1, 10))
    for name in ("test/neg_elbo", "samples", "reconstructions"):
        assert sorted(step for tag, step in shown if tag == name) == [3, 6, 9]


# Services, each in a process of its own, killed in the middle and resumed


KILLED = """
import os, sys
from calibrax.runs import Logger, TrainConfig, train
images, folder, name, kill_at = sys.argv[1:]
def numbers(step, values):
    if step == int(kill_at):
        os._exit(9)  # like SIGKILL: nothing is closed
config = TrainConfig.for_model(
    data=images, run_dir=folder, epochs=3, batch_size=16, log=[name], resume=os.path.exists(folder), save_every=3
)
train(config, loggers=[Logger(lambda *args: None, numbers)])
"""


def run_to_the_end(images, folder, name, kills):
    for step, code in [*((step, 9) for step in kills), (0, 0)]:
        command = [sys.executable, "-c", KILLED, str(images), str(folder), name, str(step)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == code, done.stderr


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@needs("wandb")
def test_wandb_offline_has_each_step_once_in_one_run_over_kills(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_to_the_end(finished / "tiny.npz", tmp_path / "run", "wandb", kills=(5, 4))
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(folders) == 3
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1  # one run in three parts
    rows = [row for folder in folders for row in wandb_history(folder)]
    assert 4 not in [row.get("step") for row in wandb_history(folders[0])]  # so the kills did lose rows
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, 10))
    assert [row["step"] for row in rows if "test/neg_elbo" in row] == [3, 6, 9]
    logged = [row["train/loss"] for row in rows if "train/loss" in row]
    assert logged == [row["loss"] for row in train_rows(tmp_path / "run")]
    assert {3, 6, 9} <= {row["step"] for row in rows if "samples" in row}


def wandb_history(folder):
    """The rows that a part of an offline run would upload, as far as a kill has left them."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("*.wandb")
    for data in level_db_records(path.read_bytes()):
        items = wandb_internal_pb2.Record.FromString(data).history.item
        if items:
            yield {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in items}


def level_db_records(data):
    """The records of a file in LevelDB's log format, with W&B's header of 7 bytes in the first block."""
    place, record = 7, b""
    while place + 7 <= len(data):
        room = 32768 - place % 32768
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        if room < 7 or kind == 0:  # padding to the next block
            place += room
            continue
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Trackio's folder, whose name it reads once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("store")
        patch.setenv("TRACKIO_DIR", str(folder))
        yield folder


@needs("trackio")
def test_trackio_has_each_step_once_in_one_run_over_interruptions(finished, tmp_path, store):
    """A logger fails at step 5; then a finished run loses its newest checkpoint and takes the last steps again."""
    config = config_of(finished / "tiny.npz", tmp_path / "interrupted", epochs=3, log=["trackio"])
    with pytest.raises(LoggerError):
        train(config, loggers=[Kept(fails_at=5).logger()])
    train(config.replace(resume=True))
    again = rewind(tmp_path / "interrupted", tmp_path / "again" / "interrupted")
    train(config.replace(resume=True, run_dir=str(again)))
    rows = trackio_rows(store, "interrupted")
    assert [step for step, row in rows if "train/loss" in row] == list(range(1, 10))
    assert [step for step, row in rows if "test/neg_elbo" in row] == [3, 6, 9]
    assert [step for step, row in rows if "samples" in row] == [3, 6, 9]
    logged = [row["train/loss"] for _, row in rows if "train/loss" in row]
    assert logged == [row["loss"] for row in train_rows(again)]


@needs("trackio")
def test_a_service_that_is_added_on_resume_has_the_steps_before_too(finished, tmp_path, store):
    folder = shutil.copytree(finished / "run", tmp_path / "added")
    train(config_of(finished / "tiny.npz", folder, epochs=4, log=["trackio"], resume=True))
    rows = trackio_rows(store, "added")
    assert [step for step, row in rows if "train/loss" in row] == list(range(1, 13))
    assert [step for step, row in rows if "samples" in row] == [3, 6, 9, 12]


def trackio_rows(folder, name):
    """Pairs (step, values) of the one run whose name begins like this."""
    with contextlib.closing(sqlite3.connect(folder / "calibrax.db")) as database:
        found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    found = [row for row in found if row[0].startswith(f"{name}-")]
    assert len({run for run, *_ in found}) == 1
    return [(step, json.loads(metrics)) for _, step, metrics in found]
