"""A start for learned scales: the best ones for one batch."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from calibrax.likelihoods._base import PyTree, check_likelihood
from calibrax.likelihoods._value import Likelihood

LARGEST = 20.0  # of a log scale in size: the bracket of the bisection
HALVINGS = 28  # to 1.5e-7


def start_from(likelihood: Likelihood, params: PyTree, outputs: PyTree, x: PyTree) -> PyTree:
    """Params whose learned scales are the best ones for one batch, for example the first one.

    For a Gaussian that is its root mean squared error, for a Laplace distribution its mean absolute error, for each
    group of values that shares a scale. From there, gradient descent follows the fit; from 1 it may take thousands of
    steps to data of another scale, because Adam moves a log scale by about its learning rate per step.

    Args:
      likelihood: any whose params are log scales: that is, each of them has one minimum of the nll, whatever the others
        are. So it is for all of this package and its combinators.
      params: as from `likelihood.init`.
      outputs, x: a batch as given to `nll`.

    Returns:
      Params of the same structure. A log scale without a minimum between -20 and 20 becomes the nearer of the two; one
      on which the batch does not depend stays.

    Raises:
      ValueError: if `likelihood` is not a `Likelihood`.

    Example:
      >>> params = start_from(likelihood, params, decode(x), x)
    """
    check_likelihood("likelihood", likelihood)
    return _bisect(likelihood, params, outputs, x) if jax.tree.leaves(params) else params


@functools.partial(jax.jit, static_argnums=0)
def _bisect(likelihood: Likelihood, params: PyTree, outputs: PyTree, x: PyTree) -> PyTree:
    """The zero of the gradient, by bisection of all scales at once: the scale of one group is nothing to the others."""
    _, state = likelihood.init(jax.tree.map(lambda leaf: leaf.shape[likelihood.batch_ndim :], x))
    slope_at = jax.grad(lambda params: jnp.sum(likelihood.nll(params, state, outputs, x)[0]))

    def halve(_, ends):
        middle = jax.tree.map(lambda low, high: 0.5 * (low + high), *ends)
        falls = jax.tree.map(lambda slope: slope < 0, slope_at(middle))
        return jax.tree.map(jnp.where, falls, middle, ends[0]), jax.tree.map(jnp.where, falls, ends[1], middle)

    ends = tuple(jax.tree.map(lambda leaf, end=end: jnp.full_like(leaf, end), params) for end in (-LARGEST, LARGEST))
    found, _ = lax.fori_loop(0, HALVINGS, halve, ends)
    return jax.tree.map(lambda slope, new, old: jnp.where(slope == 0, old, new), slope_at(params), found, params)
