"""The table of metrics: what is asked for is measured, what does not fit is refused, old results still print."""

import dataclasses
import inspect
import json

import jax
import numpy as np
import pytest
from toy import LinearVAE

import calibrax as cx
from calibrax.evaluation import Trained, record
from calibrax.evaluation.metric import NoOptions, Subject, plain
from calibrax.evaluation.metrics.calibration import CalibrationOptions
from calibrax.evaluation.metrics.fid import FidOptions
from calibrax.evaluation.metrics.importance import ImportanceOptions
from calibrax.evaluation.metrics.prediction import PredictionOptions

EVERYTHING = {metric.name: metric.options() for metric in record.METRICS}


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    likelihood, key = cx.gaussian(), jax.random.key(0)
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1), dtype=np.uint8)
    model = LinearVAE((4, 4, 1), 1)
    params = {"model": jax.jit(model.init)(key, images.astype(np.float32), key)["params"], "likelihood": {}}
    trained, folder = Trained(model, likelihood, params, {}), tmp_path_factory.mktemp("run")
    unit = images.astype(np.float32) / 255
    return Subject(trained, unit, key, 256, None, folder, "gaussian", "noise, gaussian, step 0")


def test_what_is_wanted_and_applies_is_measured_and_printed(subject, capsys):
    wanted = {"calibration": CalibrationOptions(9), "importance": ImportanceOptions(2), "prediction": None}
    found = record.measure(wanted, subject)
    assert list(found) == ["importance", "calibration"]  # the table's order
    assert json.loads(json.dumps(found)) == found
    assert (found["importance"]["samples"], found["importance"]["images"]) == (2, 12)
    assert set(found["calibration"]["coverage"]) == {"0.5", "0.8", "0.95", "0.99"}
    assert (subject.folder / "calibration.png").exists()
    err = capsys.readouterr().err.splitlines()
    assert [line.split(" ... ")[0] for line in err] == [
        "importance-weighted bound, 2 samples",
        "calibration, 9 draws a value",
    ]
    lines = list(record.lines({"test": {}, **found}))
    assert lines[0].startswith("-log p, 2 importance samples: ")
    assert lines[1].startswith("coverage of central intervals: 50% holds ")
    assert lines[-1].startswith("FID and KID: not measured")


def test_options_can_leave_a_metric_out(subject):
    wanted = {"importance": ImportanceOptions(0), "calibration": CalibrationOptions(0), "fid": FidOptions()}
    assert record.measure(wanted | {"information": NoOptions()}, subject) == {}  # the model has no encoder of its own
    assert record.measure({"prediction": PredictionOptions(3)}, subject) == {}  # images have no future


@pytest.mark.parametrize(
    ("wanted", "noun", "message"),
    [
        ({"prediction": PredictionOptions(5)}, "images", "--futures has no meaning for a model of images"),
        ({"importance": ImportanceOptions(5)}, "videos", "--importance-samples has no meaning for a model of videos"),
        ({"fid": FidOptions("a.npz", 3)}, "images", "--fid-images is 3; expected 0, or 4 to 12, the test images"),
        ({"fid": FidOptions("a.npz", 13)}, "videos", "--fid-images is 13; expected 0, or 4 to 12, the test images"),
    ],
)
def test_options_that_do_not_fit_the_run_are_refused(wanted, noun, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        record.check_options(wanted, 12, noun)


def test_defaults_and_zeros_fit_every_run():
    for noun in ("images", "videos"):
        record.check_options(EVERYTHING, 12, noun)
        record.check_options({"prediction": PredictionOptions(0), "importance": ImportanceOptions(0)}, 12, noun)
    with pytest.raises(
        ValueError, match=r"^--inception: 3 test images are too few for FID and KID; expected at least 4$"
    ):
        record.check_options({"fid": FidOptions("a.npz")}, 3, "images")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImportanceOptions(-1), "--importance-samples is -1; expected 0 or more"),
        (lambda: CalibrationOptions(1), "--calibration-draws is 1; expected 0, or 2 and more"),
        (lambda: PredictionOptions(-1), "--futures is -1; expected 0 or more"),
        (lambda: FidOptions(None, 8), "--fid-images is 8, but FID and KID are measured with --inception alone"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make()


def test_flags_are_unique_and_have_help_texts():
    flags = [field.name for options in EVERYTHING.values() for field in dataclasses.fields(options)]
    assert len(set(flags)) == len(flags)
    for options in EVERYTHING.values():
        source = inspect.getsource(type(options))
        assert source.count('"""') >= 2 * (1 + len(dataclasses.fields(options)))


def test_results_of_an_older_version_still_print():
    bound = {"mutual_information": 9.0, "marginal_kl": 3.0}
    bounds = dict.fromkeys(("leave_one_out", "dimension_wise", "moment_matched", "held_out"), bound)
    info = {"rate": 12.0, "num_examples": 1000, "num_draws": 1000, "cap": 6.9, "num_active": 4, **bounds}
    info["plain"] = {"mutual_information": 6.8, "marginal_kl": 5.2}
    (line, _) = record.lines({"information": info})
    assert line == (
        "rate 12.0 nats; mutual information 6.8 to 9.0, marginal KL 3.0 to 5.2 (plain Monte Carlo, N = 1,000, "
        "M = 1,000, cap ln N = 6.9, and the tightest bound from the other side); 4 active units"
    )


def test_plain_is_json():
    value = {0.5: Subject(*range(8)), "array": np.arange(3.0), "number": np.float32(2), "none": None}
    assert json.loads(json.dumps(plain(value))) == {
        "0.5": dict(zip(Subject._fields, range(8), strict=True)),
        "array": [0, 1, 2],
        "number": 2,
        "none": None,
    }
