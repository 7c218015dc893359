import math
import os
import sys

import numpy as np
import pytest
from drawn import figure_of
from PIL import Image

from calibrax.evaluation.figures import images as figures
from calibrax.evaluation.figures import training_curves as curves

RNG = np.random.default_rng(0)
GAP = figures.GAP


def pixels(path):
    with Image.open(path) as picture:
        picture.verify()
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def image_at(picture, row, column, height, width):
    top, left = GAP + row * (height + GAP), GAP + column * (width + GAP)
    return picture[top : top + height, left : left + width]


@pytest.mark.parametrize("shape", [(9, 8, 8, 3), (5, 8, 6, 1), (1, 28, 20, 4)])
def test_every_image_stands_at_its_place(tmp_path, shape):
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "new" / "grid.png"
    figures.save_grid(path, images)
    picture = pixels(path)
    columns = math.ceil(math.sqrt(shape[0]))
    rows = math.ceil(shape[0] / columns)
    scale = round(800 / (columns * shape[2]))
    height, width = scale * shape[1], scale * shape[2]
    assert picture.shape == (rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3)
    for index, image in enumerate(images):
        shown = image_at(picture, *divmod(index, columns), height, width)
        expected = image if shape[3] == 3 else np.repeat(image[..., :1], 3, 2)
        np.testing.assert_array_equal(shown, expected.repeat(scale, 0).repeat(scale, 1))
    assert os.listdir(path.parent) == ["grid.png"]


def test_a_title_stands_above_the_unchanged_grid(tmp_path):
    images = RNG.random((6, 16, 16, 3))
    figures.save_grid(tmp_path / "bare.png", images)
    figures.save_grid(tmp_path / "titled.png", images, title="street-digits, step 12, σ 0.06")
    bare, titled = pixels(tmp_path / "bare.png"), pixels(tmp_path / "titled.png")
    above = len(titled) - len(bare)
    np.testing.assert_array_equal(titled[above:], bare)
    assert titled[:above].min() < 50
    figures.save_grid(tmp_path / "long.png", images[:1], title="a title far longer than the page" * 6)
    long = pixels(tmp_path / "long.png")
    assert (long[:16, -40:] < 50).any()  # not cut off


def test_floats_are_clipped_and_nan_is_black():
    images = np.array([-1.0, 0.5, 2.0, np.nan, np.inf]).reshape(5, 1, 1, 1)
    np.testing.assert_array_equal(figures.as_pixels(images)[:, 0, 0, 0], [0, 128, 255, 0, 255])


def test_reconstructions_stand_under_their_originals(tmp_path):
    originals = RNG.integers(0, 256, (11, 20, 25, 3), dtype=np.uint8)
    figures.save_reconstructions(tmp_path / "r.png", originals, 255 - originals)
    picture, scale, columns = pixels(tmp_path / "r.png"), 4, 8  # 8 images of 25 pixels fill 800
    height, width = scale * 20, scale * 25
    names = picture.shape[1] - (columns * (width + GAP) + GAP)
    assert picture[:, :names].min() < 50
    pair = 2 * (height + 2 * GAP) + 2 * GAP
    for index, original in enumerate(originals.repeat(scale, 1).repeat(scale, 2)):
        row, column = divmod(index, columns)
        here = picture[row * pair :, names:]
        np.testing.assert_array_equal(image_at(here, 0, column, height, width), original)
        np.testing.assert_array_equal(image_at(here[height + 2 * GAP :], 0, column, height, width), 255 - original)


@pytest.mark.parametrize("shape", [(3, 4, 4), (0, 4, 4, 3), (4, 4)])
def test_other_shapes_are_refused(tmp_path, shape):
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match=r"^images has shape [^\n]*; expected \[N, H, W, C\][^\n]*$"):
        figures.save_grid(path, np.zeros(shape))
    assert not path.exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: figures.save_reconstructions(p, x, x[:1]), r"reconstructions has shape \(1, .*; expected \(2,"),
        (lambda p, x: figures.save_grid(p, x.astype(int)), "images has dtype int64; expected floats in .* or uint8"),
    ],
)
def test_other_bad_arguments_are_refused(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "x.png", np.zeros((2, 4, 4, 3)))
    assert not os.listdir(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "grid.png"
    path.write_bytes(b"old")

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        figures.write_whole(path, fail)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["grid.png"]


def run_rows(num=200, **extra):
    """Rows as a run writes them, the first steps orders of magnitude off."""
    train = [
        {"step": s, "split": "train", "loss": 1e6 / s**3 - 3000.0, "rate": 3.0, "distortion": 1e6 / s**3 - 3003.0}
        for s in range(1, num + 1)
    ]
    test = [
        {"step": s, "split": "test", "neg_elbo": -2990.0, "rate": 3.5, "distortion": -2993.5} for s in (num // 2, num)
    ]
    return [row | extra for row in train + test]


def curves_of(rows):
    return figure_of(curves.save_training_curves, rows).axes


@pytest.mark.parametrize(
    "extra",
    [{"log_sigma": -2.5}, {"mse": 0.01}, {}, {"log_sigma": None, "mse": None}, {"log_sigma": 1e9}, {"mse": -1.0}],
)
def test_curves_are_drawn_without_missing_and_odd_values(tmp_path, extra):
    rows = run_rows(**extra)
    rows[40]["loss"], rows[41]["rate"], rows[42]["distortion"] = math.nan, math.inf, None
    rows[-1]["neg_elbo"] = math.nan
    rows[60]["log_sigma"] = 1e9
    curves.save_training_curves(tmp_path / "curves.png", rows, title="a run")
    assert pixels(tmp_path / "curves.png").shape == (800, 1200, 3)
    for some in ([], rows[:1], rows[-1:]):
        curves.save_training_curves(tmp_path / "few.png", some)
        assert pixels(tmp_path / "few.png").shape == (800, 1200, 3)
    assert sorted(os.listdir(tmp_path)) == ["curves.png", "few.png"]


def test_the_axes_leave_out_the_first_steps():
    low, high = curves_of(run_rows())[0].get_ylim()
    assert -3300 < low < -3000
    assert -2990 < high < -1500


def test_a_test_outlier_is_marked_at_the_edge():
    rows = run_rows()
    rows[-1]["neg_elbo"] = 1e7
    axes = curves_of(rows)[0]
    high = axes.get_ylim()[1]
    assert high < -1500
    (edge,) = (line for line in axes.lines if line.get_marker() == "^")
    np.testing.assert_array_equal(edge.get_xydata(), [[200, high]])


@pytest.mark.parametrize(
    ("extra", "title", "value"),
    [({"log_sigma": -2.5, "mse": 0.04}, "σ that the decoder used", math.exp(-2.5)), ({"mse": 0.04}, "root mean", 0.2)],
)
def test_the_fourth_panel_says_what_it_shows(extra, title, value):
    axes = curves_of(run_rows(**extra))[3]
    assert axes.get_title(loc="left").startswith(title)
    assert axes.get_yscale() == "log"
    for line in axes.lines:
        np.testing.assert_allclose(line.get_ydata(), value)
    low, high = axes.get_ylim()
    assert low < value < high


def test_the_smooth_line_is_the_running_median():
    rows = run_rows(800)
    rows[600]["rate"] = 1e9
    thin, smooth = curves_of(rows)[1].lines[:2]
    assert thin.get_ydata().max() == 1e9
    assert len(smooth.get_ydata()) == 400
    np.testing.assert_array_equal(smooth.get_ydata(), 3.0)


def test_pyplot_s_global_state_is_left_alone(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    curves.save_training_curves(tmp_path / "curves.png", run_rows())
    assert ("matplotlib.pyplot" in sys.modules) == before
