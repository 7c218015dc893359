"""The figure that compares runs: a whole file, what it shows and where."""

import math
import os
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from drawn import figure_of
from log_rows import RUNS, rows
from PIL import Image

from calibrax.evaluation.figures.comparison import save_comparison_curves

NAMES = [
    "optimal-sigma, seed 0",
    "bernoulli $a$ & <b> (no σ)",
    "shared-sigma (training batches)",
    "nothing yet (no values)",
]


def test_the_figure_is_a_whole_png(tmp_path):
    path = tmp_path / "new" / "figure.PNG"
    save_comparison_curves(path, RUNS, title="SVHN: $5 & more $")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width >= 1200
        assert picture.height >= 550
        assert np.asarray(picture.convert("L")).std() > 5
    assert os.listdir(path.parent) == ["figure.PNG"]


def test_an_svg_keeps_text_and_is_reproducible(tmp_path):
    for path in (tmp_path / "one.svg", tmp_path / "two.svg"):
        save_comparison_curves(path, RUNS, title="SVHN")
    texts = [node.text for node in ElementTree.parse(tmp_path / "one.svg").iter() if node.tag.endswith("}text")]
    assert {*NAMES, "SVHN"} <= {(text or "").strip() for text in texts}
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


@pytest.mark.parametrize("ending", [".jpeg", "", ".pdf"])
def test_another_ending_is_refused(tmp_path, ending):
    with pytest.raises(ValueError, match=rf"^path is [^\n]*figure{ending}; expected a name that ends in .png or .svg$"):
        save_comparison_curves(tmp_path / f"figure{ending}", RUNS)
    assert not os.listdir(tmp_path)


FAR = {"step": 300, "split": "test", "neg_elbo": 1e30, "sigma": 1e9}
NOT_FINITE = [{"step": 1, "split": "test", "neg_elbo": math.nan, "sigma": -1.0}]


@pytest.mark.parametrize(
    "runs",
    [
        {"one": rows()},
        {"first row": rows()[:1]},
        {"empty": []},
        {},
        {"nan": NOT_FINITE, "b": rows(sigma=False)},
        {"far": [*rows(), FAR]},
        {f"run {index} {'of a very long name ' * 5}": rows(8) for index in range(30)},
    ],
    ids=["one", "first row", "empty", "none", "nan", "far", "many"],
)
def test_unusual_input_is_drawn_without_a_warning(tmp_path, runs):
    save_comparison_curves(tmp_path / "figure.png", runs)
    with Image.open(tmp_path / "figure.png") as picture:
        picture.verify()


def xy(line):
    return np.asarray(line.get_xydata())


def axes_of(runs):
    return figure_of(save_comparison_curves, runs).axes


def test_curves_show_test_values_or_training_batches_without_them():
    left, right = axes_of(RUNS)
    assert [len(xy(line)) for line in left.lines] == [4, 4, 200]
    np.testing.assert_allclose(xy(left.lines[0]), [(s, -2990 + 100 / s) for s in (50, 100, 150, 200)])
    assert len({line.get_color() for line in left.lines}) == 3
    assert [line.get_color() for line in right.lines] == [left.lines[index].get_color() for index in (0, 2)]
    assert right.get_yscale() == "log"
    assert left.get_ylim()[1] < -1000  # the first batches do not squash the rest


def test_an_outlier_is_marked_at_the_edge():
    runs = {"far": [*rows(), {"step": 201, "split": "test", "neg_elbo": 1e7}]}
    left, _ = axes_of(runs)
    (edge,) = (line for line in left.lines if line.get_marker() == "^" and len(xy(line)) == 1)
    np.testing.assert_allclose(xy(edge), [[201, left.get_ylim()[1]]])
