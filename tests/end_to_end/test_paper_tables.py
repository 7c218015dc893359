"""The paper's tables and figures: the files they write, and runs that are shared and resumed."""

import csv
import dataclasses
import importlib
import io
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from calibrax.data import Data
from calibrax.runs import ConfigError, TrainConfig, load_data
from calibrax.training.signals import Interrupted
from experiments import (
    figure3,
    figure4,
    moving_digits,
    paper_figure,
    paper_table,
    question_beta,
    question_collapse,
    question_learned_sigma,
    question_other_weights,
    report,
    sweep,
    table1,
    table2_bair,
    table2_hvae,
    table2_svhn,
    table3,
    table4,
    table5,
)
from experiments.geco import geco
from experiments.report import Table
from experiments.sweep import Case, Result, SweepConfig

HVAE_TABLES = [table2_hvae.table(column, "hvae", 32) for column in table2_hvae.PAPER]
ALL_TABLES = [
    table1.TABLE, table2_svhn.TABLE, *HVAE_TABLES, table2_bair.table(), moving_digits.TABLE, table3.TABLE,
    *map(table4.table, table4.PAPER), table5.TABLE,
]  # fmt: skip
FIGURES = [importlib.import_module(f"experiments.figure{number}").FIGURE for number in (3, 4, 5, 8, 9)]
DATA = Data("tiny", np.zeros((6, 4, 5, 3), np.uint8), np.zeros((2, 4, 5, 3), np.uint8))


def result(case, neg_elbo, seed=0, **numbers):
    """A finished run with these numbers."""
    test = {"neg_elbo": neg_elbo, "discretized_neg_elbo": neg_elbo + 300, "rate": 2.0, "sigma": None} | numbers
    return Result(
        case,
        TrainConfig.for_model(seed=seed, **case.settings),
        {
            "test": {"running average": test},
            "train": {"running average": {}},
            "step": 1,
            "event_shape": list(DATA.event_shape),
        },
    )


LOW = Case("low", {"likelihood": "optimal-sigma"}, paper={"neg_log_p": -100.0, "fid": 3.0}, doubts={"fid": "copied"})
HIGH = Case("high", {"likelihood": "gaussian"}, paper={"neg_log_p": 55.0})
NONE = Case("none", {"likelihood": "bernoulli"}, is_density=False)
TABLE = Table("name", "Title", "mnist", (LOW, HIGH, NONE), ordering=("low", "high"), remark="A remark.", image_size=8)
CONFIG = SweepConfig(seeds=2, fraction=0.5)


def test_markdown_shows_agreement_doubts_and_whether_the_order_holds():
    runs = [result(LOW, -101.0), result(LOW, -103.0, seed=1), result(HIGH, 60.0), result(NONE, 7.0)]
    text = report.markdown(TABLE, runs, CONFIG, DATA, planned=6)
    low, high, none = (next(row for row in text.splitlines() if row.startswith(f"| {name} |")) for name in
                       ("low", "high", "none"))  # fmt: skip
    assert "| -102.0 ± 1.0 | -100 | -2, below |" in low  # 0.02 nats of 60 values: 1.2
    assert "| 3 [1] |" in low
    assert "| 60.0 | 55 | +5, above |" in high
    assert none.startswith("| none | – | – | – | 307.0 |")
    assert "[1] copied" in text
    assert "low < high: holds." in text
    assert "A remark." in text
    assert "the first 50% of its training images: 6 training and 2 test images of 4×5×3" in text
    assert "**Unfinished: 4 of 6 runs.**" in text
    assert "Unfinished" not in report.markdown(TABLE, runs, CONFIG, DATA, planned=4)


def test_a_number_within_the_tolerance_agrees():
    assert report.agreement(1.19, 60) == "+1, agrees"
    assert report.agreement(-1.21, 60) == "-1, below"


@pytest.mark.parametrize(("values", "verdict"), [((60.0, -101.0), "does not hold"), ((-101.0, None), "")])
def test_an_order_that_does_not_hold_is_reported_and_an_unknown_one_is_not(values, verdict):
    runs = [result(case, value) for case, value in zip((LOW, HIGH), values, strict=True) if value is not None]
    text = report.ordering_holds(TABLE, runs)
    assert text.endswith(f"{verdict}.") if verdict else text == ""


def test_csv_has_every_number_beside_that_of_the_paper():
    runs = [result(LOW, -101.0, seed=1), result(LOW, -103.0), result(HIGH, 60.0)]
    rows = {row["decoder"]: row for row in csv.DictReader(io.StringIO(report.as_csv(TABLE, runs)))}
    assert rows["low"]["seeds"] == "0 1"
    assert float(rows["low"]["neg_elbo"]) == -102.0
    assert float(rows["low"]["neg_elbo_stderr"]) == 1.0
    assert float(rows["low"]["neg_elbo_paper"]) == -100.0
    assert rows["low"]["note"] == "copied"
    assert rows["high"]["neg_elbo_stderr"] == ""
    assert rows["none"]["neg_elbo"] == ""


def test_fid_768_is_never_labelled_fid():
    one = result(LOW, -1.0)
    measured = {"fid": {"name": "FID-768", "value": 0.3}, "kid": {"name": "KID-768", "mean": 0.01}}
    text = report.markdown(TABLE, [one._replace(record=one.record | {"fid": measured})], CONFIG, DATA, planned=1)
    assert "| FID-768 |" in text
    assert "| FID |" not in text


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda table: table.name)
def test_tables_are_consistent(table):
    """Every case has valid settings, every number of the paper has a column, and the order names cases."""
    labels = [case.label for case in table.cases]
    assert len(set(labels)) == len(labels)
    assert set(table.ordering) <= set(labels)
    papers = {column.paper for column in table.columns} - {""}
    for case in table.cases:
        likelihood = TrainConfig.for_model(**case.settings).make_likelihood()
        assert set(case.paper) | set(case.doubts) <= papers
        assert likelihood.discretized_nll is not None or not case.is_discrete
        beta = case.settings.get("beta")
        if "neg_log_p" in case.paper and beta is not None and "neg_log_p" not in case.doubts:
            values = 784 if "frey" in table.name or table.name == "table3" else 2352
            assert "hvae" not in case.settings.get("model", "")  # of another scaling and size
            assert case.paper["neg_log_p"] > values / 2 * math.log(math.pi * beta)  # the constant at σ² = β/2


def test_densities_are_shown_in_two_scalings_and_levels_in_one():
    table = HVAE_TABLES[0]
    cases = {case.label: case for case in table.cases}
    runs = [
        result(cases["Optimal σ-VAE"], -100.0),
        result(cases["Categorical VAE"], 500.0),
        result(cases["Bernoulli VAE"], 3.0),
    ]
    wide, unit = table.columns[:2]
    means = [[report.mean(runs, one.case, column) for column in (wide, unit)] for one in runs]
    assert means[0][0].value == pytest.approx(-100 + 60 * math.log(2))
    assert means[0][1].value == -100
    assert means[1][0].value == 500
    assert means[1][1] is None
    assert means[2] == [None, None]
    headings = [heading for heading, _ in paper_table.scores(table, runs)]
    assert headings == [
        "-log p of a density of pixels in [-1, 1] (nats per image)", "-log P of 256 levels (nats per image)"
    ]  # fmt: skip
    # σ = 1 for pixels in [-1, 1] is σ = 1/2 for pixels in [0, 1], and β = 2σ².
    assert cases[table2_hvae.UNIT_WIDE.label].settings["beta"] == 2 * 0.5**2


def test_figures_use_only_runs_of_tables():
    settings = [case.settings for table in (table1.TABLE, table4.table("cifar10")) for case in table.cases]
    for figure in FIGURES:
        assert all(case.settings in settings for case in figure.cases), figure.name


def test_the_chart_has_our_numbers_and_those_of_the_paper():
    runs = [result(LOW, -101.0)]
    ((heading, scores),) = paper_table.scores(TABLE._replace(columns=report.COLUMNS), runs)
    assert heading == "-log p of a density (nats per image)"
    assert [score.label for score in scores] == ["low", "high"]
    assert scores[0].value == -101.0
    assert scores[1].value is None
    assert scores[1].paper == 55.0


@pytest.mark.parametrize(
    ("setting", "match"),
    [
        ({"seeds": 0}, "--seeds is 0"),
        ({"only": ("gausian",)}, "'gausian' is unknown; did you mean gaussian"),
        ({"epochs": -1}, "--epochs is -1"),
        ({"fraction": 0.0}, "--fraction is 0"),
    ],
)
def test_wrong_settings_are_reported(setting, match):
    with pytest.raises(ConfigError, match=match):
        SweepConfig(**setting)


def test_mistakes_on_the_command_line_are_reported_in_one_line(tmp_path, capsys):
    for module, argv, match in [
        (table1, ["--data", "nowhere.npz"], "there is no file nowhere.npz"),
        (table1, ["--seeds", "0"], "--seeds is 0; expected at least 1"),
        (table1, ["--only", "bernoulli"], "--only is bernoulli; expected some of beta-gaussian, gaussian"),
        (table3, ["--data-dir", str(tmp_path), "--inception", "no.pth"], "--inception: "),
        (table4, ["--data", "nowhere.npz"], "--data needs --column, one of celeba, cifar10, frey-face"),
        (table4, ["--column", "mnist"], "mnist"),
        (table2_hvae, ["--image-size", "28"], "--image-size is 28; expected a multiple of 8"),
        (table2_hvae, ["--column", "celeba", "--data-dir", str(tmp_path)], "celeba is not in"),
    ]:
        assert module.main(argv) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert match in lines[0]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 1), dtype=np.uint8)
    np.savez("tiny.npz", train=pixels[:132], test=pixels[132:])
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        yield SweepConfig(data="tiny.npz", epochs=1, seeds=1)


def test_a_table_is_made_once_and_shares_its_runs_with_figures(tiny, monkeypatch, capsys):
    table = TABLE._replace(cases=(LOW, HIGH), ordering=())
    paper_table.make(table, tiny, "the command")
    folder = Path("runs/paper/name")
    names = {"table.md", "table.csv", "chart.png", "chart.svg", "samples.png", "provenance.json"}
    assert {path.name for path in folder.iterdir()} == names
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["command"] == "the command"
    assert provenance["data"]["splits"]["train"]["images"] == 132
    assert [one["decoder"] for one in provenance["runs"]] == ["low", "high"]
    assert provenance["runs"][0]["test"]["calibrated"]["num_examples"] == 28
    assert "[1/2] tiny: low, seed 0" in capsys.readouterr().err
    before = (folder / "table.csv").read_text()
    trained = []
    original = sweep.train
    monkeypatch.setattr(sweep, "train", lambda *args, **parts: trained.append(args) or original(*args, **parts))
    paper_table.make(table, tiny, "the command")
    one_row = dataclasses.replace(tiny, only=("gaussian",), out="one")
    paper_table.make(table, one_row, "the command")
    assert "Only rows of: gaussian." in Path("one/name/table.md").read_text()
    assert "| low |" not in Path("one/name/table.md").read_text()
    figure = paper_figure.Figure("figure", "Figure", "mnist", (HIGH,), side_by_side=True, image_size=8)
    paper_figure.make(figure, tiny, "the command")
    assert not trained
    assert (folder / "table.csv").read_text() == before
    assert {path.name for path in Path("runs/paper/figure").iterdir()} == {"samples.png", "provenance.json"}
    for number, match in ((29, "is 29; expected 0, or 4 to 28, the test images"), (3, "is 3; expected 0, or 4 to")):
        with pytest.raises(ConfigError, match=match):
            paper_table.make(table, dataclasses.replace(tiny, fid_images=number), "the command")
    Path("tiny.npz").rename("moved.npz")
    paper_table.make(table, dataclasses.replace(tiny, data="moved.npz"), "the command")


def test_a_question_is_answered_and_drawn(tiny):
    cases = [case for case in question_collapse.FIGURE.cases if case.settings.get("beta", 300) == 300]
    paper_figure.make(question_collapse.FIGURE._replace(cases=cases, image_size=8), tiny, "the command")
    folder = Path("runs/paper/question-collapse")
    pictures = {"question-collapse.png", "question-collapse.svg"}
    assert {path.name for path in folder.iterdir()} == {"answer.md", "provenance.json"} | pictures
    answer = (folder / "answer.md").read_text()
    with np.load("tiny.npz") as archive:
        covariance = np.cov(archive["train"].reshape(132, 64).T / 255, bias=True)
    sigma = math.sqrt(np.linalg.eigvalsh(covariance)[-1])
    assert "| β-VAE, β = 300 | 12.2474 | 300 | 0.0 | 0 | 0.00 | 0.00 |" in answer
    assert "| Optimal σ-VAE | " in answer
    assert f"at no σ of the sweep; the linear VAE has none from σ = {sigma:.3g} " in answer


@pytest.mark.parametrize(
    ("question", "labels"),
    [
        (question_beta, ["β-VAE, β = 0.01", "Optimal σ-VAE"]),
        (question_learned_sigma, ["optimal σ, Adam at 1e-3", "shared σ, Adam at 1e-2"]),
        (question_other_weights, ["GECO, κ = 0.07", "Beta-Sigma VAE, β = 2", "Optimal σ-VAE"]),
    ],
)
def test_questions_about_weights_are_answered_and_drawn(tiny, question, labels):
    figure = question.FIGURE
    cases = [case for case in figure.cases if case.label in labels]
    assert len(cases) == len(labels)
    paper_figure.make(figure._replace(cases=cases, image_size=8), tiny, "the command")
    folder = Path("runs/paper") / figure.name
    files = {"answer.md", "provenance.json", f"{figure.name}.png", f"{figure.name}.svg"}
    assert {path.name for path in folder.iterdir()} == files
    answer = (folder / "answer.md").read_text()
    assert all(label in answer or label.replace(", ", " | ") in answer for label in labels)
    with Image.open(folder / f"{figure.name}.png") as picture:
        assert picture.width >= 1000


def test_a_case_may_have_a_likelihood_that_the_command_line_does_not_name(tiny, monkeypatch):
    data = load_data(TrainConfig.for_model(data="tiny.npz", image_size=8))
    cases = [Case(f"κ = {error}", {"likelihood": "gaussian"}, likelihood=geco(error)) for error in (0.1, 0.9)]
    results = list(sweep.sweep(tiny, cases, data, source="mnist", image_size=8))
    folders = [Path(one.config.run.run_dir) for one in results]
    assert [folder.name for folder in folders] == ["geco_0.1_-seed0", "geco_0.9_-seed0"]
    assert json.loads((folders[0] / "config.json").read_text())["custom"] == ["likelihood"]
    assert results[0].record["test"].keys() == {"running average"}  # its σ is no average, which could be calibrated
    sigmas = [one.record["test"]["running average"]["sigma"] for one in results]
    assert sigmas[0] < math.sqrt(0.5) < sigmas[1]  # one step from λ = 1: the error is above 0.1 and below 0.9
    assert results[1].run(data).likelihood == geco(0.9)
    assert paper_table.samples(results[0], data, 2).shape == (2, 8, 8, 1)
    monkeypatch.setattr(sweep, "train", None)  # finished runs are read
    again = list(sweep.sweep(tiny, cases, data, source="mnist", image_size=8))
    assert [one.record for one in again] == [one.record for one in results]


def test_an_interrupted_sweep_can_be_continued_and_a_diverged_run_is_left_out(tiny, monkeypatch, capsys):
    data = load_data(TrainConfig.for_model(data="tiny.npz", image_size=8))
    started = []

    def fake(config, data, likelihood):
        del likelihood
        started.append((config.likelihood.name, config.run.resume))
        if config.likelihood.name == "gaussian":
            raise FloatingPointError("the loss is nan at step 1")
        raise Interrupted("saved at step 0")

    monkeypatch.setattr(sweep, "train", fake)
    assert list(sweep.sweep(tiny, (HIGH,), data, source="mnist", image_size=8)) == []
    assert "left out, as training diverged: high, seed 0: the loss is nan at step 1" in capsys.readouterr().err
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        list(sweep.sweep(tiny, (LOW,), data, source="mnist", image_size=8))
    assert started == [("gaussian", False), ("optimal-sigma", False)]


def test_figures_3_and_4_show_means_over_the_seeds(tmp_path):
    case = table1.TABLE.cases[0]
    results = []
    for seed, (rate, error, kl) in enumerate([(60.0, 0.01, 50.0), (64.0, 0.04, 54.0)]):
        run = result(case, 0.0, seed=seed, rate=rate, mse=error, effective_beta=0.001)
        parts = {"mutual_information": 6.0, "marginal_kl": kl}
        bounds = dict.fromkeys(("plain", "dimension_wise", "moment_matched", "held_out"), parts)
        run.record["information"] = {"rate": rate, "cap": 6.9, "num_examples": 1000, "num_draws": 1000, **bounds}
        results.append(run)
    figure_data = paper_figure.FigureData(results, DATA, "a title")
    point = figure3.point(case, figure_data)
    assert (point.rate, point.rate_stderr) == (62.0, 2.0)  # half of the difference
    # D/2·log(2πe·MSE) at the geometric mean of the errors, with D = 4·5·3
    np.testing.assert_allclose(point.distortion, 30 * math.log(2 * math.pi * math.e * 0.02))
    np.testing.assert_allclose(point.distortion_stderr, 30 * math.log(4) / 2)
    assert figure4.point(case, results).marginal_kl == 52.0
    for module in (figure3, figure4):
        module.draw(tmp_path / "figure.png", figure_data)
        assert (tmp_path / "figure.png").stat().st_size > 10_000
