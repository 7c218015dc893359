"""Decoders whose scale is the analytic optimum: the mean squared error (section 4), or the mean absolute error."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from calibrax import running_average
from calibrax.likelihoods._base import (
    Family,
    Likelihood,
    Link,
    Mask,
    Stats,
    apply_link,
    as_unit,
    compute_dtype,
    from_family,
    hide,
    mean_observed,
    minus_abs,
    sum_event_and_constant,
)
from calibrax.likelihoods._checks import (
    check_data,
    check_event_shape,
    check_link,
    check_number,
    data_shape,
    entry,
    shown,
)
from calibrax.likelihoods._gaussian import gaussian_family
from calibrax.likelihoods._heavy_tailed import LAPLACE

Axis = None | Literal["image", "pixel", "channel"] | int | Sequence[int]

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
    """Negative log density of a Gaussian whose variance is the data's own mean squared error from `mean`.

    σ² = MSE(x, mean), averaged over `axis`; then the sum of (x - mean)² / (2σ²) + log(2πσ²) / 2 over the event. The
    gradient flows through σ² and vanishes there, σ² being the minimiser.

    Args:
      x: [B, ...] float data, or uint8 read as x / 255.
      mean: [B, ...], same shape.
      axis: what shares a variance: None, everything; `"image"`, each example has its own; `"pixel"`, each position
        and channel, over the batch; `"channel"`, each channel; or the axes to average over, as in NumPy.
      axis_name: the mapped axis (`pmap`, `vmap`, `shard_map`) over which the batch is spread, if any; the mean square
        is averaged across it wherever it is averaged over the batch.
      min_log_sigma: the variance is floored at exp(2·min_log_sigma), by a maximum inside the log: exact above it, and
        a perfect fit stays finite with finite gradients.
      mask: True where x is observed, or None; what is hidden counts in neither the nll nor the variance.

    Returns:
      nll [B], nats, at least float32; stats `mse` and `log_sigma`, shaped as `mean` without the averaged axes. Where
      these have the batch, also `batch_mse`, the mean over the (global) batch; with a mask also `observed`, the
      observed fraction that stands behind each of those means.

    Raises:
      ValueError: if shapes do not match, x is neither uint8 nor float, the axis does not exist or `axis_name` is not
        mapped here, or `min_log_sigma` is not a number under 44.

    Example:
      >>> nll, stats = optimal_sigma_nll(images, jax.nn.sigmoid(outputs))

    References:
      Equation (5), whose left side should read σ*², and section 4.
    """
    check_number("min_log_sigma", min_log_sigma, high=HIGHEST_FLOOR)
    error = _error(x, mean, mask)
    mse = _average(jnp.square(error), axis, axis_name, mask)
    variance = jnp.maximum(mse.value, math.exp(2 * min_log_sigma))  # inside the log: a perfect fit stays finite
    nll = mse.sum_event(0.5 / variance, 0.5 * jnp.log(2 * jnp.pi * variance))
    log_sigma = jnp.squeeze(0.5 * jnp.log(variance), reduced_axes(axis, error.ndim))
    return nll, {**mse.stats("mse"), "log_sigma": log_sigma}


def optimal_laplace_nll(
    x: Num[Array, "B ..."],
    mean: Float[Array, "B ..."],
    axis: Axis = None,
    axis_name: str | None = None,
    *,
    min_log_scale: float = MIN_LOG_SIGMA,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of a Laplace distribution whose scale is the data's own mean absolute error from `mean`.

    Args:
      x, mean, axis, axis_name, mask: as in `optimal_sigma_nll`.
      min_log_scale: the scale is floored at exp(min_log_scale), by a maximum inside the log.

    Returns:
      nll [B], nats, at least float32; stats as those of `optimal_sigma_nll`, `mae` and `log_scale` in the place of
      `mse` and `log_sigma`, `batch_mae` in that of `batch_mse`; and `mse` [].

    Raises:
      ValueError: as `optimal_sigma_nll`.

    References:
      Not in the paper: section 4's argument for the absolute error.
    """
    check_number("min_log_scale", min_log_scale, high=HIGHEST_FLOOR)
    error = _error(x, mean, mask)
    mae = _average(-minus_abs(error), axis, axis_name, mask)
    scale = jnp.maximum(mae.value, math.exp(min_log_scale))
    nll = mae.sum_event(1 / scale, jnp.log(2 * scale))
    log_scale = jnp.squeeze(jnp.log(scale), reduced_axes(axis, error.ndim))
    return nll, {**mae.stats("mae"), "log_scale": log_scale, "mse": mean_observed(jnp.square(error), mask)}


def optimal_sigma(
    axis: Axis = None, decay: float = 0.99, *, link: Link = "sigmoid", min_log_sigma: float = MIN_LOG_SIGMA
) -> Likelihood:
    """The optimal σ-VAE's decoder: a Gaussian whose variance is not learned but computed.

    In training the variance is the mean squared error of the batch; at test time it is the debiased running average
    of those, kept in `state`. Before the first update that average reads 1. Where `axis` leaves the batch out
    (`"image"`), the variance of an unseen example is not known, and the test-time value is the average over examples.

    Args:
      axis: what shares a variance, as in `optimal_sigma_nll`.
      decay: of the running average, in [0, 1). The average lags while the fit improves; `calibrate` is exact.
      link: `"sigmoid"` for data in [0, 1], `"identity"` for data without a range.
      min_log_sigma: floor of log σ.

    Returns:
      A `Likelihood` with one output a channel and no params. stats are those of `optimal_sigma_nll`. With
      `train=False`, `log_sigma` is the running one.

    Raises:
      ValueError: for an unknown axis or link, or numbers out of range.

    References:
      Section 4, "optimal σ-VAE" and "per-image optimal σ-VAE".
    """
    check_link(link)
    check_number("min_log_sigma", min_log_sigma, high=HIGHEST_FLOOR)
    return _with_running_scale(
        lambda *args, mask: optimal_sigma_nll(*args, min_log_sigma=min_log_sigma, mask=mask),
        gaussian_family(link),
        average="mse",
        scale="log_sigma",
        log_scale_of=lambda mse: 0.5 * jnp.log(jnp.maximum(mse, math.exp(2 * min_log_sigma))),
        axis=axis,
        decay=decay,
        link=link,
    )


def optimal_laplace(
    axis: Axis = None, decay: float = 0.99, *, link: Link = "sigmoid", min_log_scale: float = MIN_LOG_SIGMA
) -> Likelihood:
    """A Laplace decoder whose scale is not learned but computed: the mean absolute error.

    Args:
      axis, decay, link: as in `optimal_sigma`.
      min_log_scale: floor of the log scale.

    Returns:
      A `Likelihood` with one output a channel, its mean, and no params. stats are those of `optimal_laplace_nll`. With
      `train=False`, `log_scale` is the running one.

    Raises:
      ValueError: for an unknown axis or link, or numbers out of range.

    References:
      Not in the paper.
    """
    check_link(link)
    check_number("min_log_scale", min_log_scale, high=HIGHEST_FLOOR)
    return _with_running_scale(
        lambda *args, mask: optimal_laplace_nll(*args, min_log_scale=min_log_scale, mask=mask),
        LAPLACE,
        average="mae",
        scale="log_scale",
        log_scale_of=lambda mae: jnp.log(jnp.maximum(mae, math.exp(min_log_scale))),
        axis=axis,
        decay=decay,
        link=link,
    )


def _with_running_scale(
    train_nll: Callable[..., tuple[jax.Array, Stats]],
    family: Family,
    *,
    average: str,
    scale: str,
    log_scale_of: Callable[[jax.Array], jax.Array],
    axis: Axis,
    decay: float,
    link: Link,
) -> Likelihood:
    """The batch's own scale in training, the running average's at test time.

    Args:
      train_nll: `(x, mean, axis, axis_name, mask=) -> (nll, stats)`.
      family: the same distribution, with parameters mean and log scale.
      average: the stat that is averaged; `batch_` before it is its mean over a batch.
      scale: the stat that is the log scale.
      log_scale_of: the average -> the log scale.
      axis, decay, link: as in `optimal_sigma`.
    """
    reduced_axes(axis, 32)  # an unknown name or kind of axis fails here, one beyond the data's rank later
    check_number("decay", decay, low=0, high=1, closed=True)

    def running_log_scale(state, ndim):
        """The test-time log scale, shaped to broadcast against data of this rank."""
        log_scale = log_scale_of(running_average.value(entry("state", state, average), initial=INITIAL))
        return jnp.expand_dims(log_scale, sorted({0, *reduced_axes(axis, ndim)}))

    def parameters(params, state, outputs):
        mean = apply_link(link, outputs)
        return mean, running_log_scale(state, mean.ndim)

    at_test = from_family(family, parameters)

    def init(event_shape):
        event_shape = check_event_shape(event_shape)
        axes = reduced_axes(axis, len(event_shape) + 1)
        return {}, {average: running_average.init([n for i, n in enumerate(event_shape, start=1) if i not in axes])}

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        check_data(x, mask, data_shape(outputs, 1))
        mean = apply_link(link, outputs)
        loss, stats = train_nll(x, mean, axis, axis_name, mask=mask)
        if not train:
            loss, _ = at_test.nll(params, state, outputs, x, mask=mask)
            log_scale = jnp.squeeze(running_log_scale(state, mean.ndim), reduced_axes(axis, mean.ndim))
            stats[scale] = jnp.broadcast_to(log_scale, stats[scale].shape)
        return loss, stats

    def update(state, stats):
        before, value = entry("state", state, average), entry("stats", stats, average)
        value, weight = stats.get(f"batch_{average}", value), stats.get("observed", 1.0)
        if jnp.shape(value) != before.total.shape:
            shape = before.total.shape
            raise ValueError(f"stats have a {average} of shape {jnp.shape(value)}; expected {shape}, as in state")
        return {average: running_average.update(before, value, decay=decay, weight=weight)}

    return at_test._replace(init=init, nll=nll, update=update)


def _error(x, mean, mask: Mask) -> jax.Array:
    """x - mean where x is observed."""
    dtype = compute_dtype(x, mean)
    mean = jnp.asarray(mean, dtype)
    check_data(x, mask, mean.shape)
    return as_unit(hide(x, mask), dtype) - mean


class _Average(NamedTuple):
    """The mean of observed values over some axes of the global batch, these axes kept, and what it was made of.

    A scale is the same along the averaged axes, so a sum over the event needs the means over them alone.
    """

    axes: tuple[int, ...]
    value: jax.Array  # the mean
    total: jax.Array  # [B, ...]: the mean over those of the axes that lie within an example, hidden values as 0
    seen: jax.Array  # the same of 1 where observed, 0 where hidden
    size: int  # how many values each of those is the mean of
    batch_value: jax.Array  # the mean over the (global) batch as well
    observed: jax.Array | None  # the observed fraction behind each of batch_value; None without a mask

    def sum_event(self, slope: jax.Array, constant: jax.Array) -> jax.Array:
        """The sum over each event of value · slope + constant, both constant along the axes, [B]."""
        return self.size * sum_event_and_constant(self.total * slope, constant * self.seen)

    def stats(self, name: str) -> dict[str, jax.Array]:
        stats = {name: jnp.squeeze(self.value, self.axes)}
        batch_axes = tuple({0, *self.axes})
        if 0 not in self.axes:
            stats[f"batch_{name}"] = jnp.squeeze(self.batch_value, batch_axes)
        if self.observed is not None:
            stats["observed"] = jnp.squeeze(self.observed, batch_axes)
        return stats


def _average(values: jax.Array, axis: Axis, axis_name: str | None, mask: Mask) -> _Average:
    """Taken in stages: over each example first, then over the batch, then across devices.

    One float32 sum over 10^5 values loses a digit more than short sums do, and loses it differently on eight devices.
    A mean over what is observed is a mean of sums divided by the observed fraction; both are linear in the batch.
    """
    axes = reduced_axes(axis, values.ndim)
    within = tuple(i for i in axes if i != 0)
    if mask is None:
        total = jnp.mean(values, within, keepdims=True)
        seen = jnp.ones((1,) * values.ndim, values.dtype)
    else:
        shown = jnp.broadcast_to(mask, values.shape)
        total = jnp.mean(jnp.where(shown, values, 0.0), within, keepdims=True)
        seen = jnp.mean(shown.astype(values.dtype), within, keepdims=True)

    def over_batch(array):
        array = jnp.mean(array, 0, keepdims=True)
        if axis_name is None:
            return array
        try:
            return lax.pmean(array, axis_name)
        except NameError as error:
            raise ValueError(
                f"axis_name is {axis_name!r}; expected an axis that pmap, vmap or shard_map maps"
            ) from error

    def ratio(total, seen):
        return total if mask is None else total / jnp.where(seen > 0, seen, 1.0)

    observed = over_batch(seen)
    batch_value = ratio(over_batch(total), observed)
    value = batch_value if 0 in axes else ratio(total, seen)
    size = math.prod(values.shape[i] for i in within)
    return _Average(axes, value, total, seen, size, batch_value, None if mask is None else observed)


def reduced_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The averaged axes of a rank-`ndim` batch, batch axis 0, in increasing order."""
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, str):
        named = {"image": range(1, ndim), "pixel": range(1), "channel": range(ndim - 1)}
        if axis not in named:
            raise ValueError(f"axis is {shown(axis)}; expected None, 'image', 'pixel', 'channel', or ints as in NumPy")
        return tuple(named[axis])
    axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in axes):
        raise ValueError(f"axis is {shown(axis)}; expected None, 'image', 'pixel', 'channel', or ints as in NumPy")
    if not all(-ndim <= i < ndim for i in axes):
        raise ValueError(f"axis is {shown(axis)}; expected axes of a rank-{ndim} batch, in [-{ndim}, {ndim})")
    normal = sorted(int(i) % ndim for i in axes)
    if not normal or len(set(normal)) < len(normal):
        raise ValueError(f"axis is {shown(axis)}; expected at least one axis, and each once")
    return tuple(normal)
