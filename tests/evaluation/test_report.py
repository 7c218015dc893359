"""Runs side by side: labels, the table, and the command with a user's mistakes."""

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calibrax.evaluation import report
from calibrax.runs.compare import compare
from calibrax.runs.config import ConfigError, TrainConfig
from calibrax.runs.folder import RunError, write_json


def result(**fields):
    """A record as in results.json; fields of the record or of its test evaluation."""
    test = {"neg_elbo": -3249.04, "neg_elbo_stderr": 35.31, "rate": 68.06, "distortion": -3317.1, "mse": 0.0035}
    test |= {"discretized_neg_elbo": 9688.4, "bits_per_dim": 5.94304, "sigma": 0.0580674, "effective_beta": 0.0067436}
    test |= {"num_examples": 1000}
    record = {"data": "svhn", "train_examples": 9000, "likelihood": "optimal-sigma", "event_shape": [28, 28, 3]}
    record |= {"model": "conv-vae", "step": 5730, "seed": 0}
    test |= {name: value for name, value in fields.items() if name in test}
    record |= {name: value for name, value in fields.items() if name not in test}
    return record | {"test": {"running average": test, "calibrated": test}, "train": {"running average": test}}


def measured(name, distance, num=1000):
    kid_name = name.replace("FID", "KID")
    return {
        "fid": {"value": distance, "name": name, "num_a": num, "num_b": num, "note": None},
        "kid": {"mean": 0.0123, "stderr": 0.0004, "name": kid_name, "num_a": num, "num_b": num, "note": None},
        "weights": "0123abcd",
        "note": None,
    }


def cells(table):
    """The table's rows as dicts by heading, and the lines below it."""
    lines = table.splitlines()
    headings = re.split(r" {2,}", lines[0].strip())
    rows = []
    for line in lines[1:]:
        values = re.split(r" {2,}", line.strip())
        if len(values) != len(headings):
            break
        rows.append(dict(zip(headings, values, strict=True)))
    return rows, lines[1 + len(rows) :]


def test_the_table_holds_the_running_average_s_numbers():
    bernoulli = {"likelihood": "bernoulli", "neg_elbo": 1612.0, "sigma": None, "effective_beta": None, "seed": 3}
    records = {"optimal-sigma": result(), "bernoulli": result(**bernoulli, discretized_neg_elbo=None)}
    records["optimal-sigma"]["test"]["calibrated"] = {}
    del records["bernoulli"]["test"]["running average"]["bits_per_dim"]
    table = report.comparison_table(records)
    (first, second), notes = cells(table)
    assert first == {
        "run": "optimal-sigma", "step": "5,730", "seed": "0", "-ELBO (nats)": "-3249.0 ± 35.3", "rate": "68.1",
        "distortion": "-3317.1", "-log P 256": "9688.4", "bits/dim": "5.943", "σ": "0.05807", "effective β": "0.006744",
    }  # fmt: skip
    assert second["seed"] == "3"
    assert [second[name] for name in ("-log P 256", "bits/dim", "σ", "effective β")] == ["-"] * 4
    assert notes == ["tested on svhn 28x28x3, 1,000 test images"]
    assert len({len(line) for line in table.splitlines()[:3]}) == 1  # aligned


def test_the_likelihood_has_a_column_if_labels_do_not_name_it():
    (row,), _ = cells(report.comparison_table({"mine": result()}))
    assert row["likelihood"] == "optimal-sigma"


def test_a_standard_error_that_is_not_a_number_is_left_out():
    (row,), _ = cells(report.comparison_table({"optimal-sigma": result(neg_elbo_stderr=math.nan)}))
    assert row["-ELBO (nats)"] == "-3249.0"


def test_fid_of_other_features_keeps_its_name():
    records = {
        "optimal-sigma, a": result(fid=measured("FID", 51.2)),
        "optimal-sigma, b": result(fid=measured("FID-768", 0.31)),
        "optimal-sigma, c": result(),
    }
    (a, b, c), notes = cells(report.comparison_table(records))
    assert [a["FID"], a["KID"], a["FID-768"], a["KID-768"]] == ["51.20", "0.01230 ± 0.00040", "-", "-"]
    assert [b["FID"], b["KID"], b["FID-768"], b["KID-768"]] == ["-", "-", "0.31", "0.01230 ± 0.00040"]
    assert [c["FID"], c["FID-768"]] == ["-", "-"]
    assert len(notes) == 1
    records["optimal-sigma, c"] = result(fid=measured("FID", 60.0, num=500))
    assert any("number of images" in note for note in cells(report.comparison_table(records))[1])


@pytest.mark.parametrize("other", [{"data": "mnist"}, {"num_examples": 500}, {"event_shape": [32, 32, 3]}])
def test_different_test_images_are_reported_as_not_comparable(other):
    table = report.comparison_table({"optimal-sigma, a": result(), "optimal-sigma, b": result(**other)})
    assert "these runs were tested on different data; their nats do not compare: svhn 28x28x3, 1,000" in table


def test_probabilities_are_not_compared_with_densities():
    categorical = result(likelihood="categorical", neg_elbo=9100.0, discretized_neg_elbo=9100.001)
    assert "of a probability" in report.comparison_table({"optimal-sigma": result(), "categorical": categorical})
    assert "of a probability" not in report.comparison_table({"categorical": categorical})


def labels_of(*records):
    return report.labels([f"runs/folder{index}" for index in range(len(records))], records)


def test_labels_name_only_what_differs():
    beta = {"likelihood": "beta-gaussian"}
    assert labels_of(result(seed=4)) == ["optimal-sigma"]
    assert labels_of(result(), result(likelihood="bernoulli", seed=7)) == ["optimal-sigma", "bernoulli"]
    assert labels_of(result(), result(seed=1, step=9)) == ["optimal-sigma, seed 0", "optimal-sigma, seed 1"]
    assert labels_of(result(**beta, beta=0.01), result(**beta, beta=0.1, seed=1), result()) == [
        "beta-gaussian, β 0.01",
        "beta-gaussian, β 0.1",
        "optimal-sigma",
    ]
    assert labels_of(result(**beta, effective_beta=0.00999999), result(**beta, effective_beta=1.0)) == [
        "beta-gaussian, β 0.01",
        "beta-gaussian, β 1",
    ]
    assert labels_of(result(), result(data="mnist", likelihood="bernoulli")) == [
        "optimal-sigma, svhn",
        "bernoulli, mnist",
    ]
    assert labels_of(result(beta=1.0), result(beta=0.5, step=10)) == [  # optimal-sigma has no β
        "optimal-sigma, step 5,730",
        "optimal-sigma, step 10",
    ]
    assert labels_of(result(), result()) == ["optimal-sigma, folder0", "optimal-sigma, folder1"]
    assert report.labels(["a/run", "b/run"], [result(), result()]) == [
        "optimal-sigma, a/run",
        "optimal-sigma, b/run",
    ]


@st.composite
def any_records(draw):
    fields = {
        "likelihood": st.sampled_from(["optimal-sigma", "beta-gaussian", "student-t"]),
        "data": st.sampled_from(["svhn", "mnist"]),
        "beta": st.sampled_from([None, 1.0, 0.1]),
        "df": st.sampled_from([None, 3.0]),
        "seed": st.integers(0, 1),
        "step": st.sampled_from([None, 10]),
        "effective_beta": st.sampled_from([None, 0.01, 0.0100000001]),
    }
    return [result(**record) for record in draw(st.lists(st.fixed_dictionaries(fields), min_size=1, max_size=8))]


@settings(max_examples=100, deadline=None)
@given(any_records(), st.data())
def test_labels_are_unique(records, data):
    folder = st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")).map("/".join)
    folders = data.draw(st.lists(folder, min_size=len(records), max_size=len(records), unique=True))
    names = report.labels(folders, records)
    assert len(set(names)) == len(records)
    for name, record in zip(names, records, strict=True):
        assert name.startswith(record["likelihood"])


ROWS = [
    {"step": 1, "split": "train", "loss": 5.0, "log_sigma": -0.5},
    {"step": 2, "split": "train", "loss": 3.0, "log_sigma": -0.7},
    {"step": 2, "split": "test", "neg_elbo": 4.0, "sigma": 0.5},
]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two runs, as they lie on the disk."""
    monkeypatch.chdir(tmp_path)
    for name, config in {
        "one": TrainConfig(),
        "two": TrainConfig.for_model(likelihood="beta-gaussian", beta=0.01),
    }.items():
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", {"config": config.flat()})
        record = result(likelihood=config.likelihood.name, fid=measured("FID-768", 0.3))
        write_json(tmp_path / name / "results.json", record)
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path


def test_compare_prints_the_table_and_draws_the_figure(folders):
    *table, path = compare(["one", "two"]).splitlines()
    assert path == "comparison.png"
    with Image.open(folders / path) as picture:
        assert picture.width == 1200
    found, notes = cells("\n".join(table))
    assert [row["run"] for row in found] == ["optimal-sigma", "beta-gaussian"]
    assert found[0]["FID-768"] == "0.30"
    assert notes == ["tested on svhn 28x28x3, 1,000 test images"]
    (folders / "two" / "metrics.jsonl").unlink()
    assert compare(["two"], "new/figure.svg").endswith("new/figure.svg")
    assert "beta-gaussian (no values)" in (folders / "new" / "figure.svg").read_text()


def test_settings_distinguish_runs(folders):
    config = json.loads((folders / "two" / "config.json").read_text())["config"]
    for name, settings_ in {"two": config, "three": config | {"latent_dim": 40}}.items():
        (folders / name).mkdir(exist_ok=True)
        write_json(folders / name / "config.json", {"config": settings_})
        write_json(folders / name / "results.json", result(likelihood="beta-gaussian"))
    out = compare(["two", "three"])
    assert "beta-gaussian, 20 latent dimensions" in out
    assert "beta-gaussian, 40 latent dimensions" in out


@pytest.mark.parametrize(
    ("named", "out", "match"),
    [
        ([], None, "no run to compare; expected at least one folder"),
        (["one", "nowhere"], None, "nowhere holds no run"),
        (["one", "./one/"], None, r"./one/ is named twice"),
        (["one"], "figure.pdf", "--out is figure.pdf; expected a name that ends in .png or .svg"),
        (["one"], "one/config.json/x.png", "cannot write one/config.json/x.png"),
    ],
)
def test_mistakes_of_compare_are_one_line(folders, named, out, match):
    with pytest.raises((RunError, ConfigError), match=match) as caught:
        compare(named, out)
    assert "\n" not in str(caught.value)
    assert not (folders / "comparison.png").exists()


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("results.json", None, "one holds no results yet; calibrax evaluate one makes them"),
        ("results.json", "{", r"cannot read one/results.json: "),
        ("results.json", "[]", "cannot read one/results.json: it holds no results of a run"),
        ("results.json", '{"test": {"running average": 3}}', "cannot read one/results.json: it holds no results"),
        ("config.json", "{", "cannot read one/config.json"),
        ("metrics.jsonl", "3\n{}\n", "one/metrics.jsonl: line 1 is not a row of metrics"),
        ("metrics.jsonl", '{"step": 1}\n{}\n', "line 1 is not a row of metrics"),
    ],
)
def test_damaged_runs_are_one_line(folders, name, text, match):
    path = folders / "one" / name
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(RunError, match=match) as caught:
        compare(["two", "one"])
    assert "\n" not in str(caught.value)
    assert not (folders / "comparison.png").exists()
