"""Several processes on this machine, connected over the loopback address, train like a single process."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import process_worker
import pytest
from tiny_runs import assert_one_line, final_state, rewind, train_rows, write_images

from calibrax import cli, data
from calibrax.training import jit_step

SETTINGS = ["--batch-size", "16", "--parallel", "sharded"]


@pytest.fixture(scope="module", autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


def start(count, command, *, devices=1):
    """Start the processes of one run, each with the arguments `command(coordinator, process_id)`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, command(address, index))], env=environment, stderr=subprocess.PIPE, text=True
        )
        for index in range(count)
    ]


def training(count, *args):
    """The command of `start` for `calibrax train` with these arguments."""
    joined = ["--num-processes", count, "--coordinator"]
    return lambda address, index: ["-m", "calibrax.cli", "train", *args, *joined, address, "--process-id", index]


def finish(started):
    """Wait for the processes. Returns their exit codes and what each printed on stderr."""
    try:
        errors = [process.communicate(timeout=150)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], errors


@pytest.mark.parametrize(("count", "devices"), [(2, 4), (4, 1)])
def test_several_processes_train_like_one_device(count, devices, tmp_path):
    """With SGD, because Adam hides a gradient that is off by a factor."""
    out, script = tmp_path / "out.npz", Path(process_worker.__file__)

    def command(address, index):
        return [script, address, count, index, out]

    codes, errors = finish(start(count, command, devices=devices))
    assert codes == [0] * count, errors
    parts = process_worker.settings()
    feed = data.batches(process_worker.images(), process_worker.BATCH_SIZE, seed=1)
    with jax.numpy_rank_promotion("allow"):
        rows, state = process_worker.train(jit_step(**parts), parts, feed)
    with np.load(out) as ours:
        assert int(ours["devices"]) == count * devices
        np.testing.assert_allclose(ours["rows"], rows, rtol=1e-6)
        for number, leaf in enumerate(jax.tree.leaves(state)):
            np.testing.assert_allclose(ours[f"leaf{number}"], leaf, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    """A run of two epochs of three steps in this process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert cli.main(["train", "--data", str(images), "--run-dir", str(folder), "--epochs", "2", *SETTINGS]) == 0
    return folder


def assert_equal_runs(folder, alone):
    """Assert that a run of several processes has the files, steps and losses of the run of a single one."""
    assert names(folder) == names(alone)
    assert [row["step"] for row in train_rows(folder)] == [1, 2, 3, 4, 5, 6]
    assert int(final_state(folder).step) == 6
    ours, theirs = ([row["loss"] for row in train_rows(run)] for run in (folder, alone))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)  # Adam amplifies rounding


def test_a_run_of_two_processes_can_be_resumed_by_one(images, alone, tmp_path):
    folder = tmp_path / "two"
    args = ["--data", images, "--run-dir", folder, "--epochs", 1, *SETTINGS]
    codes, errors = finish(start(2, training(2, *args), devices=4))
    assert codes == [0, 0], errors
    assert len(list(folder.rglob("*tfevents*"))) == 1  # only one process writes
    assert train_rows(folder)[0]["loss"] == pytest.approx(train_rows(alone)[0]["loss"], rel=1e-6)
    assert cli.main(["train", "--resume", "--run-dir", str(folder), "--epochs", "2"]) == 0
    assert_equal_runs(folder, alone)


def test_a_run_of_one_process_can_be_resumed_by_two(alone, tmp_path):
    folder = rewind(alone, tmp_path / "one")
    codes, errors = finish(start(2, training(2, "--resume", "--run-dir", folder), devices=4))
    assert codes == [0, 0], errors
    assert_equal_runs(folder, alone)


def names(folder):
    """The files of a run, without those whose names depend on the time or the number of processes."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if "checkpoints" not in name and "tfevents" not in name)


def test_a_signal_to_one_process_stops_all_of_them_and_the_first_saves(images, tmp_path):
    run = tmp_path / "run"
    args = ["--data", images, "--run-dir", run, "--epochs", 100_000, "--eval-every", 100_000, *SETTINGS]
    started = start(2, training(2, *args))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not ((run / "metrics.jsonl").exists() and len(train_rows(run)) >= 20):
        time.sleep(0.1)
    started[1].send_signal(signal.SIGTERM)
    codes, errors = finish(started)
    assert codes[1] == 0, errors
    assert "saved at step" in errors[0]
    assert "Traceback" not in "".join(errors)
    steps = [row["step"] for row in train_rows(run)]
    assert steps == list(range(1, len(steps) + 1))
    assert int(final_state(run).step) == len(steps) >= 20


FAILING_LOGGER = """
import sys
from calibrax import cli
from calibrax.runs import Logger, loggers
def numbers(step, values):
    if step == 5:
        raise ConnectionError("no server")
loggers.LOGGERS["tensorboard"] = lambda: Logger(lambda *args: None, numbers)
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_logger_that_fails_in_the_last_steps_keeps_no_process_waiting(images, tmp_path):
    run = tmp_path / "run"
    args = ["--data", images, "--run-dir", run, "--epochs", 2, "--log", "tensorboard", *SETTINGS]
    calibrax = training(2, *args)
    codes, errors = finish(start(2, lambda *process: ["-c", FAILING_LOGGER, *calibrax(*process)[2:]]))
    assert codes == [1, 0], errors
    assert "a logger failed (ConnectionError: no server); saved at step 6" in errors[0]
    assert int(final_state(run).step) == 6


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_parts_of_a_batch_make_up_the_batch(count):
    """For arrays and for a source that is read ahead, from the middle of an epoch into the next one."""

    class Source:
        def __len__(self):
            return 13

        def __getitem__(self, index):
            return np.full((2, 1, 1, 1), index, np.uint8)

    stacked = np.stack([Source()[index] for index in range(13)])
    for examples in (stacked, Source()):
        whole = data.batches(stacked, 4, seed=3, start_step=2)
        parts = [data.batches(examples, 4, seed=3, start_step=2, part=(index, count)) for index in range(count)]
        for _ in range(5):
            np.testing.assert_array_equal(np.concatenate([next(part) for part in parts]), next(whole))


def test_batches_do_not_depend_on_the_number_of_threads_that_read_ahead(monkeypatch):
    class Slow:
        """Later videos take less time to read."""

        def __len__(self):
            return 24

        def __getitem__(self, index):
            time.sleep(0.002 * (24 - index) / 24)
            return np.full((2, 1, 1, 1), index, np.uint8)

    found = []
    for threads in (1, 3, 16):
        monkeypatch.setattr(sys.modules["calibrax.data.batches"], "MAX_THREADS", threads)
        monkeypatch.setattr("os.cpu_count", lambda: 16)
        feed = data.batches(Slow(), 8, seed=0, start_step=1)
        found.append(np.stack([next(feed) for _ in range(6)]))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize(("part", "words"), [((0, 3), "multiple of the 3 parts"), ((2, 2), "is"), ((-1, 2), "is")])
def test_invalid_parts_are_refused(part, words):
    with pytest.raises(data.DataError, match=rf"^[^\n]*{words}[^\n]*$"):
        next(data.batches(np.zeros((8, 1, 1, 1), np.uint8), 4, seed=0, part=part))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--num-processes", "2"], "need --coordinator HOST:PORT"),
        (["--process-id", "0"], "need --coordinator HOST:PORT"),
        (["--coordinator", "127.0.0.1:9999"], "needs --num-processes and --process-id"),
        (["--coordinator", "127.0.0.1", "--num-processes", "2", "--process-id", "0"], "expected HOST:PORT, or auto"),
        (["--coordinator", "a:99999", "--num-processes", "2", "--process-id", "0"], "expected HOST:PORT, or auto"),
        (["--coordinator", "a:9", "--num-processes", "2", "--process-id", "2"], "--process-id is 2; expected 0 to 1"),
        (["--coordinator", "auto"], "cannot join the other processes"),
    ],
)
def test_invalid_process_settings_are_refused(args, words, images, capsys):
    assert_one_line(capsys, cli.main(["train", "--data", str(images), *args]), words)
