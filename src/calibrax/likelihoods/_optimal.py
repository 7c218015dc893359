"""Decoders whose scale is the analytic optimum: the mean squared error (section 4), or the mean absolute error."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from calibrax import running_average
from calibrax.likelihoods._axes import Axis, reduced_axes
from calibrax.likelihoods._base import Family, Link, apply_link, from_family, with_channels
from calibrax.likelihoods._checks import (
    broadcast_mask,
    check_data,
    check_event_shape,
    check_link,
    check_number,
    data_shape,
    entry,
)
from calibrax.likelihoods._gaussian import gaussian_family
from calibrax.likelihoods._heavy_tailed import LAPLACE
from calibrax.likelihoods._residual import Mask, Stats, mean_observed, minus_abs, residual, sum_event_and_constant
from calibrax.likelihoods._value import Likelihood, constructor

MIN_LOG_SIGMA = -6.0  # section 3.1
HIGHEST_FLOOR = 44.0  # of log σ and of log scales: in float32 exp(2·44) is finite
INITIAL = 1.0  # before the first update the running σ² is 1, that of the "Gaussian VAE"; so is the Laplace scale


def optimal_sigma_nll(
    x: Num[Array, "B ..."],
    mean: Float[Array, "B ..."],
    axis: Axis = None,
    axis_name: str | None = None,
    *,
    min_log_sigma: float = MIN_LOG_SIGMA,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of a Gaussian whose variance is the mean squared error between the data and `mean`.

    σ² = MSE(x, mean), averaged over `axis`; then the sum of (x - mean)² / (2σ²) + log(2πσ²) / 2 over the event. The
    gradient flows through σ² too, but that part of it is 0, because σ² is the minimiser.

    Args:
      x: [B, ...] float data, or uint8 read as x / 255, or bool.
      mean: [B, ...], same shape.
      axis: what shares a variance. None: everything shares one; `"image"`: each example has its own; `"pixel"`: each
        position and channel has its own, over the batch; `"channel"`: each channel has its own; or the axes to
        average over, as in NumPy.
      axis_name: the mapped axis (`pmap`, `vmap`, `shard_map`) over which the batch is spread, if any; the mean square
        is averaged across it wherever it is averaged over the batch.
      min_log_sigma: the variance is floored at exp(2·min_log_sigma), by a maximum inside the log. Above the floor it
        is exact; at a perfect fit, values and gradients are finite.
      mask: True where x is observed, or None; what is hidden counts in neither the nll nor the variance.

    Returns:
      nll [B], nats, at least float32; stats `mse` and `log_sigma`, shaped as `mean` without the averaged axes. If that
      leaves the batch axis, also `batch_mse`, the mean over the (global) batch. With a mask also `observed`, the
      fraction of observed values behind each entry of the batch's mean.

    Raises:
      ValueError: if shapes do not match, x has another dtype, the axis does not exist, `axis_name` is not
        mapped here, or `min_log_sigma` is not a number under 44.

    Example:
      >>> nll, stats = optimal_sigma_nll(images, jax.nn.sigmoid(outputs))

    References:
      Equation (5), whose left side should read σ*², and section 4.
    """
    check_number("min_log_sigma", min_log_sigma, high=HIGHEST_FLOOR)
    (error,) = residual(x, mean, mask)
    axes = reduced_axes(axis, error.ndim)
    sq_error, seen = mean_within_examples(jnp.square(error), axes, mask)
    mse, stats = mean_over_batch("mse", sq_error, seen, axes, axis_name, mask)
    variance = jnp.maximum(mse, math.exp(2 * min_log_sigma))  # inside the log: a perfect fit stays finite
    nll = sum_event_and_constant(sq_error * (0.5 / variance), 0.5 * jnp.log(2 * jnp.pi * variance) * seen)
    return error.size // sq_error.size * nll, {**stats, "log_sigma": jnp.squeeze(0.5 * jnp.log(variance), axes)}


def optimal_laplace_nll(
    x: Num[Array, "B ..."],
    mean: Float[Array, "B ..."],
    axis: Axis = None,
    axis_name: str | None = None,
    *,
    min_log_scale: float = MIN_LOG_SIGMA,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of a Laplace distribution whose scale is the mean absolute error between data and `mean`.

    Args:
      x, mean, axis, axis_name, mask: as for `optimal_sigma_nll`.
      min_log_scale: the scale is floored at exp(min_log_scale), by a maximum inside the log.

    Returns:
      nll [B], nats, at least float32; stats as those of `optimal_sigma_nll`, with `mae`, `log_scale` and `batch_mae`
      in place of `mse`, `log_sigma` and `batch_mse`; and `mse` [].

    Raises:
      ValueError: as for `optimal_sigma_nll`.

    Example:
      >>> nll, stats = optimal_laplace_nll(images, jax.nn.sigmoid(outputs))

    References:
      Not in the paper: section 4's argument, applied to the absolute error.
    """
    check_number("min_log_scale", min_log_scale, high=HIGHEST_FLOOR)
    (error,) = residual(x, mean, mask)
    axes = reduced_axes(axis, error.ndim)
    abs_error, seen = mean_within_examples(-minus_abs(error), axes, mask)
    mae, stats = mean_over_batch("mae", abs_error, seen, axes, axis_name, mask)
    scale = jnp.maximum(mae, math.exp(min_log_scale))
    nll = sum_event_and_constant(abs_error * (1 / scale), jnp.log(2 * scale) * seen)
    stats |= {"log_scale": jnp.squeeze(jnp.log(scale), axes), "mse": mean_observed(jnp.square(error), mask)}
    return error.size // abs_error.size * nll, stats


@constructor
def optimal_sigma(
    axis: Axis = None, decay: float = 0.99, *, link: Link = "sigmoid", min_log_sigma: float = MIN_LOG_SIGMA
) -> Likelihood:
    """The decoder of the optimal σ-VAE: a Gaussian whose variance is not learned but computed.

    In training the variance is the mean squared error of the batch; at test time it is the debiased running average
    of those, kept in `state`. Before the first update that average is 1. If `axis` leaves the batch out (`"image"`),
    the variance of an unseen example is not known, and the test-time value is the average over examples.

    Videos and sequences [B, T, ...] are events whose first axis is time. Averaging over all axes of the batch but 1,
    for example `axis=(0, 2, 3, 4)` for [B, T, H, W, C], gives each time step or horizon a variance of its own. In
    `masked`, a step that nobody observes keeps the initial variance, 1, until it is observed. In `batched`, all steps
    share a variance.

    Args:
      axis: what shares a variance, as for `optimal_sigma_nll`.
      decay: of the running average, in [0, 1). The average lags while the fit improves; `calibrate` is exact.
      link: `"sigmoid"` for data in [0, 1], `"identity"` for data without a range.
      min_log_sigma: floor of log σ.

    Returns:
      A `Likelihood` with one output per channel and no params. Its stats are those of `optimal_sigma_nll`; with
      `train=False`, `log_sigma` is the running one.

    Raises:
      ValueError: for an unknown axis or link, or numbers out of range.

    Example:
      >>> likelihood = optimal_sigma(axis="channel")
      >>> params, state = likelihood.init((8, 8, 3))
      >>> nll, stats = likelihood.nll(params, state, outputs, x)  # σ of this batch, one per channel
      >>> state = likelihood.update(state, stats)
      >>> nll, stats = likelihood.nll(params, state, outputs, x, train=False)  # the running σ

    References:
      Section 4, "optimal σ-VAE" and "per-image optimal σ-VAE".
    """
    check_number("min_log_sigma", min_log_sigma, high=HIGHEST_FLOOR)
    nll = functools.partial(optimal_sigma_nll, min_log_sigma=min_log_sigma)

    def log_sigma_of(mse):
        return 0.5 * jnp.log(jnp.maximum(mse, math.exp(2 * min_log_sigma)))

    family, mean = gaussian_family(link), functools.partial(apply_link, link)
    return with_running_scale(nll, family, mean, "mse", "log_sigma", log_sigma_of, axis, decay)


@constructor
def optimal_laplace(
    axis: Axis = None, decay: float = 0.99, *, link: Link = "sigmoid", min_log_scale: float = MIN_LOG_SIGMA
) -> Likelihood:
    """A Laplace decoder whose scale is not learned but computed: the mean absolute error.

    Args:
      axis, decay, link: as for `optimal_sigma`.
      min_log_scale: floor of the log scale.

    Returns:
      A `Likelihood` with one output per channel, its mean, and no params. Its stats are those of
      `optimal_laplace_nll`; with `train=False`, `log_scale` is the running one.

    Raises:
      ValueError: for an unknown axis or link, or numbers out of range.

    Example:
      >>> likelihood = optimal_laplace()
      >>> params, state = likelihood.init((8, 8, 3))
      >>> nll, stats = likelihood.nll(params, state, outputs, x)
      >>> state = likelihood.update(state, stats)

    References:
      Not in the paper.
    """
    check_link(link)
    check_number("min_log_scale", min_log_scale, high=HIGHEST_FLOOR)
    nll = functools.partial(optimal_laplace_nll, min_log_scale=min_log_scale)

    def log_scale_of(mae):
        return jnp.log(jnp.maximum(mae, math.exp(min_log_scale)))

    mean = functools.partial(apply_link, link)
    return with_running_scale(nll, LAPLACE, mean, "mae", "log_scale", log_scale_of, axis, decay)


def with_running_scale(
    train_nll: Callable[..., tuple[jax.Array, Stats]],
    family: Family,
    location: Callable[[jax.Array], jax.Array],
    average: str,
    scale: str,
    log_scale_of: Callable[[jax.Array], jax.Array],
    axis: Axis,
    decay: float,
    *,
    outputs_per_channel: int = 1,
    initial: float = INITIAL,
) -> Likelihood:
    """A `Likelihood` that uses the scale of the batch in training and the running average of scales at test time.

    `family` is the distribution of `train_nll` with two parameters: the location, which `location` makes of the
    outputs, and a log scale. `average` names the stat that is averaged (its mean over a batch is `batch_{average}`),
    `scale` the one that is the log scale. Before the first update, the average is `initial`.
    """
    reduced_axes(axis, 32)  # an unknown name or kind of axis fails here; one beyond the data's rank fails with data
    check_number("decay", decay, low=0, high=1, closed=True)

    def average_in(state):
        found = entry("state", state, average)
        if not running_average.is_average(found):
            held = f"{average!r}: a {type(found).__name__}"
            raise ValueError(f"state has {held}; expected {{{average!r}: a dict of 'total' and 'weight'}}, as of init")
        return found

    def running_log_scale(state, ndim):
        """The test-time log scale, shaped to broadcast against data of this rank."""
        log_scale = log_scale_of(running_average.value(average_in(state), initial=initial))
        return jnp.expand_dims(log_scale, sorted({0, *reduced_axes(axis, ndim)}))  # never has a batch axis

    def parameters(params, state, outputs):
        return location(outputs), running_log_scale(state, outputs.ndim)

    at_test = from_family(family, parameters, outputs_per_channel=outputs_per_channel)

    def init(event_shape):
        event_shape = check_event_shape(event_shape)
        axes = reduced_axes(axis, len(event_shape) + 1)
        return {}, {average: running_average.init([n for i, n in enumerate(event_shape, start=1) if i not in axes])}

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        outputs, x, mask = with_channels(outputs, x, mask)
        check_data(x, data_shape(outputs, outputs_per_channel))
        loss, stats = train_nll(x, location(outputs), axis, axis_name, mask=mask)
        if not train:  # the batch's own mse stays in the stats; its scale does not
            loss, _ = at_test.nll(params, state, outputs, x, mask=mask)
            log_scale = jnp.squeeze(running_log_scale(state, jnp.ndim(x)), reduced_axes(axis, jnp.ndim(x)))
            stats[scale] = jnp.broadcast_to(log_scale, stats[scale].shape)
        return loss, stats

    def update(state, stats):
        before, value = average_in(state), entry("stats", stats, average)
        value, weight = stats.get(f"batch_{average}", value), stats.get("observed", 1.0)
        shape = jnp.shape(before["total"])
        if jnp.shape(value) != shape:
            raise ValueError(f"stats have a {average} of shape {jnp.shape(value)}; expected {shape}, as in state")
        return {average: running_average.update(before, value, decay=decay, weight=weight)}

    return at_test._replace(init=init, nll=nll, update=update)


def mean_within_examples(values: jax.Array, axes: tuple[int, ...], mask: Mask) -> tuple[jax.Array, jax.Array]:
    """Two means over those averaged axes that lie within an example: of the values, and of 1 where x is observed.

    Both are [B, ...] with the averaged axes kept as 1; without a mask, the second has a 1 for each axis.

    A hidden value counts as 0 in both, so that their ratio is the mean over what is observed. A scale does not vary
    along the averaged axes. Therefore the sum over an event of value / scale is the mean / scale, times the number of
    values behind the mean: the nll needs no second pass over the values.

    These means are also the first stage of the mean over a batch. One float32 sum over 10^5 values loses a digit more
    than several short sums do, and on eight devices it loses another one than on one device.
    """
    within = tuple(i for i in axes if i != 0)
    if mask is None:
        return jnp.mean(values, within, keepdims=True), jnp.ones((1,) * values.ndim, values.dtype)
    observed = broadcast_mask(mask, values.shape)
    total = jnp.mean(jnp.where(observed, values, 0.0), within, keepdims=True)
    return total, jnp.mean(observed.astype(values.dtype), within, keepdims=True)


def mean_over_batch(
    name: str, total: jax.Array, seen: jax.Array, axes: tuple[int, ...], axis_name: str | None, mask: Mask
) -> tuple[jax.Array, Stats]:
    """The mean of observed values over the axes, these axes kept, and the stats that a running average needs.

    `total` and `seen`, from `mean_within_examples`, are linear in the batch: each is averaged over it, and across
    devices, before one is divided by the other. If axis 0 is not among the axes, the mean is that of each example.
    """

    def over_batch(array):
        array = jnp.mean(array, 0, keepdims=True)
        if axis_name is None:
            return array
        try:
            return lax.pmean(array, axis_name)
        except NameError as error:
            message = f"axis_name is {axis_name!r}; expected an axis that pmap, vmap or shard_map maps"
            raise ValueError(message) from error

    def ratio(total, seen):
        return total if mask is None else total / jnp.where(seen > 0, seen, 1.0)  # 0 if nothing was observed

    observed = over_batch(seen)
    of_batch = ratio(over_batch(total), observed)
    mean = of_batch if 0 in axes else ratio(total, seen)
    stats = {name: jnp.squeeze(mean, axes)}
    if 0 not in axes:
        stats[f"batch_{name}"] = jnp.squeeze(of_batch, (0, *axes))
    if mask is not None:
        stats["observed"] = jnp.squeeze(observed, tuple({0, *axes}))
    return mean, stats
