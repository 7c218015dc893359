"""The decoder benchmark: its arithmetic, its error messages, and calibrax's side of it. Needs no peer library."""

import argparse
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decoder_peers, decoders
from benchmarks.decoders import Row
from calibrax import likelihoods

OPTIONS = argparse.Namespace(blocks=3, batch_size=2, threads=2)
VERSIONS = {"jax": "1", "calibrax": "2", "numpyro": "3", "tfp": "4", "pytorch": "5"}
ROW = Row(
    "laplace",
    {"calibrax": [2.0, 4.0, 2.0], "numpyro": [3.0, 4.0, 5.0], "tfp": [1.0, 1.0, 1.0]},
    {"calibrax": 1.5, "numpyro": 120.0, "tfp": 12.0},
    {"tfp": "the value differs by 2.0e-03"},
)


def test_the_fastest_peer_must_agree_with_calibrax():
    assert decoders.fastest_peer(ROW) == "numpyro"
    assert decoders.fastest_peer(ROW._replace(complaints={})) == "tfp"
    assert decoders.fastest_peer(ROW._replace(milliseconds={"calibrax": [1.0]})) is None


def test_ratios_are_taken_turn_by_turn():
    assert decoders.ratio(ROW, "numpyro") == (1.5, 1.0, 2.5)


def test_a_table_marks_differences_and_missing_decoders():
    lines = decoders.table([ROW], VERSIONS, OPTIONS).split("\n")
    times, memory = [line for line in lines if line.startswith("| laplace")]
    assert [cell.strip() for cell in times.split("|")[1:-1]] == [
        "laplace", "2.00 [2.00, 4.00]", "4.00 [3.00, 5.00]", "1.00 [1.00, 1.00]*", "-", "1.50",
        "1.50 [1.00, 2.50] numpyro",
    ]  # fmt: skip
    assert [cell.strip() for cell in memory.split("|")[1:-1]] == ["laplace", "1.50", "120", "12.0"]
    assert "* laplace, tfp: the value differs by 2.0e-03" in lines
    assert len({len(line) for line in lines if line.startswith("|")}) == 2  # each table's columns line up


def test_a_table_without_a_peer_has_no_ratio():
    row = Row("laplace", {"calibrax": [2.0, 2.0, 2.0]}, {}, {"tfp": "fails: TypeError: no"})
    table = decoders.table([row], VERSIONS, OPTIONS)
    assert "| fails* |" in " ".join(table.split())
    assert "* laplace, tfp: fails: TypeError: no" in table


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ([1.0, 2.0], ""),
        ([1.0, 2.0001], ""),
        ([1.0, 2.1], "differs by 4.5e-02"),
        ([1.0, np.nan], "is not finite in 1 of 2 places"),
        ([np.inf, -np.inf], "is not finite in 2 of 2 places"),
        ([1.0], "has shape (1,), not (2,)"),
    ],
)
def test_disagreement_in_words(theirs, words):
    assert decoders.disagreement(np.asarray([1.0, 2.0]), np.asarray(theirs)) == words


def test_a_value_that_is_not_finite_in_calibrax_is_attributed_to_it():
    words = decoders.disagreement(np.asarray([np.nan]), np.asarray([1.0]))
    assert words == "is not finite in calibrax in 1 of 1 places"


class FakeWorker:
    """A worker that takes one millisecond per call, and two for calibrax."""

    def __init__(self, values):
        self.values = values

    def ask(self, **request):
        ((kind, argument),) = request.items()
        if kind == "time":
            library, calls = argument
            return calls * (0.002 if library == "calibrax" else 0.001)
        library, _, folder = argument
        value = self.values[library]
        if value is None or isinstance(value, str):
            return value and {"failure": value}
        (Path(folder) / library).mkdir()
        np.save(Path(folder) / library / "value.npy", value)
        return {"temporaries": 2**20}


def test_contenders_are_compared_before_they_are_timed():
    jax = FakeWorker({"calibrax": 1.0, "numpyro": 1.5, "tfp": None})
    workers = {"jax": jax, "pytorch": FakeWorker({"pytorch": "TypeError: no"})}
    row = decoders.measure("laplace", workers, VERSIONS, OPTIONS)
    assert list(row.milliseconds) == ["calibrax", "numpyro"]
    assert row.milliseconds["calibrax"] == pytest.approx([2.0] * OPTIONS.blocks)
    assert row.temporaries == {"calibrax": 1.0, "numpyro": 1.0}
    assert row.complaints == {"numpyro": "the value differs by 5.0e-01", "pytorch": "fails: TypeError: no"}


def test_a_failure_of_calibrax_stops_the_benchmark():
    for answer, match in (("ValueError: x", "calibrax fails at laplace: ValueError: x"), (None, "no laplace_nll")):
        with pytest.raises(decoders.BenchError, match=match):
            decoders.measure("laplace", {"jax": FakeWorker({"calibrax": answer})}, {"calibrax": "1"}, OPTIONS)


@pytest.mark.parametrize("decoder", decoders.INPUTS)
def test_the_benchmark_runs_the_library_s_own_formula(decoder, tmp_path):
    decoders.write_inputs(tmp_path, decoder, (2, 3, 4, 3))
    worker = decoder_peers.Worker()
    worker.tables["calibrax"] = decoder_peers.of_calibrax()
    assert worker.prepare(["calibrax", decoder, str(tmp_path)])["temporaries"] >= 0
    assert worker.time(["calibrax", 2]) > 0
    x, parameters = np.load(tmp_path / "x.npy"), dict(np.load(tmp_path / "parameters.npz"))
    assert x.dtype == (np.uint8 if decoder in decoders.DISCRETE else np.float32)
    trials = {"total": decoder_peers.TRIALS} if decoder == "binomial" else {}
    nll, _ = getattr(likelihoods, f"{decoder}_nll")(x, **parameters, **trials)
    assert nll.shape == (2,)
    np.testing.assert_allclose(np.load(tmp_path / "calibrax" / "value.npy"), np.mean(nll), rtol=1e-5)
    for name, parameter in parameters.items():
        gradient = np.load(tmp_path / "calibrax" / f"{name}.npy")
        assert gradient.shape == parameter.shape
        assert np.isfinite(gradient).all()
        assert np.any(gradient != 0)


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["--blocks", "0"], "--blocks is 0; expected at least 1"),
        (["--only", "gaussian", "gauss"], "--only is gauss; expected names out of gaussian, "),
        (
            ["--json", "no-such-folder/file.json"],
            "--json is no-such-folder/file.json; expected a file in a folder that exists",
        ),
        (["--torch-python", "no-such-python"], "torch cannot be imported by no-such-python"),
    ],
)
def test_mistakes_are_reported_in_one_line(capsys, argv, match):
    assert decoders.main(argv) == 2
    message = capsys.readouterr().err
    assert match in message
    assert message.count("\n") == 1
