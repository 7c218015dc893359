"""The arithmetic and the error messages of the benchmarks. The timings themselves need torch and an idle machine."""

import argparse
import functools
import json
import sys

import jax
import numpy as np
import pytest
from toy import LinearVAE

from benchmarks import accelerator, jax_worker, rates, suite, train_step
from calibrax.training import create_train_state
from calibrax.training import train_step as train_step_of


def test_ratios_are_taken_turn_by_turn():
    seconds = {"calibrax": [0.2, 0.4, 0.3], "pytorch": [0.1, 0.4, 0.1]}
    options = argparse.Namespace(blocks=3, steps=1, batch_size=128, threads=2)
    record = train_step.summary(seconds, options) | {
        "versions": {"calibrax": {"jax": "1", "flax": "2", "python": "3"}, "pytorch": {"torch": "4"}}
    }
    assert record["rows"]["calibrax"]["ratio"] == pytest.approx((0.5, 1 / 3, 1.0))
    assert record["rows"]["calibrax"]["steps_per_s"] == pytest.approx((10 / 3, 2.5, 5.0))
    assert record["rows"]["pytorch"]["ratio"] == (1.0, 1.0, 1.0)
    assert "0.50 [0.33, 1.00]" in train_step.table(record)


class FakeWorker:
    def __init__(self, losses):
        self.answers = {"losses": losses, "export": {}, "load": {}}

    def ask(self, **request):
        return self.answers[next(iter(request))]


def test_losses_that_differ_stop_the_benchmark():
    def check(loss, tolerance=1e-4):
        workers = {"calibrax": FakeWorker([1.0, 2.0]), "pytorch": FakeWorker([1.0, loss])}
        return train_step.check_losses(workers, list(workers), tolerance)

    assert check(2.0001) == {"calibrax": {}, "pytorch": {}}
    check(2.001, tolerance=1e-2)
    for bad in (2.001, float("nan")):
        with pytest.raises(train_step.BenchError, match="the losses of pytorch differ by"):
            check(bad)


def test_each_block_of_every_worker_is_timed_after_a_first_one():
    class Worker:
        def __init__(self, seconds):
            self.seconds, self.requests = seconds, []

        def ask(self, time):
            self.requests.append(time)
            return time * self.seconds

    workers = {"calibrax": Worker(2.0), "flax.linen": Worker(3.0)}
    seconds = train_step.measure(workers, argparse.Namespace(blocks=2, steps=16))
    assert seconds == {"calibrax": [2.0, 2.0], "flax.linen": [3.0, 3.0]}
    assert workers["calibrax"].requests == [16, 16, 16]
    assert workers["flax.linen"].requests == [2, 2, 2]  # it is slow


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--torch-python", "no-such-python"], "torch cannot be imported by no-such-python"),
        (["--blocks", "0"], "--blocks is 0; expected at least 1"),
    ],
)
def test_mistakes_are_reported_in_one_line(capsys, argv, match):
    assert train_step.main(argv) == 2
    assert match in capsys.readouterr().err


def test_the_linen_network_has_the_same_parameters_and_trains():
    """The step of the contender of `--linen` is traced, not run."""
    parts = rates.parts_of() | {"model": jax_worker.LinenVAE()}
    batch, key = rates.images(2), jax.random.key(0)
    state = jax.eval_shape(functools.partial(create_train_state, **parts), key, batch[:1])
    ours = jax.eval_shape(functools.partial(create_train_state, **rates.parts_of()), key, batch[:1])
    sizes = [sorted(leaf.size for leaf in jax.tree.leaves(of.params)) for of in (state, ours)]
    assert sizes[0] == sizes[1]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        new, _ = jax.eval_shape(functools.partial(train_step_of, **parts), state, batch, key)
    assert jax.tree.structure(new) == jax.tree.structure(state)


def test_a_worker_that_dies_is_reported_in_one_line():
    worker = train_step.Contender("calibrax", [sys.executable, "-c", ""], {}, None)
    with pytest.raises(train_step.BenchError, match="the calibrax process stopped"):
        worker.ask(time=1)
    worker.stop()


def test_the_suite_writes_one_row_per_line(tmp_path, monkeypatch, capsys):
    """Rows have medians and ranges. Without torch, the lines that need it are left out."""
    answers = {
        "rates": [{"name": "matrix product", "unit": "GFLOP/s", "ours": [100.0, 120.0, 110.0]}],
        "growth": [
            {"name": "step", "unit": "exponent", "ours": [0.9], "last": 0.97, "arithmetic": 1, "seconds": [2.0]}
        ],
        "memory": [{"name": "memory", "unit": "MiB", "ours": [0.5]}],
        "devices": [{"name": "sharded", "devices": 2, "seconds": [2.0, 2.2, 2.4]}],
    }

    def run(command, environment, **options):
        if "benchmarks.rates" not in command:
            return "[1.0]"
        found = answers[command[3]]
        if command[3:] == ["devices", "1"]:
            found = [{"name": "jit", "devices": 1, "seconds": [0.5 * int(environment["NPROC"])]}]
        return "\n".join(map(json.dumps, found))

    monkeypatch.setattr(suite, "run", run)
    out = tmp_path / "results.json"
    assert suite.main(["--torch-python", "no-such-python", "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "torch cannot be imported by no-such-python" in printed.err
    assert "its lines are left out" in printed.err
    record = json.loads(out.read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["matrix product"]["ours"] == {"median": 110, "low": 100, "high": 120}
    relative = [row["ours"]["median"] for row in record["rows"] if row["name"] == "2 devices by sharded, time a step"]
    assert relative == pytest.approx([1.1, 2.2])  # relative to one device with two threads, and with one
    assert rows["step"]["seconds"] == [2.0]
    assert {"processor", "cpus"} <= record["machine"].keys()
    assert record["versions"].keys() >= {"jax", "python"}
    for name in rows:
        assert name in printed.out
    assert "arithmetic 1, last two points 0.97" in printed.out


def test_a_part_that_fails_stops_the_suite_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(suite, "beside_pytorch", lambda options: suite.run([sys.executable, "-c", "exit(3)"], {}))
    assert suite.main([]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("bench: -c exit(3) stopped")


def test_an_unknown_kind_of_measurement_is_refused(capsys):
    assert rates.main(["nothing"]) == 2
    assert capsys.readouterr().err == "bench: expected rates, growth, memory or devices N\n"


def test_the_count_of_operations_is_that_of_the_network():
    """The SVHN network at 28x28x3 takes 288 MFLOP per training step and example, a third of it forward.

    That is 48.2 million multiplications with additions, less what the image borders save.
    """
    model = rates.parts_of()["model"]
    image = np.zeros((1, 28, 28, 3), np.uint8)
    variables = model.init(jax.random.key(0), image, jax.random.key(0))
    counted = rates.flops(lambda x: model.apply(variables, x, jax.random.split(jax.random.key(0), 1)), image)
    assert counted == pytest.approx(288e6 / 3, rel=0.15)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The output path and the arguments of the accelerator benchmark, on 8x8 images."""

    def parts_of(likelihood=None):  # a model without convolutions is traced and compiled sooner
        parts = rates.parts_of(8, 2, likelihood)
        return parts | {"model": LinearVAE((8, 8, 3), parts["likelihood"].output_channels(3))}

    monkeypatch.setattr(accelerator, "parts_of", parts_of)
    monkeypatch.setattr(accelerator, "images", lambda num: rates.images(num, 8))
    monkeypatch.setattr(accelerator, "has_cuda", lambda python: True)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    out = tmp_path / "results" / "accelerator.json"
    settings = ["--batch-size", "2", "--steps", "10", "--blocks", "2", "--product", "16", "--out", str(out)]
    return out, [*settings, "--models", "conv-vae", "--model-batch", "2", "--model-steps", "2"]


def test_the_accelerator_benchmark_writes_one_row_per_line(small, monkeypatch, capsys):
    out, settings = small
    losses = iter(("[2.0, 1.0]", "[2.0, 1.00001]", "[2.0, 1.001]"))
    monkeypatch.setattr(suite, "run", lambda *args, **options: next(losses))
    seconds = {"calibrax": [0.1, 0.2], "calibrax, bfloat16": [0.05, 0.05], "PyTorch eager": [0.2, 0.6]}
    monkeypatch.setattr(accelerator, "in_turn", lambda commands, options: seconds)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert accelerator.main([*settings, "--trace", str(out.parent / "trace")]) == 0
    assert list((out.parent / "trace").rglob("perfetto_trace.json.gz"))
    printed, record = capsys.readouterr().out, json.loads(out.read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert all(name in printed for name in rows)
    assert rows["losses, default precision, difference from the CPU's"]["ours"]["high"] == pytest.approx(1e-3)
    assert rows["step, float32, against PyTorch eager"]["ratio"]["high"] == pytest.approx(3)
    assert rows["step, float32"]["seconds_of_10_epochs"] == pytest.approx(5720 * 0.15)
    assert rows["8 seeds in one program, times the throughput of one"]["ours"]["median"] > 0
    assert rows["step, categorical against gaussian"]["arithmetic_ratio"] > 2
    assert rows["conv-vae, bfloat16"]["ours"]["median"] > 0
    assert record["device"] == jax.devices()[0].device_kind


def test_an_accelerator_whose_losses_differ_is_not_timed(small, monkeypatch, capsys):
    out, settings = small
    losses = iter(("[2.0, 1.0]", "[2.0, 1.001]", "[2.0, 1.0]"))
    monkeypatch.setattr(suite, "run", lambda *args, **options: next(losses))
    assert accelerator.main(settings) == 1
    assert "bench: losses in full precision differ by 1.0e-03 from the CPU's" in capsys.readouterr().err
    assert not out.exists()


def test_mistakes_in_the_accelerator_benchmark_are_reported_in_one_line(small, capsys):
    assert accelerator.main([*small[1], "--steps", "0"]) == 2
    assert capsys.readouterr().err == "bench: --steps is 0; expected at least 1\n"
