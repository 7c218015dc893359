"""Moving digits: their paths, their sources, and that a video depends only on its index."""

import time

import numpy as np
import pytest

from calibrax.data.datasets.moving_digits import MAX_SPEED, MovingDigits, _scattered, drawn_digits, moving_digits

DOT = np.full((1, 1, 1), 100, np.uint8)  # a digit of one pixel, whose path can be read off the frames


def path(seed, num_frames, size=12, deterministic=True):
    """Row and column of one bouncing pixel, [T, 2]."""
    source = MovingDigits(DOT, 1, seed, num_frames, size=size, num_digits=1, deterministic=deterministic)
    frames, rows, columns, _ = np.nonzero(source[0])
    np.testing.assert_array_equal(frames, np.arange(num_frames))
    return np.stack([rows, columns], axis=1)


def test_shapes_and_levels():
    videos = moving_digits(None, 3, seed=1, num_frames=7)
    assert videos.shape == (3, 7, 64, 64, 1)
    assert videos.dtype == np.uint8
    assert videos.max() == 255
    assert (videos == 0).mean() > 0.7
    assert len(MovingDigits(num=5)) == 5


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_video_depends_on_its_seed_and_index_alone(deterministic):
    def videos(num, seed, num_frames):
        return moving_digits(None, num, seed, num_frames, deterministic=deterministic)

    many = videos(6, 3, 12)
    source = MovingDigits(None, 100, 3, 12, deterministic=deterministic)
    for index in (5, 0, 3):
        np.testing.assert_array_equal(source[index], many[index])
    np.testing.assert_array_equal(videos(2, 3, 30)[:, :12], many[:2])  # longer videos begin as shorter ones
    assert (videos(6, 4, 12) != many).any(axis=(1, 2, 3, 4)).all()
    assert len({video.tobytes() for video in many}) == 6


@pytest.mark.parametrize("seed", range(6))
def test_edges_reflect_deterministic_digits(seed):
    place = path(seed, 60).astype(int)
    step = np.diff(place, axis=0)
    for axis in (0, 1):
        speed = np.abs(step[:, axis]).max()
        assert speed <= MAX_SPEED
        # Unfolded at the edges it is one straight line: a step is whole unless it met an edge, where it turns.
        turned = np.abs(step[:, axis]) < speed
        for frame in np.flatnonzero(turned):
            before, after = place[frame, axis], place[frame + 1, axis]
            assert speed in (before + after, 22 - before - after)
        inside = ~turned[:-1] & ~turned[1:] & (place[1:-1, axis] > 0) & (place[1:-1, axis] < 11)
        np.testing.assert_array_equal(step[:-1, axis][inside], step[1:, axis][inside])


def test_paths_are_random_only_after_an_edge():
    start, speed, room = np.array([[10, 10]]), np.array([[0, 3]]), np.array([20, 20])
    some = [_scattered(start, speed, room, 30, rng=np.random.default_rng(seed))[:, 0] for seed in range(8)]
    for place in some:
        np.testing.assert_array_equal(place[:5], [[10, 10], [10, 13], [10, 16], [10, 19], [10, 20]])
    assert len({place.tobytes() for place in some}) == 8


@pytest.mark.parametrize("seed", range(6))
def test_scattered_digits_turn_only_at_an_edge_and_leave_it(seed):
    place = path(seed, 200, deterministic=False).astype(int)
    step = np.diff(place, axis=0)
    at_edge = ((place == 0) | (place == 11)).any(axis=1)[1:-1]
    changed = (step[1:] != step[:-1]).any(axis=1)
    into_edge = at_edge[1:]  # a step cut short by the edge
    assert not (changed[:-1] & ~at_edge[:-1] & ~into_edge).any()
    if step.any():
        assert np.abs(step).max() <= MAX_SPEED
        assert changed.any()


def test_scattered_speeds_are_spread_evenly():
    """Right after an edge: away from it at 1 to 4, along it at -4 to 4, all equally often."""
    away, along = [], []
    for seed in range(400):
        place = path(seed, 90, size=40, deterministic=False).astype(int)
        step = np.diff(place, axis=0)
        for frame in range(1, 88):
            met = (place[frame] == 0) & (step[frame - 1] < 0)
            if met[0] and 4 < place[frame, 1] < 35 and step[frame, 0] > 0:
                away.append(step[frame, 0])
                along.append(step[frame, 1])
    assert len(away) > 300
    assert set(away) == {1, 2, 3, 4}
    assert set(along) == set(range(-4, 5))
    assert abs(np.mean(along)) < 0.5
    assert abs(np.mean(away) - 2.5) < 0.25


def test_digits_are_those_given_and_overlaps_add_up():
    given = np.random.default_rng(0).integers(1, 256, (3, 5, 5, 1), dtype=np.uint8)
    frame = MovingDigits(given, 1, 0, 1, size=9, num_digits=1)[0][0, ..., 0]
    rows, columns = np.nonzero(frame)
    cut = frame[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert any(np.array_equal(cut, digit[..., 0]) for digit in given)
    full = MovingDigits(given[:1], 1, 0, 1, size=5, num_digits=3)[0][0]  # no room to move: all on one spot
    np.testing.assert_array_equal(full, np.minimum(3 * given[0].astype(int), 255))


def test_drawn_digits():
    digits = drawn_digits()
    assert digits.shape == (60, 28, 28)
    assert digits.dtype == np.uint8
    assert digits.max(axis=(1, 2)).min() > 200
    assert len({digit.tobytes() for digit in digits}) == 60
    assert (digits[:, [0, -1]] < 128).all()  # about four black rows above and below


def test_real_digits_move(real_data):
    with np.load(real_data / "mnist.npz") as archive:
        digits = archive["test"]
    videos = moving_digits(digits, 40, num_frames=10)
    expected = 2 * digits.sum(dtype=np.int64) / len(digits) / 64**2  # two digits a frame, less where they overlap
    assert 0.8 * expected < videos.mean() < 1.05 * expected


def test_drawing_videos_is_fast():
    source = MovingDigits(None, 100, 0, 20)
    source[0]
    start = time.perf_counter()
    for index in range(20):
        source[index]
    assert 20 * 20 / (time.perf_counter() - start) > 2000  # frames a second; some 40,000 on one core


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num": 0}, "num is 0; expected 1 or more"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"num_frames": 0}, "num_frames is 0; expected 1 or more"),
        ({"num_digits": 0}, "num_digits is 0; expected 1 or more"),
        ({"size": 27}, "size is 27; expected 28 or more"),
        ({"digits": np.zeros((2, 28, 28), np.float32)}, r"digits is float32 \(2, 28, 28\); expected uint8"),
        ({"digits": np.zeros((2, 28, 28, 3), np.uint8)}, r"digits is uint8 \(2, 28, 28, 3\); expected uint8"),
        ({"digits": np.zeros((0, 28, 28), np.uint8)}, r"digits is uint8 \(0, 28, 28\)"),
        ({"digits": np.zeros((28, 28), np.uint8)}, r"digits is uint8 \(28, 28\)"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, match):
    with pytest.raises(ValueError, match=rf"^{match}[^\n]*$"):
        MovingDigits(**arguments)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_an_index_error(index):
    with pytest.raises(IndexError, match=f"index is {index}; expected 0 to 2"):
        MovingDigits(num=3)[index]
