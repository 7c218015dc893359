"""A full or read-only disk and a deleted folder end a run with one line, and its checkpoints stay intact."""

import errno
import os
import shutil
import subprocess
import sys

import jax
import pytest
from tiny_runs import final_state, train_args, write_images

from calibrax import cli
from calibrax.runs import evaluate
from calibrax.training import Checkpoints, read_metrics
from calibrax.training.stepping import StepsInALoop

RESUME = "-m", "calibrax.cli", "train", "--resume", "--run-dir", "run", "--epochs", "2"


@pytest.fixture(scope="module", autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with images and a run of one epoch of three steps, for tests to copy."""
    folder = tmp_path_factory.mktemp("begun")
    args = train_args(write_images(folder / "tiny.npz"), folder / "run", "--epochs", "1", "--save-every", "1")
    assert cli.main(args) == 0
    return folder


@pytest.fixture
def folder(begun, tmp_path):
    return shutil.copytree(begun, tmp_path / "copy")


def resume(folder, *before):
    """Resume for another epoch in a new process. Returns the exit code and stderr's lines, without the progress bar."""
    environment = {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1e9",  # JAX warns if it cannot write its cache
    }
    command = [*before, sys.executable, *RESUME]
    process = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    lines = [line for line in process.stderr.replace("\r", "\n").splitlines() if line.strip() and "img/s" not in line]
    return process.returncode, lines


def assert_checkpoint_3_is_intact(folder):
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    assert checkpoints.latest_step() == 3
    assert checkpoints.verify(3) is None
    assert int(final_state(folder / "run").step) == 3
    assert not list((folder / "run").rglob("*.tmp"))
    assert not (folder / "run" / "checkpoints" / ".saving").exists()


def test_a_limit_on_the_size_of_files(folder):
    code, lines = resume(folder, "sh", "-c", 'ulimit -f 200 && exec "$@"', "sh")  # blocks of 512 or 1,024 bytes
    assert code == 1
    assert lines[-1].startswith("calibrax: ")
    assert "run/checkpoints: no room for a checkpoint (File too large); what was written before is whole" in lines[-1]
    assert len(lines) == 1, lines
    assert_checkpoint_3_is_intact(folder)


IN_A_SMALL_DISK = """
set -e
mkdir disk && mount -t tmpfs -o size={size} none disk
cp -r run tiny.npz disk/ && cd disk
{then}
set +e
"$@"
code=$?
rm -f filler && cp -r run ../after
exit $code
"""


def in_a_small_disk(folder, size, then=""):
    """Resume on a disk of limited size, mounted as root of a new user namespace."""
    script = IN_A_SMALL_DISK.format(size=size, then=then)
    return resume(folder, "unshare", "-rm", "sh", "-c", script, "sh")


@pytest.fixture
def mounts():
    probe = ["unshare", "-rm", "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
    if not shutil.which("unshare") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")


def test_a_full_disk(folder, mounts):
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    code, lines = in_a_small_disk(folder, size + 400_000)
    assert (code, len(lines)) == (1, 1), lines
    assert "run/checkpoints: no room for a checkpoint (No space left on device)" in lines[0]
    shutil.rmtree(folder / "run")
    (folder / "after").rename(folder / "run")
    assert_checkpoint_3_is_intact(folder)
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert max(row["step"] for row in rows) > 3  # on resume, these steps are taken again and logged once
    assert resume(folder)[0] == 0
    rows = [row["step"] for row in read_metrics(folder / "run" / "metrics.jsonl") if row["split"] == "train"]
    assert rows == [1, 2, 3, 4, 5, 6]


def test_a_disk_that_is_read_only(folder, mounts):
    code, lines = in_a_small_disk(folder, "64m", then="mount -o remount,ro .")
    assert code == 2
    assert lines == ["calibrax: cannot write into the run folder run: Read-only file system"]


def test_a_folder_that_is_deleted_during_the_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    take = StepsInALoop.__call__

    def vanishing(*args):
        shutil.rmtree(folder / "run", ignore_errors=True)
        return take(*args)

    monkeypatch.setattr(StepsInALoop, "__call__", vanishing)
    assert cli.main([*RESUME[2:]]) == 1
    error = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
    assert error.startswith("calibrax: ")
    assert error.endswith("checkpoints: No such file or directory; what was written before is whole")
    assert not (folder / "run").exists()  # it is not recreated with half a run


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "run").chmod(0o555)
    (folder / "run" / "lock").unlink(missing_ok=True)
    assert cli.main([*RESUME[2:]]) == 2
    assert "cannot write into the run folder run: Permission denied" in capsys.readouterr().err


def test_a_picture_that_cannot_be_written(folder, monkeypatch, capsys):
    """The message is the same for every file, not only for checkpoints."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(evaluate, "save_training_curves", no_room)
    assert cli.main(["evaluate", "run"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "calibrax: run/curves.png: No space left on device; what was written before is whole"
    )


def no_room(path, *args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
