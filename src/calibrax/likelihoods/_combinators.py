"""Likelihoods made of other likelihoods: several modalities, hidden positions, a weight."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from calibrax.likelihoods._base import check_likelihood
from calibrax.likelihoods._checks import broadcast_mask, check_number, mask_of_each
from calibrax.likelihoods._value import Likelihood, Marginal, constructor


@constructor
def joint(likelihoods: Mapping[str, Likelihood]) -> Likelihood:
    """Several modalities, independent given the latent: the nlls add up, with no weights between them.

    `outputs`, `x`, `params`, `state`, the event shapes given to `init` and the channels given to `output_channels` are
    dicts with the keys of `likelihoods`. The stats of each part carry its key: `image/mse`.

    Args:
      likelihoods: at least one, by name; names have no slash.

    Returns:
      A `Likelihood` of dicts. It has a `discretized_nll` if all of its parts have one.

    Raises:
      ValueError: if there are none, one is not a `Likelihood`, or a name is not a string without a slash; at trace
        time, if keys are missing or unknown, or the batches differ in size.

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

    batch_ndims = {name: part.batch_ndim for name, part in parts.items()}
    if len(set(batch_ndims.values())) > 1:
        raise ValueError(f"likelihoods have numbers of batch axes {batch_ndims}; expected the same in all")

    def by_part(**trees):
        """For each part its name, the part, and its entries of these trees, whose keys are checked.

        Params and state may lack the entry of a part that holds nothing.
        """
        for label, tree in trees.items():
            _check_keys(label, tree, parts, all_needed=label not in ("params", "state"))
        return [(name, part, [tree.get(name, {}) for tree in trees.values()]) for name, part in parts.items()]

    def by_part_with_x(params, state, outputs, x, mask):
        """The same, and the keyword for the part's mask; a likelihood from elsewhere need not know it."""
        args = by_part(params=params, state=state, outputs=outputs, x=x)
        if mask is None:
            return [(*part, {}) for part in args]
        _check_keys("mask", mask, parts)
        return [(name, part, values, {"mask": mask[name]}) for name, part, values in args]

    def init(event_shape):
        pairs = {name: part.init(*shape) for name, part, shape in by_part(event_shape=event_shape)}
        return {name: pair[0] for name, pair in pairs.items()}, {name: pair[1] for name, pair in pairs.items()}

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        losses, stats = {}, {}
        for name, part, args, given in by_part_with_x(params, state, outputs, x, mask):
            losses[name], part_stats = part.nll(*args, train=train, axis_name=axis_name, **given)
            stats |= {f"{name}/{stat}": value for stat, value in part_stats.items()}
        return _sum_of(losses), stats

    def discretized_nll(params, state, outputs, x, mask=None):
        losses = {}
        for name, part, args, given in by_part_with_x(params, state, outputs, x, mask):
            assert part.discretized_nll is not None
            losses[name] = part.discretized_nll(*args, **given)
        return _sum_of(losses)

    def update(state, stats):
        def own(name):
            return {stat.removeprefix(f"{name}/"): stats[stat] for stat in stats if stat.startswith(f"{name}/")}

        # The structure of the state stays, as `lax.scan` needs it: what is absent stays absent.
        updated = {name: part.update(part_state, own(name)) for name, part, (part_state,) in by_part(state=state)}
        return {name: updated[name] for name in parts if name in state}

    def sample(key, params, state, outputs):
        args = by_part(params=params, state=state, outputs=outputs)
        keys = jax.random.split(key, len(parts))
        return {name: part.sample(keys[i], *values) for i, (name, part, values) in enumerate(args)}

    def mean(params, state, outputs):
        args = by_part(params=params, state=state, outputs=outputs)
        return {name: part.mean(*values) for name, part, values in args}

    def output_channels(channels: Any) -> Any:
        return {name: part.output_channels(*number) for name, part, number in by_part(channels=channels)}

    def of_parts(name):
        """A function of the marginals of all parts; None if one has none."""
        functions = {part_name: getattr(part.marginal, name) for part_name, part in parts.items()}
        if None in functions.values():
            return None

        def of_each_part(params, state, outputs, *value):
            results = {}
            for part_name, _, args in by_part(params=params, state=state, outputs=outputs):
                own = [x[part_name] if isinstance(x, Mapping) else x for x in value]  # q may be a number for all parts
                results[part_name] = functions[part_name](*args, *own)
            return results

        return of_each_part

    by_value: dict[str, Any] = {name: of_parts(name) for name in ("nll", "cdf", "quantile", "variance", "mode")}
    all_discrete = all(part.discretized_nll is not None for part in parts.values())
    return Likelihood(
        init,
        nll,
        update,
        mean,
        sample,
        output_channels,
        discretized_nll=discretized_nll if all_discrete else None,
        batch_ndim=next(iter(batch_ndims.values())),
        marginal=Marginal(**by_value),
    )


@constructor
def masked(likelihood: Likelihood) -> Likelihood:
    """The same decoder for data with hidden parts: `x` becomes `(x, mask)`, with the mask True where x is observed.

    Hidden positions count in neither the nll nor the stats nor a computed variance, and what stands there, NaN
    included, never matters. The mask has any shape that broadcasts to x, for example a last axis of 1 to hide whole
    positions, or is [B, T] for x [B, T, ...] to hide whole steps. For a `joint`, it is a dict like x, or one mask for
    all modalities. An example with nothing observed has an nll of 0.

    Args:
      likelihood: any of this package, combinators included; one from elsewhere must take `mask` as a keyword of `nll`.

    Returns:
      A `Likelihood` of pairs. `init` takes the event shape of x alone or of the pair; `mean` and `sample` return x.

    Raises:
      ValueError: if it is not a `Likelihood`; at trace time, if x is not a pair, or the mask's dtype or shape is wrong.

    Example:
      >>> likelihood = masked(optimal_sigma())
      >>> params, state = likelihood.init((8, 8, 3))
      >>> nll, stats = likelihood.nll(params, state, outputs, (x, x > 0.1))
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


@constructor
def tempered(likelihood: Likelihood, weight: float | jax.Array) -> Likelihood:
    """The nll multiplied by a weight, for those who do want a β: a weight of 1/β on the nll acts as β on the KL.

    Everything else, `discretized_nll` and with it bits per dimension, stays that of the untempered distribution.

    Args:
      likelihood: any.
      weight: a positive number, or a scalar array (for a schedule), whose value is not checked.

    Returns:
      A `Likelihood` that differs only in its `nll`.

    Raises:
      ValueError: if `likelihood` is not a `Likelihood`, or the weight is a number that is not positive and finite, or
        an array with axes.

    Example:
      >>> likelihood = tempered(gaussian(), 1 / 4)  # acts as a weight of 4 on the KL
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
    """x and its mask, combined with the mask of an enclosing `masked` if there is one."""
    if not (isinstance(x, tuple) and len(x) == 2):
        raise ValueError(f"x is a {type(x).__name__}; expected a pair (x, mask) with mask True where x is observed")
    x, mask = x
    mask, outer = mask_of_each(x, mask), mask_of_each(x, outer)
    if mask is None or outer is None:
        return x, mask if outer is None else outer
    try:
        return x, jax.tree.map(_both, x, mask, outer)
    except (TypeError, ValueError) as error:
        shapes = [jax.tree.map(jnp.shape, part) for part in (mask, outer)]
        raise ValueError(f"masks have shapes {shapes[0]} and {shapes[1]}; expected x's in each `masked`") from error


def _both(x: Any, mask: Any, outer: Any) -> jax.Array:
    return broadcast_mask(mask, jnp.shape(x)) & broadcast_mask(outer, jnp.shape(x))


def _sum_of(losses: dict[str, jax.Array]) -> jax.Array:
    """The sum over modalities of nlls [B], which must have the same B."""
    shapes = {name: loss.shape for name, loss in losses.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"x has batches {shapes}; expected the same number of examples in each")
    wide = jnp.result_type(*losses.values())
    return jnp.asarray(sum(loss.astype(wide) for loss in losses.values()))


def _check_keys(name: str, tree: Any, parts: Mapping[str, Likelihood], *, all_needed: bool = True) -> None:
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} is a {type(tree).__name__}; expected a dict with the keys {', '.join(parts)}")
    if set(tree) - set(parts) or (all_needed and len(tree) < len(parts)):
        raise ValueError(f"{name} has keys {', '.join(map(str, tree))}; expected {', '.join(parts)}")
