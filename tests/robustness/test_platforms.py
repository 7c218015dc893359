"""What a user asks for by JAX_PLATFORMS is not there: one line, before data are loaded or a folder is created."""

import os
import subprocess
import sys

import pytest
from no_platform import COMMANDS, call_everything
from tiny_runs import write_images

from calibrax.runs import TrainConfig, folder, load_data


@pytest.fixture
def work(tmp_path):
    """A folder with images, a run without a checkpoint and its settings."""
    config = TrainConfig.for_model(data=str(write_images(tmp_path / "images.npz")), run_dir=str(tmp_path / "saved"))
    with folder.claimed(config, load_data(config)):
        pass
    (tmp_path / "config.json").write_bytes((tmp_path / "saved" / "config.json").read_bytes())
    return tmp_path


@pytest.mark.parametrize("platforms", ["cuda", "tpu", "gpu", "cudaa", "CUDA", "cpu,cudaa", " cpu", "rocm", "METAL"])
def test_every_command_names_what_was_asked_for_and_what_is_there(platforms, work):
    lines = call_everything(platforms, work, CUDA_VISIBLE_DEVICES="99")
    assert len(lines) == len(COMMANDS)
    for line in lines:
        assert line.startswith(f"calibrax: JAX_PLATFORMS is {platforms!r} and CUDA_VISIBLE_DEVICES is '99'; the ")
        assert "; the platforms here are cpu" in line


def test_the_older_variable_is_named(work):
    for line in call_everything("cpu", work, JAX_PLATFORM_NAME="gpu"):
        assert line.startswith("calibrax: JAX_PLATFORMS is 'cpu' and JAX_PLATFORM_NAME is 'gpu'; the platforms here")


@pytest.mark.parametrize("module", ["svhn_optimal", "table1", "figure9", "two_modalities"])
def test_so_do_experiments(module, work):
    args = {"two_modalities": []}.get(module, ["--data", str(work / "images.npz")])
    environment = {**os.environ, "JAX_PLATFORMS": "cudaa", "PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-m", f"experiments.{module}", *args]
    done = subprocess.run(call, cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "JAX_PLATFORMS is 'cudaa'; the platforms here are cpu" in line
    assert not (work / "runs").exists()


def test_what_does_without_jax_works(work):
    environment = {**os.environ, "JAX_PLATFORMS": "cudaa", "PYTHONPATH": os.pathsep.join(sys.path)}
    for args in (["train", "--help"], ["data", "images.npz"]):
        call = [sys.executable, "-m", "calibrax", *args]
        assert subprocess.run(call, cwd=work, env=environment, capture_output=True).returncode == 0
