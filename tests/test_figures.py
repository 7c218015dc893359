import numpy as np
import pytest
from PIL import Image

from calibrax.evaluation import figures

RNG = np.random.default_rng(0)


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize(("shape", "columns"), [((9, 8, 8, 3), 3), ((5, 8, 6, 1), 2), ((1, 28, 20, 4), 1)])
def test_every_image_stands_at_its_place(tmp_path, shape, columns):
    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    figures.save_grid(tmp_path / "new" / "grid.png", images, columns=columns)
    picture = pixels(tmp_path / "new" / "grid.png")
    zoom = picture.shape[1] // (columns * (shape[2] + 2) + 2)
    small = picture[::zoom, ::zoom]
    for index, image in enumerate(images):
        top, left = 2 + index // columns * (shape[1] + 2), 2 + index % columns * (shape[2] + 2)
        shown = small[top : top + shape[1], left : left + shape[2]]
        np.testing.assert_array_equal(shown, image if shape[3] == 3 else np.repeat(image[..., :1], 3, 2))
    assert not list(tmp_path.rglob("*.tmp"))


def test_floats_are_clipped_and_nan_does_no_harm(tmp_path):
    images = np.array([-1.0, 0.5, 2.0, np.nan]).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(figures.as_pixels(images)[:, 0, 0, 0], [0, 128, 255, 0])
    figures.save_grid(tmp_path / "x.png", images, title="a title longer than four pixels")
    assert pixels(tmp_path / "x.png").shape[1] > 100


def test_reconstructions_stand_under_their_originals(tmp_path):
    originals = np.zeros((5, 4, 4, 3), np.uint8)
    figures.save_reconstructions(tmp_path / "r.png", originals, originals + 200, columns=5)
    picture = pixels(tmp_path / "r.png")
    zoom = picture.shape[1] // (5 * 6 + 2)
    assert picture[3 * zoom, 3 * zoom].tolist() == [0, 0, 0]
    assert picture[(8 + 3) * zoom, 3 * zoom].tolist() == [200, 200, 200]


@pytest.mark.parametrize("shape", [(3, 4, 4), (0, 4, 4, 3), (4, 4)])
def test_other_shapes_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match=r"^images has shape [^\n]*; expected \[N, H, W, C\]"):
        figures.save_grid(tmp_path / "x.png", np.zeros(shape))
    with pytest.raises(ValueError, match="reconstructions has shape"):
        figures.save_reconstructions(tmp_path / "x.png", np.zeros((2, 4, 4, 3)), np.zeros((3, 4, 4, 3)))


@pytest.mark.parametrize("extra", [{"log_sigma": -2.5}, {"mse": 0.01}, {}])
def test_curves_survive_what_runs_hold(tmp_path, extra):
    rows = [
        {"step": s, "split": "train", "loss": 1e5 / s, "rate": 3.0, "distortion": 1e5 / s} | extra for s in range(1, 90)
    ]
    rows[40]["loss"] = float("nan")
    rows += [{"step": 80, "split": "test", "neg_elbo": 1000.0, "rate": 3.0, "distortion": 997.0}]
    figures.save_training_curves(tmp_path / "curves.png", rows, title="a run")
    assert pixels(tmp_path / "curves.png").shape == (792, 1200, 3)
    figures.save_training_curves(tmp_path / "none.png", [])
    figures.save_training_curves(tmp_path / "one.png", rows[:1])


def test_panels(tmp_path):
    images = RNG.random((12, 8, 8, 3))
    figures.save_panels(tmp_path / "p.png", [("data", images), ("samples", images)])
    assert pixels(tmp_path / "p.png").shape[1] == 1200
