"""Central predictive intervals."""

import jax
import jax.numpy as jnp

from calibrax.likelihoods._base import PyTree, check_likelihood
from calibrax.likelihoods._checks import check_levels, check_number, shown
from calibrax.likelihoods._value import Likelihood


def interval(
    likelihood: Likelihood,
    params: PyTree,
    state: PyTree,
    outputs: PyTree,
    level: float = 0.9,
    *,
    key: jax.Array | None = None,
    num_draws: int = 1000,
) -> tuple[PyTree, PyTree]:
    """The central interval that holds each value with a given probability, by the decoder's own account.

    Its ends are the quantiles (1 - level) / 2 and (1 + level) / 2 of each value on its own. They are exact for
    Gaussian, Laplace and Student-t decoders, those over levels, and what `transformed` and `zero_inflated` make of
    them; an interval of levels or counts may hold more than asked for. Elsewhere they are quantiles of draws.
    `evaluation.metrics.calibration` measures how many values of a data set such intervals hold.

    Args:
      likelihood: any; of a `joint` one the ends are dicts.
      params, state: of the likelihood; the scale is that of test time.
      outputs: what the decoder emitted.
      level: in (0, 1).
      key: for the draws; not needed where the quantiles are exact.
      num_draws: at least 2; all of them are in memory at once.

    Returns:
      (low, high), each in the shape of x and in its units.

    Raises:
      ValueError: if it is not a `Likelihood`, a number is out of range, or draws are needed and there is no key.

    Example:
      >>> low, high = interval(likelihood, params, state, outputs, level=0.95)
    """
    check_likelihood("likelihood", likelihood)
    check_number("level", level, low=0, high=1)
    check_levels("num_draws", num_draws)
    ends = 0.5 * (1 - level), 0.5 * (1 + level)
    if likelihood.marginal.quantile is not None:
        try:
            return tuple(likelihood.marginal.quantile(params, state, outputs, q) for q in ends)  # type: ignore
        except NotImplementedError:  # of a distribution from elsewhere
            pass
    if key is None:
        raise ValueError(f"key is None; expected a key, because {shown(likelihood)} needs draws for an interval")
    draws = jax.lax.map(lambda key: likelihood.sample(key, params, state, outputs), jax.random.split(key, num_draws))
    # Draws themselves rather than numbers between them, which may be no levels or counts.
    low, high = (jax.tree.map(lambda leaf, q=q: jnp.quantile(leaf, q, axis=0, method="nearest"), draws) for q in ends)
    return low, high
