"""A mixture of discretised logistics for each pixel, without autoregression over its channels."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Family, from_family, scaled, soft_clip
from calibrax.likelihoods._bins import expected_level, log_logistic_bin, side_of
from calibrax.likelihoods._checks import broadcast_mask, check_levels, check_number, check_shape
from calibrax.likelihoods._discretized import to_nearest_level
from calibrax.likelihoods._quantiles import level_quantile
from calibrax.likelihoods._residual import Mask, Stats, compute_dtype, level_data, sum_event, widen
from calibrax.likelihoods._value import Likelihood, constructor

MIN_LOG_SCALE = -7.0 - math.log(2)  # Salimans et al. 2017 clip at -7 in a range of [-1, 1]


def logistic_mixture_nll(
    x: Num[Array, "B ... C"],
    mixture_logits: Float[Array, "B ... K"],
    means: Float[Array, "B ... C K"],
    log_scales: Float[Array, "B ... C K"],
    *,
    levels: int = 256,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of levels under a mixture of discretised logistics, one component per pixel.

    The channels of a pixel share its component and are independent given it:
    -log sum_k softmax(mixture_logits)_k prod_c P(x_c; means_ck, exp(log_scales_ck)), summed over pixels. The bins are
    those of `discretized_logistic_nll`, exact at any distance and scale.

    Args:
      x: [B, ..., C] integer levels, or floats in [0, 1] rounded to the nearest level.
      mixture_logits: [B, ..., K].
      means: [B, ..., C, K], in the [0, 1] range.
      log_scales: [B, ..., C, K], in the [0, 1] range.
      levels: how many, at least 2.
      mask: True where x is observed, or None; a hidden channel does not bear on the component of its pixel.

    Returns:
      nll [B], nats, at least float32; no stats.

    Raises:
      ValueError: if shapes do not match or x is of another dtype or range, as for `categorical_nll`.

    Example:
      >>> logits, means = jnp.zeros((*images.shape[:-1], 5)), jnp.zeros((*images.shape, 5))
      >>> nll, stats = logistic_mixture_nll(images, logits, means, means - 2)

    References:
      Salimans et al. 2017, section 2, without the coefficients between channels; the "Logistic mixture VAE" of
      Table 2.
    """
    dtype = compute_dtype(mixture_logits, means, log_scales)
    mixture_logits, means, log_scales = (jnp.asarray(a, dtype) for a in (mixture_logits, means, log_scales))
    check_levels("levels", levels)
    level = level_data(x, means.shape[:-1], levels, mask)[..., None]
    check_levels("the number of components", means.shape[-1], low=1)
    check_shape("mixture_logits", mixture_logits, (*means.shape[:-2], means.shape[-1]))
    check_shape("log_scales", log_scales, means.shape)
    error = level.astype(dtype) - (levels - 1) * means  # [B, ..., C, K], in levels
    side = jnp.broadcast_to(side_of(level, levels), error.shape)
    by_channel = log_logistic_bin(error, -log_scales - math.log(levels - 1), side)
    if mask is not None:  # a factor of 1: given its component, the channels of a pixel are independent
        by_channel = jnp.where(broadcast_mask(mask, means.shape[:-1])[..., None], by_channel, 0.0)
    # -log sum_k softmax(l)_k P_k = logsumexp(l) - logsumexp(l + log P), with no probability that could underflow.
    by_component = mixture_logits + jnp.sum(by_channel, -2)
    return sum_event(jax.nn.logsumexp(mixture_logits, -1) - jax.nn.logsumexp(by_component, -1)), {}


@constructor
def logistic_mixture(components: int = 10, *, levels: int = 256, min_log_scale: float = MIN_LOG_SCALE) -> Likelihood:
    """A mixture of discretised logistics for each pixel, whose channels share the component.

    Channels of `outputs`: K mixture logits; then the K means of channel 0, those of channel 1, and so on; then the log
    scales in the same order. As in the original, the network works in a range of [-1, 1], without a link: an emitted
    mean of -1 is level 0 and one of 1 is the last level; an emitted log scale of 0 is half of the [0, 1] range, and
    the log scale is soft-clipped from below.

    Args:
      components: K, at least 1.
      levels: how many, at least 2.
      min_log_scale: lower bound of the log scale in the [0, 1] range.

    Returns:
      A `Likelihood` with K + 2·K·C outputs for C channels, without params or state. `mean` is the expected level;
      `sample` draws levels, as multiples of 1 / (levels - 1).

    Raises:
      ValueError: if components or levels is not an integer in range, or the bound is not a number.

    Example:
      >>> logistic_mixture(components=5).output_channels(3)  # 5 logits, and 5 means and log scales per channel
      35

    References:
      Salimans et al. 2017; the "Logistic mixture VAE" of Table 2. The paper does not state K; 10 is the literature's.
    """
    check_levels("components", components, low=1)
    check_levels("levels", levels)
    check_number("min_log_scale", min_log_scale)

    def split(params, state, outputs):
        wide = widen(outputs)
        channels = (wide.shape[-1] - components) // (2 * components)
        rest = wide[..., components:].reshape(*wide.shape[:-1], 2, channels, components)  # means, then log scales
        # From [-1, 1] to [0, 1]: m -> (1 + m) / 2 for a mean, s -> s / 2 for a scale.
        log_scales = soft_clip(rest[..., 1, :, :] - math.log(2), min_log_scale)
        return wide[..., :components], 0.5 * (1 + rest[..., 0, :, :]), log_scales

    def upper_tail_of(mixture_logits, means, log_scales):
        """The probability of what lies above a boundary between levels, as a function of the boundary."""
        rate = jnp.exp(-log_scales) / (levels - 1)  # the width of a level, in scales
        prob = jax.nn.softmax(mixture_logits)[..., None, :]

        def upper_tail(edge):
            return jnp.sum(prob * jax.nn.sigmoid(((levels - 1) * means - edge[..., None]) * rate), -1)

        return upper_tail

    def mean(mixture_logits, means, log_scales):
        upper_tail, like = upper_tail_of(mixture_logits, means, log_scales), means[..., 0]
        return expected_level(lambda edge: upper_tail(jnp.broadcast_to(edge, like.shape)), like, levels)

    def quantile(q, *parameters):
        return level_quantile(upper_tail_of(*parameters), q, parameters[1][..., 0], levels) / (levels - 1)

    def sample(key, mixture_logits, means, log_scales):
        component_key, noise_key = jax.random.split(key)
        picked = jax.random.categorical(component_key, mixture_logits)[..., None, None]
        location, log_scale = (jnp.take_along_axis(a, picked, -1)[..., 0] for a in (means, log_scales))
        return to_nearest_level(scaled(jax.random.logistic)(noise_key, location, log_scale), levels)

    nll = functools.partial(logistic_mixture_nll, levels=levels)
    family = Family(nll, mean, sample, nll if levels == 256 else None, quantile=quantile, is_discrete=True)
    return from_family(family, split, outputs_per_channel=2 * components, outputs_per_position=components)
