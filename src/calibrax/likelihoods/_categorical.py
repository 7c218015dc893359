"""Decoders over levels without an order: a soft-max per sub-pixel, or a Bernoulli for each of its bits."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Family, apply_link, from_family
from calibrax.likelihoods._checks import broadcast_mask, check_levels
from calibrax.likelihoods._quantiles import level_quantile, like
from calibrax.likelihoods._residual import Mask, Stats, level_data, softplus, sum_event, widen
from calibrax.likelihoods._value import Likelihood, constructor


def categorical_nll(
    x: Num[Array, "B ..."], logits: Float[Array, "B ... L"], *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of levels under a soft-max over L of them, summed over the event.

    log sum_j exp(l_j - l_x), summed over the levels other than x's own, so that nothing cancels where the fit is good.
    No temporary array is as large as the logits.

    Args:
      x: [B, ..., C] integers, which are levels or labels 0..L-1; or floats in [0, 1] (or bool), rounded to the nearest
        of the L levels, i / (L - 1).
      logits: [B, ..., C, L].
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats.

    Raises:
      ValueError: if shapes do not match, L is under 2, or x is of another dtype or range. The values of x are
        checked outside of `jit`, where others count as the nearest level.

    Example:
      >>> nll, _ = categorical_nll(images, outputs.reshape(*images.shape, 256))

    References:
      The "Categorical VAE" of Tables 2 and 5; van den Oord et al. 2016.
    """
    logits = widen(logits)
    level = level_data(x, logits.shape[:-1], logits.shape[-1], mask)
    check_levels("the number of logits", logits.shape[-1])
    return sum_event(cross_entropy(logits, level), mask), {}


@jax.custom_vjp
def cross_entropy(logits: jax.Array, level: jax.Array) -> jax.Array:
    """log sum_j exp(l_j - l_level) over the last axis of the logits, [..., L] -> [...]."""
    return _cross_entropy_forward(logits, level)[0]


def _cross_entropy_forward(logits, level):
    """The value, and what the gradient needs: the arguments, the value and the logit of the level.

    With m the largest logit and d = m - l_level, the value is d + log(sum_j exp(l_j - m)). If the level is the
    likeliest, d is 0 and its own term of the sum is 1: log1p of the other terms keeps the digits of a good fit.
    """
    picked = jnp.take_along_axis(logits, level[..., None], -1, mode="clip")[..., 0]
    lead = jnp.max(logits, -1) - picked
    others = jnp.exp(logits - (picked + lead)[..., None])
    others = jnp.sum(jnp.where(_is_level(logits, level), 0.0, others), -1)
    value = jnp.where(lead > 0, lead + jnp.log(jnp.where(lead > 0, others + jnp.exp(-lead), 1.0)), jnp.log1p(others))
    return value, (logits, level, value, picked)


def _cross_entropy_backward(saved, grad):
    """Probabilities minus the indicator of the level: p - 1 there, which is expm1(-nll)."""
    logits, level, value, picked = saved
    prob = jnp.exp(logits - (picked + value)[..., None])
    slope = jnp.where(_is_level(logits, level), jnp.expm1(-value)[..., None], prob)
    return slope * grad[..., None], None


cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)


def _is_level(logits, level):
    return lax.broadcasted_iota(level.dtype, logits.shape, logits.ndim - 1) == level[..., None]


@constructor
def categorical(levels: int = 256) -> Likelihood:
    """A soft-max over the levels of each sub-pixel.

    Channels of `outputs`: the L logits of channel 0, then those of channel 1, and so on.

    Args:
      levels: L, at least 2.

    Returns:
      A `Likelihood` with L outputs per channel, without params or state. `mean` is the expected level; `sample` draws
      levels, as multiples of 1 / (L - 1).

    Raises:
      ValueError: if levels is not an integer of at least 2.

    Example:
      >>> categorical().output_channels(3)
      768
      >>> labels = jnp.array([[2], [0]])
      >>> nll, stats = categorical(4).nll({}, {}, jnp.zeros((2, 4)), labels)  # log 4 each

    References:
      The "Categorical VAE" of Tables 2 and 5. At high resolution see `categorical_nll_from_features`.
    """
    check_levels("levels", levels)
    values = np.arange(levels) / (levels - 1)

    def split(params, state, outputs):
        return (outputs.reshape(*outputs.shape[:-1], -1, levels),)

    def mean(logits):
        prob = jax.nn.softmax(widen(logits))
        return prob @ jnp.asarray(values, prob.dtype)

    def sample(key, logits):
        wide = widen(logits)
        return jax.random.categorical(key, wide).astype(wide.dtype) / (levels - 1)

    def upper_tail_of(logits):
        """P(level > edge) as a function of the edge, from sums that begin at the last level."""
        above = jnp.cumsum(jax.nn.softmax(widen(logits))[..., ::-1], -1)[..., ::-1]  # P(level >= i)

        def upper_tail(edge):
            return jnp.take_along_axis(above, (edge + 0.5).astype(jnp.int32)[..., None], -1, mode="clip")[..., 0]

        return upper_tail, above[..., 0]

    def cdf(x, logits):
        level = level_data(x, logits.shape[:-1], levels)
        upper_tail, total = upper_tail_of(logits)
        return jnp.where(level == levels - 1, 1.0, 1 - upper_tail(level.astype(total.dtype) + 0.5))

    def quantile(q, logits):
        upper_tail, total = upper_tail_of(logits)
        return level_quantile(upper_tail, q, total, levels) / (levels - 1)

    def variance(logits):
        prob = jax.nn.softmax(widen(logits))
        error = jnp.asarray(values, prob.dtype).reshape((1,) * (prob.ndim - 1) + (-1,)) - mean(logits)[..., None]
        return jnp.sum(prob * jnp.square(error), -1)

    def mode(logits):
        wide = widen(logits)
        return jnp.argmax(wide, -1).astype(wide.dtype) / (levels - 1)

    of_levels = categorical_nll if levels == 256 else None
    by_value = {"cdf": cdf, "quantile": quantile, "variance": variance, "mode": mode}
    family = Family(categorical_nll, mean, sample, of_levels, is_discrete=True, **by_value)
    return from_family(family, split, outputs_per_channel=levels)


def bitwise_categorical_nll(
    x: Num[Array, "B ..."], logits: Float[Array, "B ... N"], *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of levels under an independent Bernoulli for each of their N bits.

    Args:
      x: [B, ..., C] integers, which are levels 0..2^N-1; or floats in [0, 1] (or bool), rounded to the nearest of them.
      logits: [B, ..., C, N], the logit of each bit being 1, most significant bit first.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats.

    Raises:
      ValueError: if shapes do not match, N is not in 1 to 24, or x is of another dtype or range, as for
        `categorical_nll`.

    Example:
      >>> nll, _ = bitwise_categorical_nll(images, jnp.zeros((*images.shape, 8)))  # 8 log 2 per sub-pixel

    References:
      The "Bitwise-categorical VAE" of Table 2.
    """
    logits = widen(logits)
    bits = logits.shape[-1]
    check_levels("the number of logits", bits, low=1, high=24)
    level = level_data(x, logits.shape[:-1], 2**bits, mask)
    place = lax.broadcasted_iota(level.dtype, logits.shape, logits.ndim - 1)
    bit = (level[..., None] >> (bits - 1 - place)) & 1
    by_bit = softplus(jnp.where(bit == 1, -logits, logits))
    return sum_event(by_bit, None if mask is None else broadcast_mask(mask, level.shape)[..., None]), {}


@constructor
def bitwise_categorical(bits: int = 8) -> Likelihood:
    """An independent Bernoulli for each bit of each sub-pixel's level.

    Channels of `outputs`: the N logits of channel 0, most significant bit first, then those of channel 1, and so on.

    Args:
      bits: N, 1 to 24; there are 2^N levels.

    Returns:
      A `Likelihood` with N outputs per channel, without params or state. `mean` is the expected level; `sample` draws
      levels, as multiples of 1 / (2^N - 1).

    Raises:
      ValueError: if bits is not an integer from 1 to 24.

    Example:
      >>> bitwise_categorical().output_channels(3)
      24

    References:
      The "Bitwise-categorical VAE" of Table 2.
    """
    check_levels("bits", bits, low=1, high=24)
    values = 2.0 ** np.arange(bits - 1, -1, -1) / (2**bits - 1)  # of each bit, in [0, 1]

    def split(params, state, outputs):
        return (outputs.reshape(*outputs.shape[:-1], -1, bits),)

    def of_bits(prob_or_bit):
        return prob_or_bit @ jnp.asarray(values, prob_or_bit.dtype)

    def level_of(bits_of_level):  # a sum of rounded bit values is no exact level
        return jnp.round(of_bits(bits_of_level) * (2**bits - 1)) / (2**bits - 1)

    def mean(logits):
        return of_bits(apply_link("sigmoid", logits))

    def sample(key, logits):
        prob = apply_link("sigmoid", logits)
        return level_of(jax.random.bernoulli(key, prob).astype(prob.dtype))

    def quantile(q, logits):
        """Bit by bit from the first: a bit is 1 if more than 1 - q of the mass is where it is."""
        one, zero = apply_link("sigmoid", logits), apply_link("sigmoid", -widen(logits))
        rest = like(jnp.asarray(q, one.dtype), one[..., 0])
        chosen = []
        for i in range(bits):
            bit = rest > zero[..., i]
            within = jnp.where(bit, (rest - zero[..., i]) / one[..., i], rest / zero[..., i])
            rest = jnp.clip(within, 0, 1)
            chosen.append(bit.astype(one.dtype))
        return level_of(jnp.stack(chosen, -1))

    def variance(logits):
        one, zero = apply_link("sigmoid", logits), apply_link("sigmoid", -widen(logits))
        return (one * zero) @ jnp.asarray(np.square(values), one.dtype)

    def mode(logits):
        wide = widen(logits)
        return level_of((wide > 0).astype(wide.dtype))

    of_levels = bitwise_categorical_nll if bits == 8 else None
    by_value = {"quantile": quantile, "variance": variance, "mode": mode}
    family = Family(bitwise_categorical_nll, mean, sample, of_levels, is_discrete=True, **by_value)
    return from_family(family, split, outputs_per_channel=bits)
