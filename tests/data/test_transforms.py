"""Resized images and videos, in memory and on demand; the first examples; a fraction of them."""

import numpy as np
import pytest
from drawn_arrays import images, npz, one_line
from numbered import Lazy, numbered
from PIL import Image

from calibrax.data import Data, first, load, moving_digits, take_fraction, transforms


def test_resize_is_pillow_s_antialiased_bilinear():
    pictures = images(3, (32, 32, 3))
    expected = [np.asarray(Image.fromarray(p).resize((28, 20), Image.Resampling.BILINEAR)) for p in pictures]
    np.testing.assert_array_equal(transforms.resize(pictures, (20, 28)), np.stack(expected))
    two = transforms.resize(images(2, (8, 8, 2)), (4, 4))
    assert two.shape == (2, 4, 4, 2)


def test_resized_in_memory_and_on_demand(tmp_path):
    train = images(3, (6, 8, 10, 3))
    loaded = load(npz(tmp_path / "a.npz", train=train, test=train), image_size=(4, 5), num_frames=2)
    np.testing.assert_array_equal(loaded.train[1], transforms.resize(train[1, :2], (4, 5)))
    assert "resized from 8x10 to 4x5" in loaded.origin
    digits = load("moving-digits", image_size=32, num_train=3, num_frames=4)
    assert digits.event_shape == (4, 32, 32, 1)
    np.testing.assert_array_equal(digits.train[2], transforms.resize(moving_digits(None, 3, 0, 4)[2], (32, 32)))
    assert len(digits.train) == 3


def test_first_and_take_fraction():
    for source in (numbered(7), Lazy(numbered(7))):
        assert first(source, 3)[:, 0, 0, 0, 0].tolist() == [0, 1, 2]
        assert len(first(source)) == len(first(source, 9)) == 7
        part = take_fraction(Data("numbers", train=source, test=source), 0.4)
        assert (len(part.train), len(part.test)) == (3, 7)
        assert part.train[2][0, 0, 0, 0] == 2
        assert part.origin.endswith("the first 3 of 7 training videos")
        with pytest.raises(IndexError):
            part.train[3]
        assert first(part.validation)[:, 0, 0, 0, 0].tolist() == [3, 4, 5, 6]  # what is left out
        own = Data("numbers", train=source, test=source, validation=source)
        assert take_fraction(own, 0.4).validation is source
        assert take_fraction(Data("numbers", train=source, test=source), 1.0).validation is None
    with one_line("fraction is 0; expected more than 0, at most 1"):
        take_fraction(part, 0)
