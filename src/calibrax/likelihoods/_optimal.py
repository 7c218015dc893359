"""The Gaussian decoder whose variance is the analytic optimum, the mean squared error (section 4)."""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from calibrax import running_average
from calibrax.likelihoods._base import (
    Likelihood,
    Link,
    Stats,
    apply_link,
    as_unit,
    check_event_shape,
    check_link,
    check_number,
    check_shape,
    compute_dtype,
    data_shape,
    sum_event,
)
from calibrax.likelihoods._gaussian import from_location_scale

Axis = None | Literal["image", "pixel", "channel"] | int | Sequence[int]

MIN_LOG_SIGMA = -6.0  # section 3.1
INITIAL_MSE = 1.0  # before the first update the running σ is 1, that of the "Gaussian VAE"


def optimal_sigma_nll(
    x: Num[Array, "B ..."],
    mean: Float[Array, "B ..."],
    axis: Axis = None,
    axis_name: str | None = None,
    *,
    min_log_sigma: float = MIN_LOG_SIGMA,
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

    Returns:
      nll [B], nats, at least float32; stats `mse` and `log_sigma`, shaped as `mean` without the averaged axes.

    Raises:
      ValueError: if shapes do not match, x is neither uint8 nor float, or the axis does not exist.

    Example:
      >>> nll, stats = optimal_sigma_nll(images, jax.nn.sigmoid(outputs))

    References:
      Equation (5), whose left side should read σ*², and section 4.
    """
    dtype = compute_dtype(x, mean)
    check_shape("x", x, mean.shape)
    axes = reduced_axes(axis, mean.ndim)
    sq_error = jnp.square(as_unit(x, dtype) - jnp.asarray(mean, dtype))
    mse = mean_in_stages(sq_error, axes)
    if axis_name is not None and 0 in axes:
        mse = lax.pmean(mse, axis_name)  # the batch is the global one
    variance = jnp.maximum(mse, math.exp(2 * min_log_sigma))  # inside the log: a perfect fit stays finite
    nll = 0.5 * (sq_error / variance + jnp.log(2 * jnp.pi * variance))
    return sum_event(nll), {"mse": jnp.squeeze(mse, axes), "log_sigma": jnp.squeeze(0.5 * jnp.log(variance), axes)}


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
      A `Likelihood` with one output a channel and no params. stats are those of `optimal_sigma_nll`; with a variance
      for each example also `batch_mse`, their mean over the (global) batch. With `train=False`, `log_sigma` is the
      running one.

    Raises:
      ValueError: for an unknown axis or link, or numbers out of range.

    References:
      Section 4, "optimal σ-VAE" and "per-image optimal σ-VAE".
    """
    reduced_axes(axis, 32)  # an unknown name or kind of axis fails here, one beyond the data's rank later
    check_link(link)
    check_number("decay", decay, low=0, high=1, closed=True)
    check_number("min_log_sigma", min_log_sigma)

    def running_log_sigma(state, ndim):
        """The test-time log σ, shaped to broadcast against data of this rank."""
        mse = running_average.value(state["mse"], initial=INITIAL_MSE)
        log_sigma = 0.5 * jnp.log(jnp.maximum(mse, math.exp(2 * min_log_sigma)))
        return jnp.expand_dims(log_sigma, sorted({0, *reduced_axes(axis, ndim)}))

    def location_scale(params, state, outputs):
        mean = apply_link(link, outputs)
        return mean, running_log_sigma(state, mean.ndim)

    at_test = from_location_scale(location_scale, outputs_per_channel=1, discrete=link == "sigmoid")

    def init(event_shape):
        event_shape = check_event_shape(event_shape)
        axes = reduced_axes(axis, len(event_shape) + 1)
        return {}, {"mse": running_average.init([n for i, n in enumerate(event_shape, start=1) if i not in axes])}

    def nll(params, state, outputs, x, train=True, axis_name=None):
        check_shape("x", x, data_shape(outputs, 1))
        mean = apply_link(link, outputs)
        axes = reduced_axes(axis, mean.ndim)
        loss, stats = optimal_sigma_nll(x, mean, axis, axis_name, min_log_sigma=min_log_sigma)
        if 0 not in axes:
            batch_mse = jnp.mean(stats["mse"], 0)
            stats["batch_mse"] = batch_mse if axis_name is None else lax.pmean(batch_mse, axis_name)
        if not train:
            loss, _ = at_test.nll(params, state, outputs, x)
            log_sigma = jnp.squeeze(running_log_sigma(state, mean.ndim), axes)
            stats["log_sigma"] = jnp.broadcast_to(log_sigma, stats["log_sigma"].shape)
        return loss, stats

    def update(state, stats):
        batch_mse = stats["batch_mse"] if "batch_mse" in stats else stats["mse"]
        return {"mse": running_average.update(state["mse"], batch_mse, decay=decay)}

    return at_test._replace(init=init, nll=nll, update=update)


def mean_in_stages(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mean over `axes`, kept as axes of size 1: over each example first, then over the batch.

    One float32 sum over 10^5 values loses a digit more than short sums do, and loses it differently on eight devices.
    """
    within = tuple(axis for axis in axes if axis != 0)
    means = jnp.mean(values, within, keepdims=True)
    return jnp.mean(means, 0, keepdims=True) if 0 in axes else means


def reduced_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """The averaged axes of a rank-`ndim` batch, batch axis 0, in increasing order."""
    if axis is None:
        return tuple(range(ndim))
    if isinstance(axis, str):
        named = {"image": range(1, ndim), "pixel": range(1), "channel": range(ndim - 1)}
        if axis not in named:
            raise ValueError(f"axis is {axis!r}; expected None, 'image', 'pixel', 'channel', or ints as in NumPy")
        return tuple(named[axis])
    axes = tuple(axis) if isinstance(axis, Sequence) else (axis,)
    if not all(isinstance(i, int) and not isinstance(i, bool) and -ndim <= i < ndim for i in axes):
        raise ValueError(f"axis is {axis!r}; expected axes of a rank-{ndim} batch, in [-{ndim}, {ndim})")
    normal = sorted(i % ndim for i in axes)
    if not normal or len(set(normal)) < len(normal):
        raise ValueError(f"axis is {axis!r}; expected at least one axis, and each once")
    return tuple(normal)
