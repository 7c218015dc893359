"""What shares a scale: names of axes and ints, as axes of a batch."""

from collections.abc import Sequence
from typing import Any, Literal

from calibrax.likelihoods._checks import is_integer, shown

Axis = None | Literal["image", "pixel", "channel"] | int | Sequence[int]


def reduced_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The averaged axes of a batch of rank `ndim`, in increasing order; axis 0 is the batch."""
    if axis is None:
        return tuple(range(ndim))
    named = {"image": range(1, ndim), "pixel": range(1), "channel": range(ndim - 1)}
    if isinstance(axis, str) and axis in named:
        return tuple(named[axis])
    axes: tuple[Any, ...] = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if not all(is_integer(i) for i in axes):
        raise ValueError(f"axis is {shown(axis)}; expected None, 'image', 'pixel', 'channel', or ints as in NumPy")
    if not all(-ndim <= i < ndim for i in axes):
        raise ValueError(f"axis is {shown(axis)}; expected axes of a rank-{ndim} batch, in [-{ndim}, {ndim})")
    normal = sorted(int(i) % ndim for i in axes)
    if not normal or len(set(normal)) < len(normal):
        raise ValueError(f"axis is {shown(axis)}; expected at least one axis, and each once")
    return tuple(normal)


def learned_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The axes that share a learned scale, in increasing order. Examples always share it: axis 0 is among them."""
    axes = reduced_axes(axis, ndim)
    if 0 not in axes:
        raise ValueError(f"axis is {shown(axis)}; expected one that includes axis 0: examples share a learned scale")
    return axes
