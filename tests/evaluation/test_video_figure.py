"""Figures of videos: every frame is unchanged and at its place; colours separate given from predicted frames."""

import math
import os
import sys

import numpy as np
import pytest
from drawn import figure_of
from PIL import Image, ImageColor

from calibrax.data.datasets.moving_digits import moving_digits
from calibrax.evaluation.figures import video as video_figure
from calibrax.evaluation.figures.video import GIVEN, PREDICTED, save_film, save_gif, save_scores_over_time
from calibrax.evaluation.metrics.frame_scores import frame_scores

GREEN, RED = (ImageColor.getrgb(colour) for colour in (GIVEN, PREDICTED))


def rows_of(num=6, names=("truth", "best", "random"), shape=(16, 20, 3)):
    """Videos whose frames are one colour each, another for every frame of every video."""
    videos = np.zeros((len(names), num, *shape), np.uint8)
    videos[..., 0] = 10 * (1 + np.arange(num))[:, None, None]
    videos[..., 1] = 50 * (1 + np.arange(len(names)))[:, None, None, None]
    return list(zip(names, videos, strict=True))


def box_of(picture, colour):
    """Top, bottom, left and right of the pixels of a colour, which fill that box."""
    rows, columns = np.nonzero((picture == colour).all(axis=-1))
    box = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    assert len(rows) == (box[1] - box[0]) * (box[3] - box[2])
    return box


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def animation(path):
    with Image.open(path) as picture:
        assert picture.format == "GIF"
        assert picture.info["loop"] == 0
        frames, durations = [], []
        for index in range(picture.n_frames):
            picture.seek(index)
            durations.append(picture.info["duration"])
            frames.append(np.asarray(picture.convert("RGB")))
    return frames, durations


def test_every_frame_of_a_film_stands_at_its_place(tmp_path):
    rows = rows_of()
    save_film(tmp_path / "new" / "film.png", rows, 2, title="a model")
    picture = pixels(tmp_path / "new" / "film.png")
    boxes = np.array([[box_of(picture, video[step, 0, 0]) for step in range(6)] for _, video in rows])
    assert (boxes[..., 1] - boxes[..., 0] == 144).all()
    assert (boxes[..., 3] - boxes[..., 2] == 180).all()
    assert (boxes[:, :, 2] == boxes[:1, :, 2]).all()  # columns
    assert (boxes[:, :, 0] == boxes[:, :1, 0]).all()  # rows
    gaps = boxes[0, 1:, 2] - boxes[0, :-1, 3]
    assert gaps[1] > gaps[0] == gaps[2] == gaps[4]  # between what was given and what was predicted
    for colour, columns in ((GREEN, range(2)), (RED, range(2, 6))):
        _, marked = np.nonzero((picture == colour).all(axis=-1))
        assert marked.min() == boxes[0, columns[0], 2]
        assert marked.max() + 1 == boxes[0, columns[-1], 3]
    assert (picture[boxes[0, 0, 0] :, : boxes[0, 0, 2]] < 50).any()  # names
    assert os.listdir(tmp_path / "new") == ["film.png"]


@pytest.mark.parametrize(("past", "colours"), [(0, [RED]), (6, [GREEN]), (3, [GREEN, RED])])
def test_all_or_none_given(tmp_path, past, colours):
    save_film(tmp_path / "film.png", rows_of(), past)
    picture = pixels(tmp_path / "film.png")
    assert [colour for colour in (GREEN, RED) if (picture == colour).all(axis=-1).any()] == colours
    save_gif(tmp_path / "film.gif", rows_of(), past)
    assert len(animation(tmp_path / "film.gif")[0]) == 6


@pytest.mark.parametrize(
    ("num", "past", "columns", "expected"),
    [
        (6, 2, 12, [0, 1, 2, 3, 4, 5]),
        (30, 2, 12, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 29]),
        (20, 10, 6, [7, 8, 9, 11, 15, 19]),
        (20, 20, 4, [16, 17, 18, 19]),
        (20, 19, 4, [17, 18, 19]),
        (9, 0, 3, [2, 5, 8]),
    ],
)
def test_frames_of_a_long_film(num, past, columns, expected):
    assert video_figure._shown(num, past, columns) == expected


def test_an_animation_shows_every_frame_with_its_border(tmp_path):
    rows = rows_of()
    save_gif(tmp_path / "new" / "film.gif", rows, 2, title="a model")
    frames, durations = animation(tmp_path / "new" / "film.gif")
    assert len(frames) == 6
    assert durations == [200] * 6
    for step, frame in enumerate(frames):
        border = GREEN if step < 2 else RED
        for _, video in rows:
            top, bottom, left, right = box_of(frame, video[step, 0, 0])
            assert (bottom - top, right - left) == (64, 80)
            for edge in (
                frame[top - 4 : top, left - 4 : right + 4],
                frame[bottom : bottom + 4, left - 4 : right + 4],
                frame[top:bottom, left - 4 : left],
                frame[top:bottom, right : right + 4],
            ):
                assert np.abs(edge.astype(int) - border).max() <= 8  # of 256 colours a frame
        assert (frame < 50).all(axis=-1).any()  # names and title
    assert os.listdir(tmp_path / "new") == ["film.gif"]


def test_equal_frames_are_not_merged(tmp_path):
    still = np.full((5, 8, 8, 1), 0.5)
    save_gif(tmp_path / "still.gif", [("truth", still)], 2)
    frames, durations = animation(tmp_path / "still.gif")
    assert len(frames) == 5
    assert durations == [200] * 5


def test_films_are_reproducible_to_the_byte(tmp_path):
    videos = moving_digits(None, 2, num_frames=14)
    rows = [("truth", videos[0]), ("a sample with a rather long name", videos[1] / 255)]
    for name, save in (("a.png", save_film), ("b.gif", save_gif)):
        save(tmp_path / name, rows, 2)
        first = (tmp_path / name).read_bytes()
        save(tmp_path / name, rows, 2)
        assert (tmp_path / name).read_bytes() == first
    title = "a title far longer than one small frame is wide, at any scale"
    save_film(tmp_path / "c.png", [("x", videos[0, :1])], 1, title=4 * title)
    assert pixels(tmp_path / "c.png").shape[1] > 1600  # not cut off


VIDEO = np.zeros((4, 8, 8, 1))


@pytest.mark.parametrize(
    ("rows", "past", "match"),
    [
        ([], 1, "rows is empty; expected at least one"),
        ([("truth", VIDEO[0])], 1, r"truth has shape \(8, 8, 1\); expected \[N, H, W, C\]"),
        ([("truth", VIDEO.astype(int))], 1, "truth has dtype int64"),
        ([("truth", VIDEO), ("best", VIDEO[:3])], 1, r"best has shape \(3, 8, 8, 3\); expected \(4, 8, 8, 3\), as"),
        ([("truth", VIDEO)], -1, "past is -1; expected 0 to 4"),
        ([("truth", VIDEO)], 5, "past is 5; expected 0 to 4"),
    ],
)
def test_bad_rows(tmp_path, rows, past, match):
    for name, save in (("x.png", save_film), ("x.gif", save_gif)):
        with pytest.raises(ValueError, match=rf"^{match}[^\n]*$"):
            save(tmp_path / name, rows, past)
    assert not os.listdir(tmp_path)


def test_other_bad_arguments(tmp_path):
    rows = [("truth", VIDEO)]
    with pytest.raises(ValueError, match=r"ends in \.png"):
        save_film(tmp_path / "x.gif", rows, 1)
    with pytest.raises(ValueError, match="scores is empty"):
        save_scores_over_time(tmp_path / "x.png", {})
    with pytest.raises(ValueError, match=r"ends in .png or .svg"):
        save_scores_over_time(tmp_path / "x.pdf", {"a": scores(1)})
    assert not os.listdir(tmp_path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    rows = [("truth", VIDEO)]
    save_gif(tmp_path / "x.gif", rows, 1)
    old = (tmp_path / "x.gif").read_bytes()

    def fail(image, stream, **options):
        stream.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        save_gif(tmp_path / "x.gif", rows, 2)
    assert (tmp_path / "x.gif").read_bytes() == old
    assert os.listdir(tmp_path) == ["x.gif"]


def scores(seed, num=6, clips=9, past=2):
    rng = np.random.default_rng(seed)
    return frame_scores(rng.normal(20, 2, (clips, num)), rng.random((clips, num)), past=past)


def test_scores_stand_at_their_frames_with_a_band():
    named = {"optimal σ": scores(0), "bitwise": scores(1, num=4, past=5)}
    figure = figure_of(save_scores_over_time, named)
    for axes, field in zip(figure.axes, ("psnr", "ssim"), strict=True):
        for line, band, score in zip(axes.lines, axes.collections, named.values(), strict=True):
            mean, stderr = getattr(score, field), getattr(score, f"{field}_stderr")
            np.testing.assert_array_equal(line.get_xdata(), score.first + 1 + np.arange(len(mean)))
            np.testing.assert_allclose(line.get_ydata(), mean)
            (path,) = band.get_paths()
            expected = {(x, y) for x, m, s in zip(line.get_xdata(), mean, stderr, strict=True) for y in (m - s, m + s)}
            found = {(round(x), y) for x, y in path.vertices}
            assert all(any(x == u and math.isclose(y, v) for u, v in found) for x, y in expected)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(named)


def test_scores_that_are_not_finite_are_left_out(tmp_path):
    perfect = frame_scores(np.array([[math.inf, 20.0], [30.0, 21.0]]), np.array([[1.0, 0.5], [0.9, 0.4]]))
    nothing = frame_scores(np.full((2, 2), math.inf), np.full((2, 2), math.nan))
    line = figure_of(save_scores_over_time, {"a": perfect}).axes[0].lines[0]
    np.testing.assert_array_equal(line.get_ydata(), [math.nan, 20.5])
    one = frame_scores(np.array([[20.0]]), np.array([[0.5]]))
    many = {f"a model with a long name, {i}": scores(i) for i in range(9)}
    for index, named in enumerate(({"a": perfect}, {"b": nothing}, {"b": nothing, "c": one}, many)):
        for suffix in ("png", "svg"):
            save_scores_over_time(tmp_path / f"{index}.{suffix}", named, title="moving-digits")
        with Image.open(tmp_path / f"{index}.png") as picture:
            assert picture.width == 1200
    assert "moving-digits" in (tmp_path / "0.svg").read_text(encoding="utf-8")


def test_pyplot_s_global_state_is_left_alone(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    save_scores_over_time(tmp_path / "scores.png", {"a": scores(0)})
    assert ("matplotlib.pyplot" in sys.modules) == before
