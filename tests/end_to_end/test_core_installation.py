"""A core installation, without the extra `train`: what works, and what says in one line what is missing."""

import subprocess
import sys

import pytest
from tiny_runs import write_images

from calibrax import _terminal, cli
from calibrax.runs import extra

CORE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
"""
LIBRARY = """
import importlib
for name in (
    "calibrax", "calibrax.linen", "calibrax.nnx", "calibrax.interop", "calibrax.objectives", "calibrax.models",
    "calibrax.training", "calibrax.training.loop", "calibrax.training.devices", "calibrax.training.checkpoint",
    "calibrax.evaluation", "calibrax.data", "calibrax.runs", "calibrax.cli",
):
    importlib.import_module(name)
from calibrax.training.progress import ProgressBar
with ProgressBar(0, 2, 16, "img") as bar:
    bar.advance({"neg_elbo": 1.0, "log_sigma": 0.0}, 2)
from calibrax.data import load
assert load("tiny.npz").noun == "images"
from calibrax.runs import ConfigError, TrainConfig, train
try:
    train(TrainConfig.for_model(data="tiny.npz", run_dir="run"))
except ConfigError as error:
    print(error)
"""


def without(refused, program, *args, cwd):
    code = CORE.format(refused=tuple(refused)) + program
    return subprocess.run([sys.executable, "-W", "error", "-c", code, *args], cwd=cwd, capture_output=True, text=True)


COMMAND = "from calibrax import cli; sys.exit(cli.main(sys.argv[1:]))"


def test_the_library_needs_no_extra(tmp_path):
    write_images(tmp_path / "tiny.npz")
    done = without(extra.MODULES, LIBRARY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{extra.explain('matplotlib', 'PIL')}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.npz"]


@pytest.mark.parametrize(
    "command", ["train", "train --help", "evaluate run", "sample run", "compare a b", "data mnist"]
)
def test_a_command_says_in_one_line_which_extra_it_needs(command, tmp_path):
    done = without(extra.MODULES, COMMAND, *command.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"calibrax: {extra.explain('tyro', 'matplotlib', 'PIL')}\n"
    assert "pip install '.[train]'" in done.stderr


@pytest.mark.parametrize(
    ("command", "shown"), [("--help", "usage"), ("--version", "calibrax 0"), ("models", "conv-vae")]
)
def test_help_version_and_models_need_no_extra(command, shown, tmp_path):
    done = without(extra.MODULES, COMMAND, command, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_a_part_of_the_extra_that_is_missing_is_named_when_it_is_needed(tmp_path):
    (tmp_path / "mnist_images" / "1.0.0").mkdir(parents=True)
    for name in ("dataset_info.json", "features.json", "mnist_images-train.array_record-00000-of-00001"):
        (tmp_path / "mnist_images" / "1.0.0" / name).write_text("{}")
    done = without(["tensorflow_datasets"], COMMAND, "data", "mnist", "--data-dir", ".", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"calibrax: {extra.explain('tensorflow_datasets')}\n")


def test_another_module_that_is_missing_is_a_fault_and_stays_one():
    def broken():
        import no_such_module_of_calibrax  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        cli.guarded(broken)


def test_without_tqdm_a_bar_shows_nothing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with _terminal.progress_bar(range(3), "title", 3, unit="img", leave=False) as bar:
        assert list(bar) == [0, 1, 2]
        bar.update(2)
    assert capsys.readouterr().err == ""
