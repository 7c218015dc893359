"""Platforms that JAX lacks, working directories that are gone, and how a run says that it can be resumed."""

import ntpath
import os
import shutil
import sys

import pytest
from no_platform import call_everything
from tiny_runs import assert_one_line, train_args, write_images

from calibrax import cli
from calibrax.runs import TrainConfig, load_data
from calibrax.runs.run import Run, command_line


def test_a_platform_that_is_not_there_is_one_line_before_anything_is_done(tmp_path):
    """As in tests/robustness/test_platforms.py, with more values and commands."""
    (line,) = call_everything("cudaa", tmp_path, ["train"])
    assert "JAX_PLATFORMS is 'cudaa'; the platforms here are cpu; set JAX_PLATFORMS to one of them" in line


@pytest.fixture
def deleted(tmp_path, monkeypatch):
    """The working directory is deleted while the test runs."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    with pytest.raises(FileNotFoundError):
        os.getcwd()


def test_a_deleted_working_directory_is_one_line(deleted, tmp_path, capsys):
    images = write_images(tmp_path / "tiny.npz")
    for args in (train_args(images, "run"), ["train", "--data", str(images)]):
        assert_one_line(capsys, cli.main(args), "the working directory is deleted; change to another")


def test_how_to_resume_is_said_in_a_deleted_working_directory(deleted, tmp_path):
    config = TrainConfig.for_model(data=str(write_images(tmp_path / "tiny.npz")), run_dir=str(tmp_path / "run"))
    run = Run(config, load_data(config))
    resume = f"{sys.executable} -m calibrax train --resume --run-dir {tmp_path / 'run'}"
    assert run.how_to_resume() == f"saved at step 0; resume with: {resume}"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The command `calibrax` in a folder of its own, the only one on the PATH."""
    command = tmp_path / "bin" / "calibrax"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent))
    monkeypatch.setattr(sys, "executable", "/my python/bin/python")
    return command


def test_the_command_is_the_one_that_was_called(installed, monkeypatch):
    interpreter = "'/my python/bin/python' -m calibrax"
    for called, command in (
        (installed, "calibrax"),
        ("/elsewhere/bin/calibrax", interpreter),  # not the one on the PATH
        ("/src/calibrax/__main__.py", interpreter),
        ("train.py", interpreter),
        ("", interpreter),
    ):
        monkeypatch.setattr(sys, "argv", [str(called)])
        assert command_line("train", "--run-dir", "my runs/σ") == f"{command} train --run-dir 'my runs/σ'"
    installed.unlink()
    assert command_line("evaluate", "r") == f"{interpreter} evaluate r"
    monkeypatch.setattr(sys, "executable", None)  # a program with Python inside
    assert command_line("evaluate", "r") == "python -m calibrax evaluate r"


def test_the_command_is_quoted_for_windows_where_drives_differ(monkeypatch):
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os.path, "relpath", lambda path: ntpath.relpath(path, r"D:\work"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "executable", r"C:\Program Files\Python\python.exe")
    with pytest.raises(ValueError, match="path is on mount"):
        os.path.relpath(sys.executable)
    assert command_line("train", "--run-dir", r"D:\my runs\σ") == (
        r'"C:\Program Files\Python\python.exe" -m calibrax train --run-dir "D:\my runs\σ"'
    )
