"""The likelihood of a video from that of an image."""

from typing import Any

import jax
import jax.numpy as jnp

from calibrax.likelihoods._base import Likelihood, check_likelihood
from calibrax.likelihoods._checks import check_event_shape


def framewise(likelihood: Likelihood) -> Likelihood:
    """The decoder of an image applied to every frame of a video; given the latents, frames are independent.

    [B, T, ...] is read as B·T images. So parameters and state are those of an image and fit videos of any length, and
    whatever the likelihood shares over a batch it also shares over time: `optimal_sigma()` has one variance over batch,
    time and space, `optimal_sigma(axis="image")` one per frame. The nll [B] is the sum over frames.

    Args:
      likelihood: of images [H, W, C], or of any other event; in a `joint`, all parts have the same time axis.

    Returns:
      A `Likelihood` of events [T, H, W, C]. For a single frame, `mean` and `sample` take outputs with T = 1.

    Raises:
      ValueError: if it is not a `Likelihood`; at trace time, if x or the outputs have no time axis, or lengths differ.

    Example:
      >>> likelihood = framewise(optimal_sigma(axis="image"))
    """
    check_likelihood("likelihood", likelihood)

    def init(event_shape):
        return likelihood.init(jax.tree.map(_frame_shape, event_shape, is_leaf=_is_shape))

    def of_frames(function, params, state, outputs, x, mask, **options):
        """`function` of the frames, and its losses [B·T] as [B]."""
        if mask is not None:  # a likelihood from elsewhere need not know the keyword
            options["mask"] = _frames("mask", mask, like=outputs)
        result = function(params, state, _frames("outputs", outputs), _frames("x", x, like=outputs), **options)
        losses, *stats = result if isinstance(result, tuple) else (result,)
        return losses.reshape(_batch_and_time(x)).sum(axis=1), *stats

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        return of_frames(likelihood.nll, params, state, outputs, x, mask, train=train, axis_name=axis_name)

    def discretized_nll(params, state, outputs, x, mask=None):
        return of_frames(likelihood.discretized_nll, params, state, outputs, x, mask)[0]

    def mean(params, state, outputs):
        return _videos(likelihood.mean(params, state, _frames("outputs", outputs)), outputs)

    def sample(key, params, state, outputs):
        return _videos(likelihood.sample(key, params, state, _frames("outputs", outputs)), outputs)

    discretized = None if likelihood.discretized_nll is None else discretized_nll
    return likelihood._replace(init=init, nll=nll, mean=mean, sample=sample, discretized_nll=discretized)


def _frame_shape(event_shape: Any) -> tuple[int, ...]:
    shape = check_event_shape(event_shape)
    if len(shape) < 2:
        raise ValueError(f"event_shape is {shape}; expected (T, ...), the length of a video before a frame's shape")
    return shape[1:]


def _is_shape(tree: Any) -> bool:
    return isinstance(tree, tuple | list) and all(isinstance(size, int) for size in tree)


def _batch_and_time(videos: Any) -> tuple[int, int]:
    return jax.tree.leaves(videos)[0].shape[:2]


def _frames(name: str, videos: Any, like: Any = None) -> Any:
    """Arrays [B, T, ...] as [B·T, ...]; if `like` is given, B and T must be those of `like`."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(videos)]
    if any(len(shape) < 3 or shape[:2] != shapes[0][:2] for shape in shapes):
        listed = ", ".join(map(str, shapes))
        raise ValueError(f"{name} has shape {listed}; expected a batch of videos, [B, T, ...]")
    if like is not None and shapes and shapes[0][:2] != _batch_and_time(like):
        # The likelihood of an image sees [B·T, ...] alone: it would accept another B and T with the same product.
        expected = (*_batch_and_time(like), *shapes[0][2:])
        raise ValueError(f"{name} has shape {shapes[0]}; expected {expected}, by the outputs' batch and time")
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), videos)


def _videos(images: Any, like: Any) -> Any:
    """Arrays [B·T, ...] as [B, T, ...], with B and T of `like`."""
    return jax.tree.map(lambda leaf: leaf.reshape(*_batch_and_time(like), *leaf.shape[1:]), images)
