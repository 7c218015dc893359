"""Runs, data and pictures whose names hold what few names hold."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from tiny_runs import assert_one_line, write_images

from calibrax import cli
from calibrax.runs import RunError, load_data
from calibrax.runs import folder as run_folder

ODD = os.fsdecode(b"b\xe4r*\n#?{0}%d\\ ")
QUICK = ["--importance-samples", "0", "--calibration-draws", "9"]


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield


def test_runs_data_and_pictures_may_have_any_name(tmp_path, capsys, monkeypatch):
    streams: tuple[Any, Any] = sys.stdout, sys.stderr
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")  # such a name is printed
    monkeypatch.chdir(tmp_path)
    name = ODD
    images = write_images(f"{name}.npz")
    settings = ["--epochs", "1", "--batch-size", "25"]
    assert cli.main(["train", f"--data={images}", f"--run-dir={name}", *settings]) == 0
    assert cli.main(["train", "--resume", f"--run-dir={name}", "--epochs", "2"]) == 0
    assert cli.main(["evaluate", name, *QUICK]) == 0
    assert json.loads((Path(name) / "results.json").read_text())["step"] == 4
    commands = [
        (["sample", name, f"--out={name}.png"], f"{name}.png"),
        (["compare", name, f"--out={name}2.png"], f"{name}2.png"),
        (["data", f"{images}", f"--picture={name}3.png"], f"{name}3.png"),
    ]
    for command, picture in commands:
        assert cli.main(command) == 0
        with Image.open(picture) as opened:
            opened.verify()
    capsys.readouterr()
    again = ["train", f"--from={name}/config.json", f"--run-dir={name}"]
    assert_one_line(capsys, cli.main(again), "already holds a run; add --resume")
    shutil.copytree(name, f"{name} again")
    assert cli.main(["compare", name, f"{name} again"]) == 0
    config = run_folder.read_config(name).replace(run_dir=None)
    with run_folder.claimed(config, load_data(config)) as folder:  # named after the data
        assert str(folder) == "runs/b_udce4r_n_0_d_-optimal-sigma-seed0"


def test_a_run_below_a_link_whose_data_have_a_name_that_the_typeface_lacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("real/folder").mkdir(parents=True)
    Path("link").symlink_to("real/folder")
    images, run = write_images("日本.npz"), "link/../run"
    assert cli.main(["train", f"--data={images}", f"--run-dir={run}", "--epochs", "1", "--batch-size", "25"]) == 0
    assert (tmp_path / "real" / "run" / "results.json").exists()
    assert cli.main(["sample", "real/run", "--num", "2"]) == 0


def test_a_name_that_is_too_long_is_refused_before_anything_is_computed(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("tiny.npz", train=np.zeros((4, 8, 8, 3), np.uint8), test=np.zeros((4, 8, 8, 3), np.uint8))
    monkeypatch.setattr("calibrax.data.load", lambda *args, **options: pytest.fail("data were loaded"))
    deep = "/".join(["d" * 250] * 16)  # 4015 characters: the folder can be made, and files in it cannot
    for name in ("y" * 256, "ä" * 128, deep):
        command = ["train", "--data", "tiny.npz", "--run-dir", name]
        assert_one_line(capsys, cli.main(command), "cannot be: File name too long")
    assert os.listdir() == ["tiny.npz"]
    with pytest.raises(RunError, match="cannot be: File name too long"):
        run_folder.read_config(deep)
    picture = "y" * 252 + ".png"
    for command in (
        ("sample", "run", f"--out={picture}"),
        ("compare", "run", f"--out={picture}"),
        (
            "data",
            "tiny.npz",
            f"--picture={picture}",
        ),
    ):
        assert_one_line(capsys, cli.main(command), "y.png cannot be: File name too long")
