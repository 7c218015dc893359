"""Drawn house numbers: their statistics beside SVHN's, and that image i depends only on the seed and i."""

import functools

import numpy as np
import pytest

from calibrax.data import load
from calibrax.data.datasets import street_digits


def test_an_image_depends_only_on_the_seed_and_its_index(monkeypatch):
    monkeypatch.setattr(street_digits, "CHUNK", 64)
    some = street_digits.draw(40, seed=3)
    more = street_digits.draw(street_digits.CHUNK + 60, seed=3)
    np.testing.assert_array_equal(more[:40], some)
    np.testing.assert_array_equal(street_digits.draw(street_digits.CHUNK + 7, seed=3), more[:-53])
    assert some.shape == (40, 32, 32, 3)
    assert some.dtype == np.uint8
    assert not np.array_equal(street_digits.draw(40, seed=4), some)
    assert street_digits.draw(3, size=28).shape == (3, 28, 28, 3)


@functools.cache
def drawn(num=1500):
    return street_digits.draw(num)


def residual_variance(images, components=20):
    pixels = images[:, ::2, ::2].reshape(len(images), -1) / 255
    eigenvalues = np.linalg.eigvalsh(np.cov(pixels.T))[::-1]
    return eigenvalues[components:].sum() / pixels.shape[1], eigenvalues.sum() / pixels.shape[1]


def sharpness(images):
    """The standard deviation of the second difference along the rows."""
    return np.diff(images.mean(3), n=2, axis=2).std()


def saturation(images):
    """The median image's distance between its strongest and weakest channel."""
    return np.median((images.max(3).astype(float) - images.min(3)).mean((1, 2)))


def test_the_statistics_are_those_of_photographs():
    images = drawn()
    residual, total = residual_variance(images)
    assert 0.002 < residual < 0.01
    assert 0.03 < total < 0.09
    red, green, blue = images.reshape(-1, 3).T
    assert min(np.corrcoef(red, green)[0, 1], np.corrcoef(red, blue)[0, 1]) > 0.8


def test_the_statistics_are_near_svhn_s(real_data):
    real = load(str(real_data / "svhn_subset.npz")).train[:1500]
    images = drawn()
    for ours, theirs in zip(residual_variance(images), residual_variance(real), strict=True):
        assert 1 / 1.5 < ours / theirs < 1.5
    assert abs(images.mean() - real.mean()) < 20
    for statistic in (sharpness, saturation):
        assert 1 / 1.3 < statistic(images) / statistic(real) < 1.3


def test_the_digit_in_the_middle_can_be_read(monkeypatch):
    """Nearest class mean over high-contrast images beats chance by far."""
    glyphs, sample = [], street_digits._sample
    monkeypatch.setattr(street_digits, "_sample", lambda index, *at: (glyphs.append(index), sample(index, *at))[1])
    images = street_digits.draw(2500)
    labels = np.concatenate(glyphs[::3]) % 10  # in each chunk the digit in the middle comes first of three
    assert set(labels.tolist()) == set(range(10))
    grey = images.mean(3)
    grey = grey - grey.mean((1, 2), keepdims=True)
    spread = grey.std((1, 2))
    good = spread > np.median(spread)
    grey, labels = np.abs(grey[good]) / spread[good][:, None, None], labels[good]
    half = len(labels) // 2
    means = np.stack([grey[:half][labels[:half] == digit].mean(0) for digit in range(10)])
    distance = ((grey[half:, None] - means) ** 2).sum((2, 3))
    assert (distance.argmin(1) == labels[half:]).mean() > 0.25


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num": 0}, "num is 0; expected 1 or more"),
        ({"num": 1, "seed": -1}, "seed is -1; expected 0 or more"),
        ({"num": 1, "size": 4}, "size is 4; expected 8 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        street_digits.draw(**arguments)
