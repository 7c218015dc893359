"""Regression by classification: a soft-max over bins, trained on the two bins around the target."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Family, from_family, sharded_like
from calibrax.likelihoods._categorical import cross_entropy
from calibrax.likelihoods._checks import check_levels, check_number, shown
from calibrax.likelihoods._residual import Mask, Stats, sum_event, unit_data, widen
from calibrax.likelihoods._value import Likelihood, constructor

Spacing = Literal["symexp", "linear"]
HIGHEST = 80.0  # symexp of it is a float32


def two_hot_nll(
    x: Num[Array, "B ..."],
    logits: Float[Array, "B ... L"],
    low: float,
    high: float,
    *,
    spacing: Spacing = "symexp",
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Cross-entropy of a soft-max over bins against the two bins around each value, summed over the event.

    A value between the bins b and c has the target (c - x) / (c - b) at b and (x - b) / (c - b) at c, so that the mean
    of the target is x. These are distances in the data's units, whatever the spacing. Values beyond the first or last
    bin count as that bin.

    Args:
      x: [B, ..., C] float data, or uint8 read as x / 255, or bool.
      logits: [B, ..., C, L], of L bins.
      low, high: the first and last bin, in the spacing's scale: `"symexp"` -20 and 20 for -4.9e8 and 4.9e8.
      spacing: `"symexp"`: bins at sign(u)·(exp(|u|) - 1) for evenly spaced u, which are dense near 0; `"linear"`:
        evenly spaced bins.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats. It is at least the entropy of the target, and not the negative log of a
      density of x.

    Raises:
      ValueError: if shapes do not match, x has another dtype, L is under 2, or the bins' range or spacing is none.

    Example:
      >>> nll, _ = two_hot_nll(rewards[:, None], logits[:, None], -20.0, 20.0)  # rewards [B], logits [B, 255]

    References:
      Hafner et al. 2025, "Mastering diverse control tasks through world models" (DreamerV3), whose later version has
      these bins and weights; its first version weighs by distances in the scale of u. Schrittwieser et al. 2020
      (MuZero).
    """
    logits = widen(logits)
    bins = _bins(low, high, logits.shape[-1], spacing)
    x, _ = unit_data(x, lax.stop_gradient(logits[..., 0]), mask)

    def bin_at(index):
        return jnp.asarray(bins, x.dtype)[index]

    # The index of the bin below, and how far x is on the way from there to the next, 0 to 1.
    below = sharded_like(x, lambda x: jnp.searchsorted(jnp.asarray(bins, x.dtype), x, side="right"), x) - 1
    below = jnp.clip(below, 0, len(bins) - 2)
    start, end = (sharded_like(x, bin_at, index) for index in (below, below + 1))
    way = jnp.clip((x - start) / (end - start), 0, 1)
    return sum_event(_two_hot_cross_entropy(logits.astype(x.dtype), below.astype(jnp.int32), way), mask), {}


@jax.custom_vjp
def _two_hot_cross_entropy(logits: jax.Array, below: jax.Array, way: jax.Array) -> jax.Array:
    """(1 - way)·cross_entropy(logits, below) + way·cross_entropy(logits, below + 1), [..., L] -> [...].

    It is computed as the cross-entropy of the nearer bin plus v·(its logit - the other's), with v <= 1/2 the weight of
    the other bin: if x is at a bin, the digits of a good fit are kept.
    """
    return _two_hot_forward(logits, below, way)[0]


def _two_hot_forward(logits, below, way):
    past = way > 0.5
    near, far = jnp.where(past, below + 1, below), jnp.where(past, below, below + 1)
    small = jnp.where(past, 1 - way, way)
    of_near = cross_entropy(logits, near)
    at_near, at_far = (jnp.take_along_axis(logits, level[..., None], -1)[..., 0] for level in (near, far))
    return of_near + small * (at_near - at_far), (logits, near, far, small, of_near, at_near)


def _two_hot_backward(saved, grad):
    """Probabilities minus the target; at the nearer bin p - 1 + v, where p - 1 is expm1 of minus its cross-entropy."""
    logits, near, far, small, of_near, at_near = saved
    prob = jnp.exp(logits - (at_near + of_near)[..., None])
    place = lax.broadcasted_iota(near.dtype, logits.shape, logits.ndim - 1)
    slope = jnp.where(place == far[..., None], prob - small[..., None], prob)
    slope = jnp.where(place == near[..., None], (jnp.expm1(-of_near) + small)[..., None], slope)
    return slope * grad[..., None], None, jnp.zeros_like(small)


_two_hot_cross_entropy.defvjp(_two_hot_forward, _two_hot_backward)


@constructor
def two_hot(low: float, high: float, bins: int = 255, spacing: Spacing = "symexp") -> Likelihood:
    """A soft-max over bins for numbers whose scale is unknown, such as rewards and returns.

    Channels of `outputs`: the L logits of channel 0, then those of channel 1, and so on.

    Args:
      low, high: the first and last bin in the spacing's scale, as for `two_hot_nll`: -20 and 20 in DreamerV3. With
        `low = -high`, equal logits (a last layer of zeros) give a mean of exactly 0.
      bins: L, at least 2.
      spacing: `"symexp"` or `"linear"`.

    Returns:
      A `Likelihood` with L outputs per channel, without params or state. `mean` is the expected bin, in the data's
      units; `sample` draws a bin. The nll is a cross-entropy; it does not compare with the nats of densities.

    Raises:
      ValueError: if low is not below high, one is not a number (under 80 in size for `"symexp"`), bins is not an
        integer from 2, or the spacing is another word.

    Example:
      >>> likelihood = two_hot(-20.0, 20.0)
      >>> likelihood.output_channels(1)
      255
      >>> nll, stats = likelihood.nll({}, {}, logits, rewards)  # rewards [B], logits [B, 255]

    References:
      As for `two_hot_nll`. Not in the paper.
    """
    check_levels("bins", bins)
    values = _bins(low, high, bins, spacing)

    def split(params, state, outputs):
        return (outputs.reshape(*outputs.shape[:-1], -1, bins),)

    def nll(x, logits, *, mask=None):
        return two_hot_nll(x, logits, low, high, spacing=spacing, mask=mask)

    def mean(logits):
        prob = jax.nn.softmax(widen(logits))
        parts = prob * jnp.broadcast_to(jnp.asarray(values, prob.dtype), prob.shape)
        # Bins of opposite sign, which may be large, are added first: from equal logits, they leave exactly 0.
        half = bins // 2
        pairs = parts[..., :half] + jnp.flip(parts, -1)[..., :half]
        return jnp.sum(pairs, -1) + (parts[..., half] if bins % 2 else 0.0)

    def sample(key, logits):
        wide = widen(logits)
        index = jax.random.categorical(key, wide)
        return sharded_like(index, lambda index: jnp.asarray(values, wide.dtype)[index], index)

    return from_family(Family(nll, mean, sample, is_discrete=True), split, outputs_per_channel=bins)


def _bins(low: float, high: float, num: int, spacing: Spacing) -> np.ndarray:
    """The bins in the data's units, in increasing order; exactly symmetric if low is -high."""
    check_levels("the number of logits", num)
    if not isinstance(spacing, str) or spacing not in ("symexp", "linear"):
        raise ValueError(f"spacing is {shown(spacing)}; expected 'symexp' or 'linear'")
    bound = HIGHEST if spacing == "symexp" else math.inf
    check_number("low", low, low=-bound, high=bound)
    check_number("high", high, low=-bound, high=bound)
    if not low < high:
        raise ValueError(f"low is {low}; expected a number under high = {high}")
    up = np.linspace(low, high, num)
    scale = (up - np.flip(up)) / 2 if low == -high else up
    return np.sign(scale) * np.expm1(np.abs(scale)) if spacing == "symexp" else scale
