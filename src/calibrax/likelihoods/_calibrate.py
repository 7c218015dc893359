"""The running average recomputed exactly, in one pass over data."""

import functools
import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from calibrax.likelihoods._base import PyTree, check_likelihood
from calibrax.likelihoods._value import Likelihood
from calibrax.running_average import RunningAverage, is_average


def calibrate(likelihood: Likelihood, params: PyTree, pairs: Iterable[tuple[PyTree, PyTree]]) -> PyTree:
    """The likelihood's state from one pass over data, in which each example (under a mask, each value) counts equally.

    The running average of training mixes batches from before and after the fit improved. This one is taken with the
    final parameters alone. Sums are kept in float64 on the host.

    Args:
      likelihood: any likelihood.
      params: its trained params.
      pairs: batches `(outputs, x)` as given to `nll`; their sizes may differ.

    Returns:
      A state to use with `train=False`; the initial state if the likelihood averages nothing.

    Raises:
      ValueError: if `likelihood` is not a `Likelihood`; if `pairs` is empty, holds anything but pairs, or holds
        examples whose averages differ in shape; if the state holds anything but running averages.

    Example:
      >>> state = calibrate(likelihood, params, ((decode(params, x), x) for x in batches))

    References:
      Section 4: "a running average of the variance over the training data is used".
    """
    check_likelihood("likelihood", likelihood)

    one_batch = jax.jit(functools.partial(sums_of_batch, likelihood))

    def sums():
        for pair in pairs:
            if not (isinstance(pair, tuple | list) and len(pair) == 2):  # an array of two examples would unpack too
                raise ValueError(f"pairs holds a {type(pair).__name__}; expected pairs (outputs, x)")
            outputs, x = pair
            yield one_batch(params, outputs, x)

    state = average(sums(), "pairs")
    if state is None:
        raise ValueError("pairs is empty; expected at least one (outputs, x) batch")
    return state


def average(states: Iterable[PyTree], name: str) -> PyTree:
    """The running averages of states that each hold sums over one batch, added in float64; None if there are none.

    `name` is that of the batches in the message about batches whose averages differ in shape.
    """
    total = None
    for state in states:
        shapes, before = (jax.tree.map(jnp.shape, tree) for tree in (state, state if total is None else total))
        if shapes != before:
            raise ValueError(f"{name} give averages of shapes {shapes} after {before}; expected examples of one shape")
        state = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), state)
        total = state if total is None else jax.tree.map(np.add, total, state)
    return None if total is None else jax.tree.map(_normalise, total, is_leaf=is_average)


def sums_of_batch(likelihood: Likelihood, params: PyTree, outputs: PyTree, x: PyTree) -> PyTree:
    """A fresh state after this batch alone, times the number of its examples."""
    ndim = likelihood.batch_ndim
    _, state = likelihood.init(jax.tree.map(lambda leaf: jnp.shape(leaf)[ndim:], x))
    _, stats = likelihood.nll(params, state, outputs, x, train=True)
    num_examples = math.prod(jnp.shape(jax.tree.leaves(x)[0])[:ndim])
    return jax.tree.map(lambda leaf: num_examples * leaf, likelihood.update(state, stats))


def _normalise(node: PyTree) -> RunningAverage:
    """The same mean with weight 1, which a converged average has; 0 where nothing was observed."""
    if not is_average(node):
        what = f"an array of shape {np.shape(node)}"
        raise ValueError(f"likelihood has {what} in its state; expected running averages, to compute them anew")
    seen = node["weight"] > 0
    mean = node["total"] / np.where(seen, node["weight"], 1.0)
    return {"total": jnp.asarray(mean, jnp.float32), "weight": jnp.asarray(seen, jnp.float32)}
