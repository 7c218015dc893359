"""Mixtures of K copies of a likelihood, and a point mass at 0 beside one."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp

from calibrax.likelihoods._base import apply_link, check_likelihood, with_channels
from calibrax.likelihoods._checks import broadcast_mask, check_data, check_event_shape, check_levels, data_shape, shown
from calibrax.likelihoods._quantiles import like
from calibrax.likelihoods._residual import hidden_as_zero, softplus, widen
from calibrax.likelihoods._value import Likelihood, Marginal, constructor


@constructor
def mixture(likelihood: Likelihood, components: int, over: Literal["position", "event"] = "position") -> Likelihood:
    """A mixture of K components, all of one likelihood, whose weights the network emits: a mixture-density network.

    -log sum_k softmax(logits)_k p_k(x), summed over positions, or over an event at once. The channels of a position
    share its component. For vectors [B, D] position and event are the same.

    Channels of `outputs`: K mixture logits, then the outputs of component 1 for all channels, those of component 2,
    and so on. With `over="event"`, the logits of an example are the mean of those emitted at its positions.

    Args:
      likelihood: of the components; without a running average, because a variance computed from the batch would
        depend on which component each value belongs to. Take a learned scale (`shared_sigma`) or an emitted one
        (`pixel_sigma`).
      components: K, at least 1.
      over: `"position"`: each position, with all of its channels, is an event of the likelihood, of shape (C,), and
        has its own component; `"event"`: an example has one component for all positions.

    Returns:
      A `Likelihood` with K·(1 + n) outputs per position for a likelihood with n. Each component has its own params:
      those of the likelihood with a leading axis of K. Its stats have that axis too and are named
      `component/log_sigma`. It has a mean and a `discretized_nll` if the likelihood has.

    Raises:
      ValueError: if it is not a `Likelihood`, has several batch axes (`batched` goes outside) or a running average;
        components is not an integer from 1; over is another word.

    Example:
      >>> likelihood = mixture(pixel_sigma(link="identity"), components=5)

    References:
      Bishop 1994; the memory model of Ha and Schmidhuber 2018.
    """
    check_likelihood("likelihood", likelihood)
    if likelihood.batch_ndim != 1:
        raise ValueError(f"likelihood is {shown(likelihood)}; expected one batch axis: batched(mixture(...))")
    check_levels("components", components, low=1)
    if over not in ("position", "event"):
        raise ValueError(f"over is {shown(over)}; expected 'position' or 'event'")
    by_position = over == "position"
    by_value: Any = likelihood.marginal  # a function is called only where there is one
    # The outputs of a component are affine in the channels.
    per_channel = likelihood.output_channels(2) - likelihood.output_channels(1)
    per_position = likelihood.output_channels(1) - per_channel
    layout = components * per_channel, components * (1 + per_position)

    def init(event_shape):
        params, state = likelihood.init(check_event_shape(event_shape)[-1:] if by_position else event_shape)
        if jax.tree.leaves(state):
            hint = "expected one without, such as shared_sigma() or pixel_sigma()"
            raise ValueError(f"likelihood is {shown(likelihood)}, which has a running average; {hint}")
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (components, *leaf.shape)), params), {}

    def split(outputs):
        """Mixture logits [N, K] of the N events, and the outputs of the components with their axis in front."""
        outputs = widen(outputs)
        logits, rest = outputs[..., :components], outputs[..., components:]
        logits = events(logits) if by_position else jnp.mean(logits, tuple(range(1, logits.ndim - 1)))
        return logits, jnp.moveaxis(rest.reshape(*rest.shape[:-1], components, -1), -2, 0)

    def events(array):
        """An array of all positions, [B, ..., n], as a batch of the likelihood's events."""
        return array.reshape(-1, array.shape[-1]) if by_position else array

    def of_components(function, *args):
        """`function(outputs, *args)` of each component, [K, N, ...], of its outputs and what has an axis of K too."""
        try:
            return jax.vmap(lambda outputs, *args: function(events(outputs), *args))(*args)
        except ValueError as error:
            raise ValueError(str(error).partition("\n")[0]) from error  # without the lines that `vmap` adds

    def mixed(function, params, outputs, x, mask):
        """Minus the log of the mixture, [B], for a `function` with the arguments and results of `likelihood.nll`."""
        outputs, x, mask = with_channels(outputs, x, mask)
        shape = data_shape(outputs, *layout)
        check_data(x, shape)
        given = {} if mask is None else {"mask": events(broadcast_mask(mask, shape))}
        logits, outputs = split(outputs)
        x = events(x)
        losses, stats = of_components(lambda of_one, params: function(params, {}, of_one, x, **given), outputs, params)
        # logsumexp(l) - logsumexp(l + log p), with no probability that could underflow.
        loss = jax.nn.logsumexp(logits, -1) - jax.nn.logsumexp(logits - losses.T, -1)
        return jnp.sum(loss.reshape(shape[0], -1), -1), stats

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        of_component = functools.partial(likelihood.nll, train=train, axis_name=axis_name)
        loss, stats = mixed(of_component, params, outputs, x, mask)
        return loss, {f"component/{name}": stat for name, stat in stats.items()}

    def discretized_nll(params, state, outputs, x, mask=None):
        def of_component(*args, **given):
            assert likelihood.discretized_nll is not None  # else the mixture has none
            return likelihood.discretized_nll(*args, **given), {}

        return mixed(of_component, params, outputs, x, mask)[0]

    def averaged(function, params, outputs):
        """The sum over components of softmax(logits)_k times `function(params, state, outputs)`, in x's shape."""
        data_shape(outputs, *layout)
        logits, outputs = split(outputs)
        values = of_components(lambda outputs, params: function(params, {}, outputs), outputs, params)
        weights = _in_front(jax.nn.softmax(logits).T, values)
        return jnp.sum(weights * values, 0).reshape(*outputs.shape[1:-1], -1)

    def mean(params, state, outputs):
        return averaged(likelihood.mean, params, outputs)

    def sample(key, params, state, outputs):
        data_shape(outputs, *layout)
        logits, outputs = split(outputs)
        component_key, key = jax.random.split(key)
        keys = jax.random.split(key, components)  # all components draw, and one of the draws is taken
        draws = of_components(lambda o, params, key: likelihood.sample(key, params, {}, o), outputs, params, keys)
        component = jax.random.categorical(component_key, logits)[None]
        drawn = jnp.take_along_axis(draws, _in_front(component, draws), 0)[0]
        return drawn.reshape(*outputs.shape[1:-1], -1)

    def cdf(params, state, outputs, x):
        outputs, values, _ = with_channels(outputs, jnp.asarray(x), None)
        values = events(values)
        return averaged(lambda *args: by_value.cdf(*args, values), params, outputs).reshape(jnp.shape(x))

    def variance(params, state, outputs):
        """The mean of variance + (component's mean - mean)²."""
        centre = events(mean(params, state, outputs))
        return averaged(
            lambda *args: by_value.variance(*args) + jnp.square(likelihood.mean(*args) - centre), params, outputs
        )

    def output_channels(channels):
        return components * (1 + likelihood.output_channels(channels))

    return Likelihood(
        init,
        nll,
        lambda state, stats: state,
        mean,
        sample,
        output_channels,
        discretized_nll=None if likelihood.discretized_nll is None else discretized_nll,
        marginal=Marginal(
            cdf=None if by_value.cdf is None else cdf,
            variance=None if by_value.variance is None else variance,
            is_discrete=by_value.is_discrete,
        ),
    )


@constructor
def zero_inflated(likelihood: Likelihood) -> Likelihood:
    """A point mass at 0 beside a count or a positive density, each value on its own.

    With the emitted probability π = sigmoid(logit) a value is 0, else it is drawn from the likelihood. A count of 0 has
    the probability π + (1 - π)·P(0). Of a density, 0 has the probability π and another x the density (1 - π)·p(x): the
    likelihood never sees a 0, so that a computed variance is that of the other values. `transformed` goes inside.

    Channels of `outputs`: C logits of π, then the outputs of the likelihood.

    Args:
      likelihood: of counts, independent given the outputs, such as `poisson()`; or a density of positive numbers, such
        as `transformed(optimal_sigma(link="identity"), log)`.

    Returns:
      A `Likelihood` with one more output per channel, and the params, state and stats of the likelihood.

    Raises:
      ValueError: if it is not a `Likelihood`, or one of counts or levels that depend on each other: put the mixture
        outside, `mixture(zero_inflated(poisson()), 3)`.

    Example:
      >>> likelihood = zero_inflated(cx.poisson())
      >>> nll, stats = likelihood.nll({}, {}, jnp.zeros((4, 6)), counts)  # 3 logits, then 3 log rates

    References:
      Lambert 1992 for counts; the density is a hurdle model, Cragg 1971.
    """
    check_likelihood("likelihood", likelihood)
    by_value: Any = likelihood.marginal  # a function is called only where there is one
    if by_value.is_discrete and by_value.nll is None:
        hint = "expected independent values; mixture goes outside: mixture(zero_inflated(...), ...)"
        raise ValueError(f"likelihood is {shown(likelihood)}; {hint}")
    per_channel = likelihood.output_channels(2) - likelihood.output_channels(1)
    layout = 1 + per_channel, likelihood.output_channels(1) - per_channel

    def split(outputs):
        """Logits [B, ..., C] and the outputs of the likelihood."""
        channels = data_shape(outputs, *layout)[-1]
        return widen(outputs[..., :channels]), outputs[..., channels:]

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        outputs, x, mask = with_channels(outputs, x, mask)
        check_data(x, data_shape(outputs, *layout))
        logits, outputs = split(outputs)
        x = hidden_as_zero(x, mask)
        is_zero = x == jnp.zeros((), x.dtype)
        seen = jnp.ones(x.shape, bool) if mask is None else broadcast_mask(mask, x.shape)
        options = {"train": train, "axis_name": axis_name}
        loss, stats = likelihood.nll(params, state, outputs, x, **options, mask=seen & ~is_zero)
        of_zero = softplus(-logits)
        if by_value.is_discrete:
            of_zero = _nll_of_zero(logits, by_value.nll(params, state, outputs, jnp.zeros_like(x)))
        of_values = jnp.where(seen, jnp.where(is_zero, of_zero, softplus(logits)), 0.0)
        return loss + jnp.sum(of_values, tuple(range(likelihood.batch_ndim, x.ndim))), stats

    def mean(params, state, outputs):
        logits, rest = split(outputs)
        return apply_link("sigmoid", -logits) * likelihood.mean(params, state, rest)

    def sample(key, params, state, outputs):
        logits, rest = split(outputs)
        zero_key, key = jax.random.split(key)
        drawn = likelihood.sample(key, params, state, rest)
        is_zero = jax.random.bernoulli(zero_key, apply_link("sigmoid", logits))
        return jnp.where(is_zero, jnp.zeros_like(drawn), drawn)

    def cdf(params, state, outputs, x):
        outputs, values, _ = with_channels(outputs, jnp.asarray(x), None)
        logits, outputs = split(outputs)
        zero, other = apply_link("sigmoid", logits), apply_link("sigmoid", -logits)
        below = by_value.cdf(params, state, outputs, values)
        return (jnp.where(values < 0, 0.0, zero) + other * below).reshape(jnp.shape(x))

    def quantile(params, state, outputs, q):
        """That of the likelihood at q/(1 - π) below 0, and at (q - π)/(1 - π) above 0."""
        of_numbers = jnp.ndim(q) == 1
        logits, outputs = split(outputs)
        zero, other = apply_link("sigmoid", logits), apply_link("sigmoid", -logits)
        q = like(jnp.asarray(q, zero.dtype)[:, None] if of_numbers else jnp.asarray(q, zero.dtype), zero)
        low, high = (jnp.clip(part / other, 0, 1) for part in (q, q - zero))
        below, above = (by_value.quantile(params, state, outputs, part) for part in (low, high))
        found = jnp.minimum(below, 0) + jnp.maximum(above, 0)
        return found[:, 0] if of_numbers else found

    def variance(params, state, outputs):
        logits, rest = split(outputs)
        zero, other = apply_link("sigmoid", logits), apply_link("sigmoid", -logits)
        square = jnp.square(likelihood.mean(params, state, rest))
        return other * (by_value.variance(params, state, rest) + zero * square)

    def output_channels(channels):
        return channels + likelihood.output_channels(channels)

    return likelihood._replace(
        nll=nll,
        mean=mean,
        sample=sample,
        output_channels=output_channels,
        discretized_nll=None,
        marginal=Marginal(
            cdf=None if by_value.cdf is None else cdf,
            quantile=None if by_value.quantile is None else quantile,
            variance=None if by_value.variance is None else variance,
            is_discrete=by_value.is_discrete,
        ),
    )


def _nll_of_zero(logits: jax.Array, nll: jax.Array) -> jax.Array:
    """-log(π + (1 - π)·P(0)), where `nll` is -log P(0).

    If the probability is near 1 it is 1 - (1 - π)·(1 - P(0)), whose logarithm keeps the digits of the small term. Each
    branch gets an argument inside its own range.
    """
    log_other = -softplus(logits)
    small = nll < 1  # where 1 - exp(-nll) would cancel; elsewhere the gradient of expm1, its value plus 1, would
    not_zero = jnp.where(small, -jnp.expm1(-jnp.where(small, nll, 0.0)), 1 - jnp.exp(-jnp.where(small, 1.0, nll)))
    missing = jnp.exp(log_other) * not_zero
    near_one = missing < 0.5
    of_near = -jnp.log1p(-jnp.where(near_one, missing, 0.0))
    return jnp.where(near_one, of_near, -jnp.logaddexp(-softplus(-logits), log_other - nll))


def _in_front(array: jax.Array, values: jax.Array) -> jax.Array:
    """An array [K, N] with axes of 1 for the rest of values [K, N, ...]."""
    return array.reshape(*array.shape, *(1 for _ in values.shape[array.ndim :]))
