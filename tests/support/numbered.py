"""Videos that can be told apart, in memory and as a random-access source."""

import numpy as np


def numbered(num):
    """Videos whose levels are their indices, [N, 2, 1, 1, 1]."""
    return np.arange(num, dtype=np.uint8)[:, None, None, None, None].repeat(2, axis=1)


class Lazy:
    """A random-access source of the same videos, which records the indices that are read."""

    def __init__(self, array):
        self.array, self.asked = array, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, index):
        assert isinstance(index, int)
        self.asked.append(index)
        return self.array[index]
