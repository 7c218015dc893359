"""Likelihoods made of likelihoods: several modalities, hidden positions, a weight."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from calibrax.likelihoods._base import Likelihood, check_likelihood
from calibrax.likelihoods._checks import check_number
from calibrax.likelihoods._residual import Mask


def joint(likelihoods: Mapping[str, Likelihood]) -> Likelihood:
    """Several modalities, independent given the latent: the nlls add up, with no weights between them.

    `outputs`, `x`, `params`, `state`, the event shapes given to `init` and the channels given to `output_channels` are
    dicts with the keys of `likelihoods`. The stats of each get its key before them: `image/mse`.

    Args:
      likelihoods: at least one, by name; names have no slash.

    Returns:
      A `Likelihood` of dicts. It has a `discretized_nll` where all of its parts do.

    Raises:
      ValueError: if there is none, one is no `Likelihood`, or a name is not a string without a slash; and at trace
        time if keys are missing or unknown, or the batches differ.

    Example:
      >>> likelihood = joint({"image": optimal_sigma(), "state": optimal_sigma(link="identity")})
    """
    if not isinstance(likelihoods, Mapping):
        raise ValueError(f"likelihoods is a {type(likelihoods).__name__}; expected a dict of them by name")
    parts = dict(likelihoods)
    if not parts or not all(isinstance(name, str) and name and "/" not in name for name in parts):
        raise ValueError(f"likelihoods has keys {list(parts)}; expected at least one name, without a slash")
    for name, part in parts.items():
        check_likelihood(f"likelihoods[{name!r}]", part)

    def init(event_shape):
        _check_keys("event_shape", event_shape, parts)
        pairs = {name: part.init(event_shape[name]) for name, part in parts.items()}
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}

    def arguments(params, state, outputs):
        for label, tree in (("params", params), ("state", state), ("outputs", outputs)):
            _check_keys(label, tree, parts)
        return {name: (params[name], state[name], outputs[name]) for name in parts}

    def by_part(params, state, outputs, x, mask):
        """(name, part, its arguments with x, its mask) of each part."""
        _check_keys("x", x, parts)
        if mask is not None:
            _check_keys("mask", mask, parts)
        args = arguments(params, state, outputs)
        return [(name, part, (*args[name], x[name]), mask and mask[name]) for name, part in parts.items()]

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        losses, stats = {}, {}
        for name, part, args, part_mask in by_part(params, state, outputs, x, mask):
            losses[name], part_stats = part.nll(*args, train=train, axis_name=axis_name, **_given(part_mask))
            stats |= {f"{name}/{stat}": value for stat, value in part_stats.items()}
        return _sum_of(losses), stats

    def discretized_nll(params, state, outputs, x, mask=None):
        return _sum_of(
            {
                name: part.discretized_nll(*args, **_given(part_mask))
                for name, part, args, part_mask in by_part(params, state, outputs, x, mask)
                if part.discretized_nll is not None
            }
        )

    def update(state, stats):
        _check_keys("state", state, parts)
        own = {
            name: {stat.removeprefix(f"{name}/"): value for stat, value in stats.items() if stat.startswith(f"{name}/")}
            for name in parts
        }
        return {name: part.update(state[name], own[name]) for name, part in parts.items()}

    def sample(key, params, state, outputs):
        args, keys = arguments(params, state, outputs), jax.random.split(key, len(parts))
        return {name: part.sample(keys[i], *args[name]) for i, (name, part) in enumerate(parts.items())}

    def mean(params, state, outputs):
        args = arguments(params, state, outputs)
        return {name: part.mean(*args[name]) for name, part in parts.items()}

    def output_channels(channels: Any) -> Any:
        _check_keys("channels", channels, parts)
        return {name: part.output_channels(channels[name]) for name, part in parts.items()}

    all_discrete = all(part.discretized_nll is not None for part in parts.values())
    return Likelihood(init, nll, update, mean, sample, output_channels, discretized_nll if all_discrete else None)


def masked(likelihood: Likelihood) -> Likelihood:
    """The same decoder for data of which parts are hidden: `x` becomes `(x, mask)`, mask True where observed.

    Hidden positions count in neither the nll nor the stats nor a computed variance, and what stands there, NaN
    included, never matters. The mask has x's shape, or a last axis of 1 to hide whole positions; of a `joint`, it is a
    dict as x is. An example of which nothing is observed has an nll of 0.

    Args:
      likelihood: any of this package's, combinators included; another's must take `mask` as `nll`'s keyword.

    Returns:
      A `Likelihood` of pairs. `init` takes the event shape of x alone or of the pair; `mean` and `sample` give x.

    Raises:
      ValueError: if it is no `Likelihood`; and at trace time if x is no pair, or the mask has another dtype or shape.
    """
    check_likelihood("likelihood", likelihood)

    def init(event_shape):
        paired = isinstance(event_shape, tuple) and len(event_shape) == 2 and not isinstance(event_shape[0], int)
        return likelihood.init(event_shape[0] if paired else event_shape)

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        x, seen = _split_pair(x, mask)
        return likelihood.nll(params, state, outputs, x, train=train, axis_name=axis_name, mask=seen)

    def discretized_nll(params, state, outputs, x, mask=None):
        x, seen = _split_pair(x, mask)
        assert likelihood.discretized_nll is not None
        return likelihood.discretized_nll(params, state, outputs, x, mask=seen)

    return likelihood._replace(
        init=init, nll=nll, discretized_nll=None if likelihood.discretized_nll is None else discretized_nll
    )


def tempered(likelihood: Likelihood, weight: float | jax.Array) -> Likelihood:
    """The nll multiplied by a weight, for those who do want a β: weight 1/β on the nll is β on the KL.

    Everything else, `discretized_nll` and so bits per dimension included, stays that of the untempered distribution.

    Args:
      likelihood: any.
      weight: a positive number, or a scalar array (for a schedule), which is not checked.

    Raises:
      ValueError: if it is no `Likelihood`, or the weight is a number that is not positive and finite, or an array with
        axes.
    """
    check_likelihood("likelihood", likelihood)
    if jnp.ndim(weight) != 0:
        raise ValueError(f"weight has shape {jnp.shape(weight)}; expected a positive number or a scalar array")
    if not isinstance(weight, jax.Array):
        check_number("weight", weight, low=0)

    def nll(*args, **kwargs):
        loss, stats = likelihood.nll(*args, **kwargs)
        return loss * jnp.asarray(weight, loss.dtype), stats

    return likelihood._replace(nll=nll)


def _split_pair(x: Any, outer: Any) -> tuple[Any, Any]:
    """x, and where it is observed by its own mask and by that of an enclosing `masked`."""
    if not (isinstance(x, tuple) and len(x) == 2):
        raise ValueError(f"x is a {type(x).__name__}; expected a pair (x, mask) with mask True where x is observed")
    x, mask = x
    if mask is None or outer is None:
        return x, mask if outer is None else outer
    try:
        return x, jax.tree.map(jnp.logical_and, mask, outer)
    except (TypeError, ValueError) as error:
        shapes = [jax.tree.map(jnp.shape, part) for part in (mask, outer)]
        raise ValueError(f"masks have shapes {shapes[0]} and {shapes[1]}; expected x's in each `masked`") from error


def _given(mask: Mask) -> dict[str, Any]:
    """The keyword, where there is a mask: a likelihood of somebody else's need not know it."""
    return {} if mask is None else {"mask": mask}


def _sum_of(losses: dict[str, jax.Array]) -> jax.Array:
    """The sum over modalities of nlls [B], each with the same batch."""
    shapes = {name: loss.shape for name, loss in losses.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"x has batches {shapes}; expected the same number of examples in each")
    wide = jnp.result_type(*losses.values())
    total = 0
    for loss in losses.values():
        total += loss.astype(wide)
    return jnp.asarray(total)


def _check_keys(name: str, tree: Any, parts: Mapping[str, Likelihood]) -> None:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} is a {type(tree).__name__}; expected a dict with the keys {', '.join(parts)}")
    if set(tree) != set(parts):
        raise ValueError(f"{name} has keys {', '.join(map(str, tree))}; expected {', '.join(parts)}")
