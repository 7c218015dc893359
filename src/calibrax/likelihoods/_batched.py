"""Likelihoods of sequences from those of one step: one nll per step, or their sum."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from calibrax.likelihoods._base import check_likelihood
from calibrax.likelihoods._checks import broadcast_mask, check_event_shape, check_levels, mask_of_each
from calibrax.likelihoods._value import Likelihood, constructor


@constructor
def batched(likelihood: Likelihood, ndim: int = 2) -> Likelihood:
    """The decoder of one step applied to every step of a batch of sequences, with one nll per step.

    `outputs` and `x` have `ndim` batch axes instead of one, for example [B, T, ...], and so has the nll. They are read
    as B·T examples, so that params and state are those of one step and fit sequences of any length, and whatever the
    likelihood shares over a batch it also shares over time: `optimal_sigma()` has one variance for all steps.

    Args:
      likelihood: of one step, with any event; in a `joint`, all parts have the same batch axes.
      ndim: how many leading axes are batch axes, at least 1.

    Returns:
      A `Likelihood` whose nll is [B, T] for two axes. `init` takes the event shape of one step.

    Raises:
      ValueError: if it is not a `Likelihood` or ndim not an integer from 1; at trace time, if x or the outputs have
        fewer axes, or sizes differ.

    Example:
      >>> reward = batched(optimal_sigma(link="identity"))  # outputs, x and nll are [B, T]
    """
    check_likelihood("likelihood", likelihood)
    check_levels("ndim", ndim, low=1, high=32)

    def flat_nll(function, params, state, outputs, x, mask, **options):
        """`function` of the steps as one batch, and its losses with the batch axes of the outputs."""
        if mask is not None:  # a likelihood from elsewhere need not know the keyword
            mask = _full_mask(x, mask)
            options["mask"] = _flatten("mask", mask, ndim, like=outputs)
        x = jax.tree.map(_with_full_mask, x, is_leaf=_is_pair)
        steps = _flatten("outputs", outputs, ndim), _flatten("x", x, ndim, like=outputs)
        result = function(params, state, *steps, **options)
        losses, *stats = result if isinstance(result, tuple) else (result,)
        return losses.reshape(*_batch_shape(outputs, ndim), *losses.shape[1:]), *stats

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        return flat_nll(likelihood.nll, params, state, outputs, x, mask, train=train, axis_name=axis_name)

    def discretized_nll(params, state, outputs, x, mask=None):
        return flat_nll(likelihood.discretized_nll, params, state, outputs, x, mask)[0]

    def mean(params, state, outputs):
        return _unflatten(likelihood.mean(params, state, _flatten("outputs", outputs, ndim)), outputs, ndim)

    def sample(key, params, state, outputs):
        return _unflatten(likelihood.sample(key, params, state, _flatten("outputs", outputs, ndim)), outputs, ndim)

    def of_steps(function):
        def of_each_step(params, state, outputs, *value):
            flat = [_flatten("x", x, ndim, like=outputs) if _has_axes(x) else x for x in value]  # q may be a number
            return _unflatten(function(params, state, _flatten("outputs", outputs, ndim), *flat), outputs, ndim)

        return of_each_step

    return likelihood._replace(
        nll=nll,
        mean=mean,
        sample=sample,
        discretized_nll=None if likelihood.discretized_nll is None else discretized_nll,
        marginal=likelihood.marginal.map(of_steps),
        batch_ndim=likelihood.batch_ndim + ndim - 1,
    )


@constructor
def framewise(likelihood: Likelihood) -> Likelihood:
    """The decoder of an image applied to every frame of a video; given the latents, frames are independent.

    It is `batched` with the nll summed over time, so that a video [T, H, W, C] is one event. `optimal_sigma()` has one
    variance over batch, time and space, `optimal_sigma(axis="image")` one per frame.

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
    steps = batched(likelihood)

    def init(event_shape):
        return likelihood.init(jax.tree.map(_step_shape, event_shape, is_leaf=_is_shape))

    def nll(*args, **kwargs):
        losses, stats = steps.nll(*args, **kwargs)
        return jnp.sum(losses, axis=1), stats

    def discretized_nll(*args, **kwargs):
        assert steps.discretized_nll is not None
        return jnp.sum(steps.discretized_nll(*args, **kwargs), axis=1)

    discretized = None if likelihood.discretized_nll is None else discretized_nll
    return steps._replace(init=init, nll=nll, discretized_nll=discretized, batch_ndim=likelihood.batch_ndim)


def _step_shape(event_shape: Any) -> tuple[int, ...]:
    shape = check_event_shape(event_shape)
    if not event_shape:
        raise ValueError("event_shape is (); expected (T, ...), the length of a video before a frame's shape")
    return shape[1:]


def _is_shape(tree: Any) -> bool:
    return isinstance(tree, tuple | list) and all(isinstance(size, int) for size in tree)


def _is_pair(tree: Any) -> bool:
    """Whether this node of x is data with a mask, as `masked` takes it."""
    return type(tree) is tuple and len(tree) == 2


def _with_full_mask(node: Any) -> Any:
    """A pair with the mask in the shape of its data, whose axes can then be merged like those of the data."""
    if not _is_pair(node):
        return node
    x, mask = node
    return x, _full_mask(x, mask)


def _full_mask(x: Any, mask: Any) -> Any:
    return jax.tree.map(lambda leaf, hidden: broadcast_mask(hidden, jnp.shape(leaf)), x, mask_of_each(x, mask))


def _has_axes(tree: Any) -> bool:
    return any(jnp.ndim(leaf) > 0 for leaf in jax.tree.leaves(tree))


def _batch_shape(tree: Any, ndim: int) -> tuple[int, ...]:
    return jnp.shape(jax.tree.leaves(tree)[0])[:ndim]


def _flatten(name: str, tree: Any, ndim: int, like: Any = None) -> Any:
    """Arrays [B, T, ...] as [B·T, ...]; if `like` is given, B and T must be those of `like`."""
    axes = "[B, T, ...]" if ndim == 2 else f"{ndim} batch axes"
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    if any(len(shape) < ndim or shape[:ndim] != shapes[0][:ndim] for shape in shapes):
        raise ValueError(f"{name} has shape {', '.join(map(str, shapes))}; expected {axes}")
    if like is not None and shapes and shapes[0][:ndim] != _batch_shape(like, ndim):
        # The likelihood of a step sees [B·T, ...] alone: it would accept another B and T with the same product.
        expected = (*_batch_shape(like, ndim), *shapes[0][ndim:])
        raise ValueError(f"{name} has shape {shapes[0]}; expected {expected}, by the outputs' batch axes")
    return jax.tree.map(lambda leaf: leaf.reshape(math.prod(leaf.shape[:ndim]), *leaf.shape[ndim:]), tree)


def _unflatten(tree: Any, like: Any, ndim: int) -> Any:
    """Arrays [B·T, ...] as [B, T, ...], with B and T of `like`."""
    return jax.tree.map(lambda leaf: leaf.reshape(*_batch_shape(like, ndim), *leaf.shape[1:]), tree)
