"""The benchmark's arithmetic and its mistakes; the timings themselves need torch and a quiet machine."""

import argparse
import sys

import pytest

from benchmarks import train_step


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


class Fake:
    def __init__(self, losses):
        self.answers = {"losses": losses, "export": {}, "load": {}}

    def ask(self, **request):
        return self.answers[next(iter(request))]


def test_losses_that_differ_stop_the_benchmark(tmp_path):
    same = {"calibrax": Fake([1.0, 2.0]), "pytorch": Fake([1.0, 2.0001])}
    train_step.check_losses(same, tmp_path / "start.npz")
    for bad in (2.001, float("nan")):
        with pytest.raises(train_step.BenchError, match="the losses differ by"):
            train_step.check_losses({"calibrax": Fake([1.0, 2.0]), "pytorch": Fake([1.0, bad])}, tmp_path / "start.npz")


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--torch-python", "no-such-python"], "torch cannot be imported by no-such-python"),
        (["--blocks", "0"], "--blocks is 0; expected at least 1"),
    ],
)
def test_mistakes_are_one_line(capsys, argv, match):
    assert train_step.main(argv) == 2
    assert match in capsys.readouterr().err


def test_a_worker_that_dies_is_one_line():
    worker = train_step.Contender("calibrax", [sys.executable, "-c", ""], {}, None)
    with pytest.raises(train_step.BenchError, match="the calibrax process stopped"):
        worker.ask(time=1)
    worker.stop()
