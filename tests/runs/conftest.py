"""A run that several tests look at."""

import shutil

import jax
import pytest
from tiny_runs import train_args, write_images

from calibrax import cli


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A folder with the images `tiny.npz` and the run `run` on them: three epochs of three steps. Not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    with jax.numpy_dtype_promotion("standard"):
        images = write_images(folder / "tiny.npz")
        assert cli.main(train_args(images, folder / "run")) == 0
    return folder


@pytest.fixture
def run_copy(finished, tmp_path):
    """A copy of that run."""
    return shutil.copytree(finished / "run", tmp_path / "run")
