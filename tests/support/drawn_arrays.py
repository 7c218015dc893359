"""Random images, `.npz` files of them, and the refusal of data in one line."""

import numpy as np
import pytest

from calibrax.data import DataError

RNG = np.random.default_rng(0)


def images(num, shape=(8, 8, 3)):
    return RNG.integers(0, 256, (num, *shape), dtype=np.uint8)


def npz(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def one_line(match):
    return pytest.raises(DataError, match=rf"^[^\n]*{match}[^\n]*$")
