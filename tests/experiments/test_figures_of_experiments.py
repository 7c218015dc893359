"""Figures of the experiments: whole files, what they show and where, labels that keep apart."""

import itertools
import math
import os
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from drawn import figure_of
from hypothesis import given
from hypothesis import strategies as st
from log_rows import RUNS, rows
from PIL import Image

from experiments.figures import collapse as collapse_figure
from experiments.figures import scores as score_figure
from experiments.figures import series as series_figure
from experiments.figures import sigma_curves
from experiments.figures import tradeoff as tradeoff_figure
from experiments.figures.costs import Cost, save_costs
from experiments.figures.coverage import Observed, save_coverage
from experiments.figures.panels import save_comparison, save_strips
from experiments.figures.scores import Score
from experiments.figures.series import Panel, Place, Series
from experiments.figures.tradeoff import InformationPoint, Point
from experiments.report import Mean

SWEEP = [
    Point(f"β {beta:g}", rate, distortion, 0.5, 20.0, True)
    for beta, rate, distortion in ((10, 2, -1200), (0.001, 110, -3700), (0.1, 30, -2700), (1, 10, -1800))
]
POINTS = [*SWEEP, Point("optimal-sigma", 66.0, -3420.0), Point("shared-sigma", 62.0, -3380.0, 0.4)]
INFORMATION = [
    InformationPoint(f"β {beta:g}", beta, rate, min(rate, 9.0), rate - min(rate, 9.0), rate - 0.1, 0.1, True)
    for beta, rate in ((1.0, 10.0), (0.001, 110.0), (0.1, 30.0))
] + [
    InformationPoint("optimal-sigma", 0.0067, 66.0, 9.1, 56.9, 62.5, 3.5, False),
    InformationPoint("shared-sigma", 0.0075, 63.0, 9.1, 53.9, 60.0, 3.0, False),
]
SCORES = [
    Score("optimal σ", -3330.0, 12.0, -3200.0),
    Score("bernoulli", 1612.0, None, None),
    Score("categorical", None, None, 9100.0, doubtful=True),
    Score("per-pixel σ", None, None, None),
]
COLLAPSE = [
    collapse_figure.Point(
        f"β {beta:g}", Mean(math.sqrt(beta / 2), 0.0), Mean(units, 0.3), Mean(rate, None), beta > 0.05
    )
    for beta, units, rate in ((0.01, 20, 60.0), (0.1, 19.5, 30.0), (10.0, 3, 1.0), (300.0, 0, 0.0))
]
VARIANCES = np.geomspace(76, 0.4, 20)
COSTS = [Cost("a long memory", 227.0, 5.0), Cost("held out", 0.1, 0.05), Cost("of the test batch", -4.3, None, False)]
LEVELS = (0.5, 0.9)
OBSERVED = {
    "narrow": Observed(np.array([[0.3, 0.6], [0.01, 0.02]]), np.array([[0.4, 0.5, 0.6, 1.0], 4 * [0.0]])),
    "wide": Observed(np.array([[0.8, 1.0], [0.01, 0.0]]), np.array([[0.1, 0.5, 0.9, 1.0], 4 * [0.0]])),
}
SERIES = [
    Series("β-VAE", [Place("β 1", Mean(9.0, 0.1), [Mean(4600.0, 0.5), None]),
                     Place("", Mean(60.0, None), [Mean(-3.0, 4.0), Mean(1.1, 0.1)])]),
    Series("optimal σ", [Place("", Mean(70.0, 0.2), [Mean(0.0, 0.0), Mean(1.08, 0.02)])]),
]  # fmt: skip
PANELS = [Panel("−ELBO (nats)", "symlog", line=50.0), Panel("FID-768", "log")]
FIGURES = {
    "sigma": (sigma_curves.save_sigma_curves, (RUNS,), {"constant": {"β-VAE, β 0.1": 0.2236}}, (1000, 550)),
    "rate-distortion": (tradeoff_figure.save_rate_distortion, (POINTS,), {}, (1000, 600)),
    "information": (tradeoff_figure.save_information, (INFORMATION,), {"cap": 9.21}, (1100, 750)),
    "collapse": (collapse_figure.save_collapse, (COLLAPSE, VARIANCES), {}, (1200, 560)),
    "series": (series_figure.save_series, (SERIES, PANELS), {"x_label": "rate (nats)"}, (1120, 500)),
    "scores": (score_figure.save_scores, ([("nats", SCORES), ("FID-768", SCORES[:2])],), {}, (800, 200)),
    "costs": (save_costs, (COSTS,), {"unit": "nats"}, (1000, 200)),
    "coverage": (save_coverage, ({"pixels": OBSERVED, "images": OBSERVED}, LEVELS), {}, (1200, 1000)),
}
NAMES = {
    "sigma": ["optimal-sigma, seed 0", "shared-sigma", "β-VAE, β 0.1"],
    "rate-distortion": ["β 0.001", "β 10", "optimal-sigma", "shared-sigma", tradeoff_figure.DISTORTION],
    "information": ["ln N = 9.2", "rate", "marginal KL, lower bound"],
    "collapse": ["active units", "β = 2σ²", "optimal linear VAE", "linear VAE encodes nothing from σ = 8.72 on"],
    "series": ["β-VAE", "optimal σ", "β 1", "−ELBO (nats)", "FID-768", "rate (nats)", "−10", "1,000"],
    "scores": ["optimal σ", "categorical", "nats", "FID-768", "not reported", "paper, in doubt"],
    "costs": ["held out", "227.00 ± 5.00", "-4.30", "nats", "chosen from the test images that it scores"],
    "coverage": ["narrow", "wide", "pixels", "images", "calibrated"],
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_whole_pngs(tmp_path, name):
    save, args, options, least = FIGURES[name]
    path = tmp_path / "new" / "figure.PNG"
    save(path, *args, **options, title="SVHN: $5 & more $")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= least[0]
        assert picture.height >= least[1]
        assert np.asarray(picture.convert("L")).std() > 5
    assert os.listdir(path.parent) == ["figure.PNG"]


@pytest.mark.parametrize("name", FIGURES)
def test_an_svg_keeps_text_and_is_reproducible(tmp_path, name):
    save, args, options, _ = FIGURES[name]
    for path in (tmp_path / "one.svg", tmp_path / "two.svg"):
        save(path, *args, **options, title="SVHN")
    texts = [node.text for node in ElementTree.parse(tmp_path / "one.svg").iter() if node.tag.endswith("}text")]
    assert {*NAMES[name], "SVHN"} <= {(text or "").strip() for text in texts}
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("ending", [".jpeg", "", ".pdf"])
def test_another_ending_is_refused(tmp_path, name, ending):
    save, args, options, _ = FIGURES[name]
    with pytest.raises(ValueError, match=rf"^path is [^\n]*figure{ending}; expected a name that ends in .png or .svg$"):
        save(tmp_path / f"figure{ending}", *args, **options)
    assert not os.listdir(tmp_path)


def unusual():
    """(name, arguments) of what should be drawn all the same."""
    nan = math.nan
    yield "sigma", {"one": rows()[:1]}
    yield "sigma", {}
    yield "sigma", {"no sigma": rows(sigma=False)}
    yield "sigma", {"nan": [{"step": 1, "split": "train", "log_sigma": nan}]}
    yield "rate-distortion", []
    yield "rate-distortion", POINTS[:1]
    yield "rate-distortion", POINTS[-1:]
    yield "rate-distortion", [Point("nan", nan, 1.0), Point("zero", 0.0, 1.0, nan)]
    yield "rate-distortion", [point._replace(rate=2.0, distortion=3.0) for point in POINTS]
    yield "information", []
    yield "information", INFORMATION[:1]
    yield "information", INFORMATION[-1:]
    yield "information", [INFORMATION[0]._replace(beta=0.0), INFORMATION[1]._replace(marginal_kl=nan)]
    yield "collapse", []
    yield "collapse", COLLAPSE[:1]
    yield "collapse", COLLAPSE[-1:]
    yield "series", []
    yield "series", SERIES[:1]
    yield "series", [Series("missing", [Place("", Mean(1.0, None), [None, Mean(nan, None)])])]
    yield "scores", [("nats", [])]
    yield "scores", [("nats", SCORES[3:])]
    yield "scores", [("nats", [Score("nan", nan, nan, math.inf)])]
    yield "scores", [("a", SCORES), ("b", SCORES[::-1])]
    yield "costs", COSTS[1:2]
    yield "costs", [Cost("none", 0.0, None)]


@pytest.mark.parametrize(("name", "drawn"), list(unusual()))
def test_unusual_input_is_drawn_without_a_warning(tmp_path, name, drawn):
    save, (_, *others), options, _ = FIGURES[name]
    with_options = name in ("information", "series", "costs")
    save(tmp_path / "figure.png", drawn, *others, **(options if with_options else {}))
    with Image.open(tmp_path / "figure.png") as picture:
        picture.verify()


def xy(line):
    return np.asarray(line.get_xydata())


def axes_of(save, *args, **options):
    return figure_of(save, *args, **options).axes


def test_sigma_is_drawn_from_the_first_step_on_logarithmic_axes():
    constant = {"one": 0.2, "close": 0.201, "too close": 0.202}
    (axes,) = axes_of(sigma_curves.save_sigma_curves, {"run": rows(500)}, constant=constant)
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert axes.get_xlim() == (1, 500)
    smooth = xy(axes.lines[1])
    np.testing.assert_allclose(smooth[:8], [(s, math.exp(-2.5 + 2 / s)) for s in range(1, 9)])
    assert len(smooth) < 200
    assert [xy(line)[0, 1] for line in axes.lines[2:]] == list(constant.values())
    assert_apart(axes.texts)


def assert_apart(texts):
    boxes = [text.get_window_extent() for text in texts]
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:index]), texts[index]


def test_the_sweep_is_a_curve_in_the_order_of_the_rate():
    (axes,) = axes_of(tradeoff_figure.save_rate_distortion, POINTS)
    (curve,) = (line for line in axes.lines if len(xy(line)) == 4 and line.get_linestyle() == "-")
    assert xy(curve)[:, 0].tolist() == [2, 10, 30, 110]
    assert xy(curve)[:, 1].tolist() == [-1200, -1800, -2700, -3700]
    assert axes.get_xscale() == "log"
    assert sorted(text.get_text() for text in axes.texts) == ["β 0.001", "β 0.1", "β 1", "β 10"]
    assert_apart(axes.texts)
    for rates, scale in (([20, 110], "linear"), ([0, 110], "linear"), ([2, 61], "log")):
        points = [point._replace(rate=rate) for point, rate in zip(SWEEP, rates, strict=False)]
        (axes,) = axes_of(tradeoff_figure.save_rate_distortion, points)
        assert axes.get_xscale() == scale


def test_labels_of_a_crowded_curve_do_not_overlap():
    points = [
        Point(f"β {0.01 + 0.001 * index:g}", 60.0 + 7 * index, -3400.0 - 9 * index, swept=True) for index in range(9)
    ]
    (axes,) = axes_of(tradeoff_figure.save_rate_distortion, [*points, Point("far", 200.0, -3000.0)])
    assert_apart(axes.texts)
    curve = axes.transData.transform(np.array([(point.rate, point.distortion) for point in points]))
    for text in axes.texts:
        box = text.get_window_extent()
        assert not any(box.contains(x, y) for x, y in curve)


def test_information_has_the_bounds_and_the_cap():
    (axes,) = axes_of(tradeoff_figure.save_information, INFORMATION, cap=9.21)
    assert axes.get_xscale() == "log"
    drawn = [xy(line).tolist() for line in axes.lines]
    sweep = sorted(INFORMATION[:3], key=lambda point: point.beta)
    fields = ("rate", "mutual_information", "mutual_information_bound", "marginal_kl", "marginal_kl_bound")
    for field in fields:
        assert [[point.beta, getattr(point, field)] for point in sweep] in drawn
        assert [[point.beta, getattr(point, field)] for point in INFORMATION[3:]] in drawn
    assert [[0, 9.21], [1, 9.21]] in drawn
    words = [text.get_text().strip() for text in axes.texts]
    assert words == ["ln N = 9.2", "shared-sigma, β 0.0075", "optimal-sigma, β 0.0067"]
    assert_apart(axes.texts)
    verticals = [line for line in axes.lines if line.get_transform() == axes.transAxes]
    places = [
        axes.transData.inverted().transform(axes.transAxes.transform((xy(line)[0, 0], 0)))[0] for line in verticals
    ]
    np.testing.assert_allclose(places, [0.0075, 0.0067], rtol=1e-6)


def test_series_are_drawn_where_they_land():
    first, second = axes_of(series_figure.save_series, SERIES, PANELS, x_label="rate")
    assert (first.get_xscale(), first.get_yscale(), second.get_yscale()) == ("log", "symlog", "log")
    curve, optimal = (xy(line).tolist() for line in first.lines if line.get_marker() in ("o", "s"))
    assert curve == [[9.0, 4600.0], [60.0, -3.0]]
    assert optimal == [[70.0, 0.0]]
    assert [xy(line).tolist() for line in second.lines if line.get_marker() == "o"] == [[[60.0, 1.1]]]
    assert [[0, 50.0], [1, 50.0]] in [xy(line).tolist() for line in first.lines]
    bars = [segment.tolist() for line in first.collections for segment in line.get_segments()]
    assert [[60.0, -7.0], [60.0, 1.0]] in bars
    assert [[8.9, 4600.0], [9.1, 4600.0]] in bars
    assert [text.get_text() for text in first.texts] == ["β 1"]
    assert first.get_ylim()[0] < -7


def test_scores_stand_in_the_rows_of_their_labels():
    first, second = axes_of(score_figure.save_scores, [("nats", SCORES), ("FID-768", SCORES)])
    assert [label.get_text() for label in first.get_yticklabels()] == [score.label for score in SCORES]
    assert first.get_ylim() == (3.5, -0.5)
    dots = {(line.get_marker(), *xy(line)[0].tolist()) for line in first.lines if len(xy(line)) == 1}
    expected = {("o", -3330.0, 0), ("o", 1612.0, 1), ("D", -3200.0, 0), ("D", 9100.0, 2), ("x", 9100.0, 2)}
    assert expected <= dots
    assert [text.get_position()[1] for text in first.texts] == [3]
    assert (first.get_xlabel(), second.get_xlabel()) == ("nats", "FID-768")
    assert not any(label.get_visible() for label in second.get_yticklabels())
    with pytest.raises(ValueError, match="groups is empty"):
        score_figure.save_scores("unused.png", [])


def test_costs_stand_in_the_rows_of_their_labels_at_their_values():
    (axes,) = axes_of(save_costs, COSTS, unit="nats")
    assert [label.get_text() for label in axes.get_yticklabels()] == [cost.label for cost in COSTS]
    points = {tuple(xy(container[0])[0].tolist()) for container in axes.containers}
    assert points == {(227.0, 0), (0.1, 1), (-4.3, 2)}
    assert axes.get_xscale() == "symlog"
    assert {-5.0, 0.0, 5.0, 10.0, 200.0} <= set(axes.get_xticks())
    (axes,) = axes_of(save_costs, COSTS[1:], unit="nats")
    assert axes.get_xscale() == "linear"
    with pytest.raises(ValueError, match="costs is empty"):
        save_costs("unused.png", [], unit="nats")


def test_coverage_is_drawn_in_per_cent_from_the_origin():
    above, other, below, _ = axes_of(save_coverage, {"pixels": OBSERVED, "images": OBSERVED}, LEVELS)
    assert [axes.get_title(loc="left") for axes in (above, other)] == ["pixels", "images"]
    inside = [xy(container[0]).tolist() for container in above.containers]
    assert inside == [[[0, 0], [50, 30], [90, 60]], [[0, 0], [50, 80], [90, 100]]]
    assert xy(below.containers[1][0])[:, 1].tolist() == [0, 10, 50, 90, 100]
    assert xy(below.containers[1][0])[:, 0].tolist() == [0, 25, 50, 75, 100]
    with pytest.raises(ValueError, match="kinds is empty"):
        save_coverage("unused.png", {}, LEVELS)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_labels_are_spread_and_keep_their_order(positions):
    moved = sigma_curves._spread(positions, 0.05)
    order = np.argsort(positions, kind="stable")
    assert np.all(moved[order][1:] - moved[order][:-1] >= 0.05 - 1e-9)
    assert moved.max() <= 1 + 1e-9
    if all(after - before >= 0.05 for before, after in itertools.pairwise(sorted(positions))):
        np.testing.assert_allclose(moved, positions)


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def test_panels_stand_side_by_side_and_strips_one_below_the_other(tmp_path):
    colours = {"data": [50, 150, 100], "samples": [200, 0, 90]}
    groups = [(name, np.full((4, 8, 8, 3), colour, np.uint8)) for name, colour in colours.items()]
    save_comparison(tmp_path / "c.png", groups, columns=2, title="street-digits")
    save_strips(tmp_path / "s.png", groups, title="street-digits")
    for name, along in (("c.png", 1), ("s.png", 0)):
        first, second = (np.nonzero((pixels(tmp_path / name) == colour).all(2)) for colour in colours.values())
        assert len(first[0]) == len(second[0]) > 4 * 8 * 8
        np.testing.assert_array_equal(first[1 - along], second[1 - along])
        assert first[along].max() < second[along].min()


@pytest.mark.parametrize("save", [save_comparison, save_strips])
def test_bad_panels_are_refused(tmp_path, save):
    with pytest.raises(ValueError, match="is empty; expected at least one"):
        save(tmp_path / "x.png", [])
    with pytest.raises(ValueError, match=r"^samples has shape [^\n]*; expected \[N, H, W, C\][^\n]*$"):
        save(tmp_path / "x.png", [("samples", np.zeros((3, 4, 4)))])
    assert not os.listdir(tmp_path)
