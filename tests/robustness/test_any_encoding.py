"""All commands, their help and experiments where the terminal cannot show β, σ or ±."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import write_images

ENCODINGS = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
    "C locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}
COMMANDS = """
import sys
from calibrax import cli

def code(*args):
    try:
        return cli.main(args)
    except SystemExit as stop:
        return stop.code

for command in ("train", "evaluate", "sample", "compare", "data", "models"):
    assert code(command, "--help") == 0, command
assert code("train", "--model", "svg-small", "--help") == 0
assert code("--help") == 0
assert code("train", "--data", "tiny.npz", "--run-dir", "run", "--epochs", "1", "--batch-size", "16") == 0
assert code("evaluate", "run", "--importance-samples", "0", "--calibration-draws", "19") == 0
assert code("sample", "run") == 0
assert code("compare", "run") == 0
assert code("data", "tiny.npz") == 0
assert code("models") == 0
for args in (["trän"], ["train", "--σ", "1"], ["train", "--likelihood", "σ"], ["evaluate", "größe"], ["data", "größe"]):
    assert code(*args) == 2, args
"""
LIBRARY = """
from calibrax.evaluation.record import METRICS
from calibrax.runs import Run, TrainConfig, train
from calibrax.runs.evaluate import evaluate

train(TrainConfig.for_model(data="tiny.npz", run_dir="run", epochs=1, batch_size=16))
quick = [metric for metric in METRICS if metric.name not in ("fid", "importance")]
evaluate(Run.open("run"), {metric.name: metric.options() for metric in quick})
try:
    print("σ")
except UnicodeEncodeError:
    print("the script's own stream is as it was")
"""
SIGTERM = """
import signal
from calibrax.training.signals import catch_interrupts

with catch_interrupts(lambda: "saved; resume with: --run-dir β-r\\udce4n") as interrupts, interrupts.stop_at_once():
    signal.raise_signal(signal.SIGTERM)
    raise AssertionError("not ended")
"""
EXPERIMENTS = """
import importlib, sys
for name in sys.argv[1:]:
    try:
        assert importlib.import_module(f"experiments.{name}").main(["--help"]) == 0
    except SystemExit as stop:
        assert stop.code == 0, name
"""
ROOT = Path(__file__).parent.parent.parent


def call(program, *args, cwd, encoding):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    environment |= {"PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)]), **ENCODINGS[encoding]}
    (cwd / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, "-W", "error", "program.py", *args]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True)
    codec = {"C locale": "ascii"}.get(encoding, encoding)
    out, err = (stream.decode(codec) for stream in (done.stdout, done.stderr))
    assert done.returncode == 0, err
    assert "Traceback" not in err
    return out, err


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_and_its_help(encoding, tmp_path):
    write_images(tmp_path / "tiny.npz")
    out, err = call(COMMANDS, cwd=tmp_path, encoding=encoding)
    assert "The beta of beta-gaussian: a constant variance beta/2" in out
    assert re.search(r"actual error / predicted sigma: \d", out)
    assert ("±" if encoding == "cp1252" else "+/-") in out
    assert "100%|##########|" in err
    assert "calibrax: --likelihood 'sigma' is unknown" in err


def test_the_library_prints_from_a_script(tmp_path):
    write_images(tmp_path / "tiny.npz")
    out, _ = call(LIBRARY, cwd=tmp_path, encoding="cp1252")
    assert "actual error / predicted sigma" in out
    assert out.endswith("the script's own stream is as it was" + os.linesep)


def test_sigterm_says_how_to_resume(tmp_path):
    """The folder's name has a letter that ASCII lacks and a byte that is not text."""
    _, err = call(SIGTERM, cwd=tmp_path, encoding="ascii")
    assert err.splitlines() == ["", "calibrax: saved; resume with: --run-dir beta-r\\xe4n"]


@pytest.mark.parametrize("encoding", ["cp1252", "C locale"])
def test_the_help_of_experiments(encoding, tmp_path):
    names = [path.stem for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text("utf-8")]
    assert len(names) > 12
    out, _ = call(EXPERIMENTS, *names, cwd=tmp_path, encoding=encoding)
    assert out.count("usage: ") == len(names)


def test_the_output_of_an_experiment(tmp_path):
    """A table with β, σ, ± and ² in it."""
    images = np.random.default_rng(0).integers(0, 256, (130, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "tiny.npz", train=images, test=images[:20])
    program = "import sys; from experiments import table1; sys.exit(table1.main())"
    args = "--data", "tiny.npz", "--epochs", "1", "--only", "optimal-sigma", "--seeds", "2"
    out, _ = call(program, *args, cwd=tmp_path, encoding="ascii")
    for text in ("Optimal sigma-VAE", "beta = 2sigma^2", " +/- "):
        assert text in out
