"""Loggers over interruptions: TensorBoard, W&B offline, Trackio; and loggers that fail at any place."""

import contextlib
import importlib.util
import json
import sqlite3
from pathlib import Path

import jax
import pytest
from kept_log import Kept, config_of
from tiny_runs import rewind, train_rows

from calibrax.runs import Logger, LoggerError, train


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules promote
        yield


def _raise(*args):
    raise RuntimeError("not logged in")


def test_a_logger_that_cannot_start_or_close_ends_the_run_with_its_state_saved(finished, tmp_path):
    for place, logger in {
        "start": Logger(_raise, lambda *args: None, close=lambda: pytest.fail("closed, but never started")),
        "picture": Logger(lambda *args: None, lambda *args: None, _raise),
        "close": Logger(lambda *args: None, lambda *args: None, close=_raise),
    }.items():
        config = config_of(finished / "tiny.npz", tmp_path / place, epochs=1)
        with pytest.raises(LoggerError, match="not logged in"):
            train(config, loggers=[logger])
        assert train(config.replace(resume=True))["step"] == 3


# TensorBoard


def board_events(folder):
    """Pairs (tag, step) in the order of the files, with None for a new session, which hides later steps."""
    from tensorboardX import proto

    found = []
    for path in sorted(Path(folder).iterdir()):
        data = path.read_bytes()
        while len(data) >= 16 + (size := int.from_bytes(data[:8], "little")):  # a kill may cut the last event
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
    again = rewind(tmp_path / "run", tmp_path / "again")
    train(config.replace(resume=True, epochs=3, run_dir=str(again)))
    shown = []
    for tag, step in board_events(again / "tensorboard"):
        if tag is None:  # TensorBoard hides earlier events from this step on
            shown = [(name, at) for name, at in shown if at < step]
        else:
            shown.append((tag, step))
    assert sorted(step for tag, step in shown if tag == "train/loss") == list(range(1, 10))
    for name in ("test/neg_elbo", "samples", "reconstructions"):
        assert sorted(step for tag, step in shown if tag == name) == [3, 6, 9]


# Services: the steps that a resumed run repeats are there twice, with equal numbers


def assert_complete(rows, run):
    """The pairs (step, values) hold every number and picture of a run; equal ones may be there twice."""
    logged = {(step, row["train/loss"]) for step, row in rows if "train/loss" in row}
    assert sorted(logged) == [(row["step"], row["loss"]) for row in train_rows(run)]
    for name in ("test/neg_elbo", "samples"):
        assert {step for step, row in rows if name in row} == {3, 6, 9}


def needs(name):
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@needs("wandb")
def test_wandb_offline_has_every_step_in_one_run_over_interruptions(finished, tmp_path, monkeypatch):
    """A logger fails at step 5; then the finished run loses its newest checkpoint and takes the last steps again."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = config_of(finished / "tiny.npz", tmp_path / "run", epochs=3, log=["wandb"])
    with pytest.raises(LoggerError):
        train(config, loggers=[Kept(fails_at=5).logger()])
    train(config.replace(resume=True))
    again = rewind(tmp_path / "run", tmp_path / "again")
    train(config.replace(resume=True, run_dir=str(again)))
    rows = wandb_rows(again, num_parts=3)
    assert_complete([(row["step"], row) for row in rows], again)


def wandb_rows(folder, num_parts):
    """The rows of the offline run in a run's folder, of which each start of the run has written a part."""
    parts = sorted((folder / "wandb").glob("offline-run-*"))
    assert len(parts) == num_parts
    assert len({part.name.rpartition("-")[2] for part in parts}) == 1  # the run's id
    return [row for part in parts for row in wandb_history(part)]


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
def test_trackio_has_every_step_in_one_run_over_interruptions(finished, tmp_path, store):
    """A logger fails at step 5; then a finished run loses its newest checkpoint and takes the last steps again."""
    config = config_of(finished / "tiny.npz", tmp_path / "interrupted", epochs=3, log=["trackio"])
    with pytest.raises(LoggerError):
        train(config, loggers=[Kept(fails_at=5).logger()])
    train(config.replace(resume=True))
    again = rewind(tmp_path / "interrupted", tmp_path / "again" / "interrupted")
    train(config.replace(resume=True, run_dir=str(again)))
    assert_complete(trackio_rows(store, "interrupted"), again)


def trackio_rows(folder, name):
    """Pairs (step, values) of the one run whose name begins like this."""
    with contextlib.closing(sqlite3.connect(folder / "calibrax.db")) as database:
        found = database.execute("select run_name, step, metrics from metrics order by id").fetchall()
    found = [row for row in found if row[0].startswith(f"{name}-")]
    assert len({run for run, *_ in found}) == 1
    return [(step, json.loads(metrics)) for _, step, metrics in found]
