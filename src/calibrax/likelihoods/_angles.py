"""Decoders of angles: von Mises distributions, whose concentration is learned, emitted or computed."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._axes import Axis
from calibrax.likelihoods._base import Family, draw, from_family, shared_scale
from calibrax.likelihoods._checks import check_number
from calibrax.likelihoods._counts import Dispersion, check_source
from calibrax.likelihoods._optimal import mean_over_batch, mean_within_examples, reduced_axes, with_running_scale
from calibrax.likelihoods._residual import (
    Mask,
    Stats,
    mean_observed,
    sum_event,
    sum_event_and_constant,
    unit_data,
    widen,
)
from calibrax.likelihoods._special import log_concentration_of, log_i0e, scaled_variance
from calibrax.likelihoods._value import Likelihood, constructor

MAX_LOG_CONCENTRATION = 12.0  # κ = σ^-2 for σ = e^-6, section 3.1's floor of log σ
BOUND = 40.0  # of log κ in size: products with κ stay in float32
MIN_CONCENTRATION = 1e-6
SHORTEST = 1e-15  # a shorter direction says nothing, and its square would underflow
MOST_ROUNDS = 200  # of a sampler that accepts at least 0.65 of its proposals


def von_mises_nll(
    x: Num[Array, "B ..."], direction: Float[Array, "B ... 2"], log_concentration: ArrayLike, *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of angles under von Mises distributions, summed over the event.

    The sum of κ·(1 - cos(x - μ)) + log(2π·exp(-κ)·I0(κ)), where μ is the angle of the direction. For large κ it is a
    Gaussian of variance 1/κ.

    Args:
      x: [B, ...] angles in radians, floats of any period.
      direction: [B, ..., 2], the mean angle as a point in the plane, (cos μ, sin μ) times any positive length. One that
        is shorter than 1e-15 counts as if 1 were added to its first component: at 0 the angle is 0, and the gradient
        is finite and not 0.
      log_concentration: log κ, broadcasts against x; what is outside of -40 to 40 counts as the nearest of them.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `circular_variance` [], the mean of 1 - cos(x - μ), and
      `log_concentration` [], its mean.

    Raises:
      ValueError: if shapes do not match or x has another dtype.

    Example:
      >>> nll, stats = von_mises_nll(angles, outputs.reshape(*angles.shape, 2), 0.0)

    References:
      Mardia and Jupp 2000, "Directional statistics", section 3.5.4. Not in the paper.
    """
    x, log_concentration = _angle_data(x, direction, mask, log_concentration=log_concentration)
    log_concentration = jnp.clip(log_concentration, -BOUND, BOUND)
    distance = _distance(direction, x)
    constant = math.log(2 * math.pi) + log_i0e(log_concentration)
    nll = sum_event_and_constant(distance * jnp.exp(log_concentration), constant, mask)
    stats = {"circular_variance": mean_observed(distance, mask), "log_concentration": jnp.mean(log_concentration)}
    return nll, stats


def optimal_von_mises_nll(
    x: Num[Array, "B ..."],
    direction: Float[Array, "B ... 2"],
    axis: Axis = None,
    axis_name: str | None = None,
    *,
    max_log_concentration: float = MAX_LOG_CONCENTRATION,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of angles whose concentration is the best one for the batch.

    The best κ has the circular variance of the batch, 1 - I1(κ)/I0(κ) = mean of 1 - cos(x - μ): the argument by which
    the best variance of a Gaussian is the mean squared error. If that mean is 1 or more, κ is 1e-6: nearly uniform.

    Args:
      x, direction, mask: as for `von_mises_nll`.
      axis, axis_name: as for `optimal_sigma_nll`.
      max_log_concentration: log κ is bounded by it, by a floor of the circular variance, so that a perfect fit is
        finite. 12 is that of σ = e^-6 radians.

    Returns:
      nll [B], nats, at least float32; stats `circular_variance` and `log_concentration`, shaped as x without the
      averaged axes. If that leaves the batch axis, also `batch_circular_variance`; with a mask also `observed`. See
      `optimal_sigma_nll`.

    Raises:
      ValueError: as for `optimal_sigma_nll`, with a bound of log κ from -13 to 40.

    Example:
      >>> nll, stats = optimal_von_mises_nll(angles, directions.reshape(*angles.shape, 2))

    References:
      Mardia and Jupp 2000, section 5.3.1; section 4 of the paper, for the idea.
    """
    _check_max(max_log_concentration)
    (x,) = _angle_data(x, direction, mask)
    axes = reduced_axes(axis, x.ndim)
    distance, seen = mean_within_examples(_distance(direction, x), axes, mask)
    variance, stats = mean_over_batch("circular_variance", distance, seen, axes, axis_name, mask)
    log_concentration = _best_log_concentration(variance, max_log_concentration)
    constant = math.log(2 * math.pi) + log_i0e(log_concentration)
    nll = sum_event(distance * jnp.exp(log_concentration)) + sum_event(
        jnp.broadcast_to(constant * seen, distance.shape)
    )
    return x.size // distance.size * nll, {**stats, "log_concentration": jnp.squeeze(log_concentration, axes)}


@constructor
def von_mises(concentration: Dispersion = "shared") -> Likelihood:
    """Von Mises distributions of angles in radians, whose network emits the mean angle as a direction.

    Channels of `outputs`: C first components of directions (the cosines of unit vectors), then C second ones (the
    sines), of any length; if the concentration is emitted, then C values of log κ.

    Args:
      concentration: where κ comes from. `"shared"`: one for everything, and `"channel"`: one per channel, learned by
        gradient descent as `params`, `{"log_concentration": []}` or `[C]`, initially 0; `"emitted"`: one per angle,
        which the network emits. For one that is computed, see `optimal_von_mises`.

    Returns:
      A `Likelihood` with two outputs per channel, or three. `mean` is the mean direction as an angle in (-π, π], not
      the mean of angles as numbers; `sample` draws angles in (-π, π].

    Raises:
      ValueError: if the concentration is another word.

    Example:
      >>> params, state = von_mises().init((3,))
      >>> nll, stats = von_mises().nll(params, state, directions, angles)  # angles [B, 3], directions [B, 6]

    References:
      Not in the paper.
    """
    source = check_source("concentration", concentration)
    if source == "emitted":
        return from_family(VON_MISES, _split_direction_and_concentration, outputs_per_channel=3)
    axis = None if source == "shared" else "channel"
    return shared_scale(VON_MISES, "log_concentration", _directions, axis, outputs_per_channel=2)


@constructor
def optimal_von_mises(
    axis: Axis = None, decay: float = 0.99, *, max_log_concentration: float = MAX_LOG_CONCENTRATION
) -> Likelihood:
    """Von Mises distributions of angles whose concentration is not learned but computed: optimal σ on the circle.

    In training κ is the best one of the batch; at test time it is that of the debiased running average of circular
    variances, kept in `state`. Before the first update that average is 1 - I1(1)/I0(1) = 0.554, and κ is 1.

    Args:
      axis: what shares a concentration, as for `optimal_sigma_nll`.
      decay: of the running average, in [0, 1). `calibrate` is exact.
      max_log_concentration: bound of log κ, as for `optimal_von_mises_nll`.

    Returns:
      A `Likelihood` with two outputs per channel, laid out as for `von_mises`, and no params. Its stats are those of
      `optimal_von_mises_nll`; with `train=False`, `log_concentration` is the running one.

    Raises:
      ValueError: for an unknown axis, or numbers out of range.

    Example:
      >>> params, state = optimal_von_mises().init((3,))
      >>> nll, stats = optimal_von_mises().nll(params, state, directions, angles)
      >>> state = optimal_von_mises().update(state, stats)

    References:
      Not in the paper: section 4's argument on the circle.
    """
    _check_max(max_log_concentration)
    return with_running_scale(
        functools.partial(optimal_von_mises_nll, max_log_concentration=max_log_concentration),
        VON_MISES,
        _directions,
        "circular_variance",
        "log_concentration",
        functools.partial(_best_log_concentration, highest=max_log_concentration),
        axis,
        decay,
        outputs_per_channel=2,
        initial=INITIAL_VARIANCE,
    )


def _check_max(max_log_concentration: float) -> None:
    check_number("max_log_concentration", max_log_concentration, low=math.log(MIN_CONCENTRATION), high=BOUND)


def _best_log_concentration(variance: jax.Array, highest: float) -> jax.Array:
    """log κ of a circular variance, which is bounded inside the logarithm, so that values and gradients are finite."""
    least = scaled_variance(jnp.exp(jnp.asarray(highest, variance.dtype))) * math.exp(-highest)
    # 1 - κ/2 is the circular variance of a small κ. Rounded in float32, it is that of some κ of the same order.
    log_concentration = log_concentration_of(jnp.clip(variance, least, 1 - MIN_CONCENTRATION / 2))
    return jnp.clip(log_concentration, math.log(MIN_CONCENTRATION), highest)


def _angle_data(x: ArrayLike, direction: ArrayLike, mask: Mask, **scales: ArrayLike) -> tuple[jax.Array, ...]:
    """The angles, and each scale in their rank; see `unit_data`."""
    direction = widen(direction)
    if direction.ndim < 2 or direction.shape[-1] != 2:
        raise ValueError(f"direction has shape {direction.shape}; expected [B, ..., 2]")
    x, _, *arrays = unit_data(x, lax.stop_gradient(direction[..., 0]), mask, **scales)
    return x, *arrays


def _distance(direction: ArrayLike, x: jax.Array) -> jax.Array:
    """1 - cos(x - μ), from 0 to 2.

    It is half of the squared chord between two points of the unit circle, which for close ones does not cancel.
    """
    cosine, sine = _unit(jnp.asarray(direction, x.dtype))
    return 0.5 * (jnp.square(jnp.cos(x) - cosine) + jnp.square(jnp.sin(x) - sine))


def _unit(direction: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The direction's cosine and sine."""
    first, second = direction[..., 0], direction[..., 1]
    square = jnp.square(first) + jnp.square(second)
    first = jnp.where(square < SHORTEST**2, first + 1, first)
    inverse = lax.rsqrt(jnp.where(square < SHORTEST**2, 1.0, square))
    return first * inverse, second * inverse


def _directions(outputs: jax.Array) -> jax.Array:
    """[B, ..., 2C] -> [B, ..., C, 2]."""
    return jnp.stack(jnp.split(widen(outputs), 2, axis=-1), -1)


def _split_direction_and_concentration(params, state, outputs):
    first, second, log_concentration = jnp.split(widen(outputs), 3, axis=-1)
    return jnp.stack([first, second], -1), log_concentration


def _mean_angle(direction: jax.Array, log_concentration: ArrayLike) -> jax.Array:
    del log_concentration
    cosine, sine = _unit(direction)
    return _wrapped(jnp.arctan2(sine, cosine))


def _wrapped(angle: jax.Array) -> jax.Array:
    """An angle in [-2π, 2π] as one in (-π, π]."""
    angle = jnp.where(angle > math.pi, angle - 2 * math.pi, angle)
    return jnp.where(angle <= -math.pi, angle + 2 * math.pi, angle)


def _sample(key: jax.Array, direction: jax.Array, log_concentration: ArrayLike) -> jax.Array:
    mean = _mean_angle(direction, log_concentration)
    return draw(_around, key, mean, jnp.asarray(log_concentration, mean.dtype))


@jax.jit  # outside of `jit` a loop would be compiled at every call
def _around(key: jax.Array, mean: jax.Array, log_concentration: jax.Array) -> jax.Array:
    """By rejection from wrapped Cauchy distributions, in which the distance from the mean is not 1 minus a cosine.

    Best and Fisher propose cos θ = (1 + s·z) / (s + z) with z = cos(π·u), and the best s solves κ·(s² - 1) = s. With
    e = s - 1, which a large κ makes small, 1 - cos θ = e·(1 - z) / (e + 1 + z), where 1 - z = 2·sin²(π·u/2) and
    1 + z = 2·cos²(π·u/2). With y = κ·(e + 1 - cos θ) the proposal is kept if log(y/v) + 1 - y >= 0, v uniform.

    References:
      Best and Fisher 1979, "Efficient simulation of the von Mises distribution".
    """
    log_concentration = jnp.clip(log_concentration, -BOUND, BOUND)
    kappa = jnp.broadcast_to(jnp.maximum(jnp.exp(log_concentration), MIN_CONCENTRATION), mean.shape)
    h = 0.5 / kappa
    excess = h + jnp.square(h) / (1 + jnp.sqrt(1 + jnp.square(h)))

    def propose(carry):
        round_number, distance, accepted = carry
        u, v = jax.random.uniform(jax.random.fold_in(key, round_number), (2, *mean.shape), mean.dtype)
        half = 0.5 * math.pi * u
        proposed = excess * 2 * jnp.square(jnp.sin(half)) / (excess + 2 * jnp.square(jnp.cos(half)))
        y = kappa * (excess + proposed)
        kept = jnp.log(y) - jnp.log(jnp.maximum(v, jnp.finfo(v.dtype).tiny)) + 1 - y >= 0
        return round_number + 1, jnp.where(accepted, distance, proposed), accepted | kept

    def unfinished(carry):
        round_number, _, accepted = carry
        return (round_number < MOST_ROUNDS) & ~jnp.all(accepted)

    start = 1, jnp.zeros_like(mean), jnp.zeros(mean.shape, bool)
    _, distance, _ = lax.while_loop(unfinished, propose, start)
    size = 2 * jnp.arcsin(jnp.sqrt(jnp.clip(0.5 * distance, 0, 1)))
    sign = jax.random.rademacher(jax.random.fold_in(key, 0), mean.shape, mean.dtype)
    return _wrapped(mean + sign * size)


VON_MISES = Family(von_mises_nll, _mean_angle, _sample)
INITIAL_VARIANCE = 0.5536100341034653  # 1 - I1(1)/I0(1)
