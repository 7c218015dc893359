"""On Windows and macOS, emulated: everything can be imported, and a run is trained, interrupted, resumed and measured.

`tests/support/windows.py` says what the emulation takes away and forbids.
"""

import json
import os
import subprocess
import sys

import pytest
from tiny_runs import train_args, train_rows, write_images

IMPORT_ALL = """
import windows; windows.emulate()
import importlib, pkgutil
import calibrax
for module in pkgutil.walk_packages(calibrax.__path__, "calibrax."):
    importlib.import_module(module.name)
    print(module.name)
"""
COMMAND = """
import windows; windows.emulate()
import signal, sys
from calibrax import cli
from calibrax.training.progress import ProgressBar

advance = ProgressBar.advance

def interrupted(self, row, num=1):
    advance(self, row, num)
    signal.raise_signal(signal.SIGINT)

if sys.argv.pop(1) == "interrupt":
    ProgressBar.advance = interrupted
sys.exit(cli.main(sys.argv[1:]))
"""
FORBIDDEN = """
import windows; windows.emulate()
import os, pathlib
file = pathlib.Path("file")
with file.open("w"):
    for refused in (file.unlink, lambda: os.replace("file", "other"), lambda: os.open(".", os.O_RDONLY)):
        try:
            refused()
        except PermissionError:
            print("refused")
try:
    with file.open() as stream:
        os.fsync(stream.fileno())
except OSError:
    print("refused")
try:
    pathlib.Path("a:b").mkdir()
except OSError:
    print("refused")
try:
    import fcntl
except ImportError:
    print("refused")
"""


def call(program, *args, cwd):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", program, *map(str, args)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="emulates from Linux")
class TestEmulated:
    def test_the_emulation_refuses(self, tmp_path):
        assert call(FORBIDDEN, cwd=tmp_path).stdout.split() == ["refused"] * 6

    def test_everything_can_be_imported(self, tmp_path):
        done = call(IMPORT_ALL, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) > 100

    def test_a_run_is_trained_interrupted_resumed_and_measured(self, tmp_path):
        args = train_args(write_images(tmp_path / "tiny.npz"), "run", "--save-every", "2")
        done = call(COMMAND, "interrupt", *args, cwd=tmp_path)
        assert done.returncode == 130, done.stderr
        resume = f"resume with: {sys.executable} -m calibrax train --resume --run-dir run"
        assert done.stderr.splitlines()[-1] == f"calibrax: saved at step 1; {resume}"
        evaluate = ["evaluate", "run", "--importance-samples", "0", "--calibration-draws", "0"]
        for command in (["train", "--resume", "--run-dir", "run"], evaluate, ["sample", "run"]):
            done = call(COMMAND, "through", *command, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        assert [row["step"] for row in train_rows(tmp_path / "run")] == list(range(1, 10))
        results = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
        assert results["training"]["from_step"] == 1
        assert results["information"]
        assert not list((tmp_path / "run").rglob("*.tmp"))
