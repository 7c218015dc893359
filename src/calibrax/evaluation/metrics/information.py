"""How the rate splits into mutual information and marginal KL (eq. 6), as estimates that say which bound they are.

rate = E_x KL(q(z|x) || p(z)) = I(x; z) + KL(m || p) with m(z) = E_x q(z|x). The rate is exact; log m is not, since m is
a mixture over all data. With N examples, and with the posterior that a draw came from among them, the mutual
information cannot exceed ln N and the marginal KL cannot fall below rate - ln N, whatever the truth. Each estimate here
is therefore a bound, and there are bounds from both sides. "In expectation" below means over data sets of N examples
drawn from the population.
"""

import functools
import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from calibrax.evaluation.metric import Metric, NoOptions, Record, Subject, with_stderr
from calibrax.evaluation.metrics.gaussian_mixture import blocks, fit_mixture, log_density
from calibrax.evaluation.metrics.likelihood import mean_stderr
from calibrax.evaluation.trained import Trained, check_not_empty

LOG_2PI = math.log(2 * math.pi)
HIDDEN = -1e30  # in place of the log density of a component that is left out: finite, so that no difference is NaN
ACTIVE_VARIANCE = 0.01  # Burda et al. 2016
MIN_EXAMPLES = 10  # the held-out density needs examples to be fitted, chosen and evaluated on
COMPONENTS = (1, 4, 16)  # numbers of Gaussians to try in the held-out density
BLOCK_SIZE = 256  # side of the blocks of the N×M matrix; memory is BLOCK_SIZE²·D floats, whatever N and M


class Decomposition(NamedTuple):
    """rate = mutual information + marginal KL, nats; a bound of one is a bound of the other from the opposite side.

    Attributes:
      mutual_information: nats.
      mutual_information_stderr: over draws.
      mutual_information_bound: which bound of the population's value it is, in expectation.
      marginal_kl: nats.
      marginal_kl_stderr: over draws.
      marginal_kl_bound: which bound it is.
    """

    mutual_information: float
    mutual_information_stderr: float
    mutual_information_bound: Literal["lower", "upper"]
    marginal_kl: float
    marginal_kl_stderr: float
    marginal_kl_bound: Literal["lower", "upper"]


class MonteCarlo(NamedTuple):
    """The estimates from one pass over the N×M matrix of log densities; see `monte_carlo`."""

    plain: Decomposition
    dimension_wise: Decomposition
    kl_per_dimension: np.ndarray  # [D] nats, KL(m_j || p_j); `dimension_wise` is their sum


class Information(NamedTuple):
    """All estimates for one encoder; nats.

    Attributes:
      rate: mean KL(q(z|x) || p(z)).
      rate_stderr: over examples.
      num_active: dimensions whose posterior mean varies by more than 0.01.
      variance_of_mean: [D], Var_x(E[z|x]).
      num_examples: N.
      num_draws: M.
      cap: ln N, which the plain mutual information cannot exceed.
      cap_fraction: plain mutual information / cap; near 1 the estimate reflects N, not the encoder.
      near_cap: within ln 10 of the cap: use the bounds from the other side.
      plain: the estimate of the paper, from draws.
      dimension_wise: a bound from each dimension alone.
      kl_per_dimension: [D], nats.
      moment_matched: a bound by a Gaussian of the same moments.
      held_out: a bound by a mixture that was fitted to other examples.
    """

    rate: float
    rate_stderr: float
    num_active: int
    variance_of_mean: np.ndarray
    num_examples: int
    num_draws: int
    cap: float
    cap_fraction: float
    near_cap: bool
    plain: Decomposition
    dimension_wise: Decomposition
    kl_per_dimension: np.ndarray
    moment_matched: Decomposition
    held_out: Decomposition


def measure_information(
    mean: np.ndarray, log_var: np.ndarray, *, key: jax.Array, num_draws: int | None = None
) -> Information:
    """Rate, active units, and every estimate of mutual information and marginal KL.

    In expectation, the population's mutual information lies between `plain` and each of `dimension_wise`,
    `moment_matched` and `held_out`, and its marginal KL between each of those and `plain`.

    Args:
      mean: [N, D] means of the Gaussian posteriors q(z | x_n), N at least 10; the prior is N(0, I).
      log_var: [N, D] their log variances.
      key: for the draws.
      num_draws: M, at least 2; by default N, at most 10,000.

    Returns:
      An `Information`, nats.

    Raises:
      ValueError: if a shape, value or number is out of range.

    Example:
      >>> info = measure_information(*encode_all(trained, images), key=jax.random.key(0))
      >>> low, high = info.plain.mutual_information, info.held_out.mutual_information  # low is at most info.cap

    References:
      Figure 4, eq. (6); Hoffman and Johnson 2016 for the decomposition.
    """
    mean, log_var = _checked(mean, log_var)
    draw_key, fit_key = jax.random.split(key)
    num_draws = min(len(mean), 10_000) if num_draws is None else num_draws
    if num_draws < 2:
        raise ValueError(f"num_draws is {num_draws}; expected 2 or more")
    estimates = monte_carlo(mean, log_var, key=draw_key, num_draws=num_draws)
    kl = _kl(mean, log_var)
    variances = mean.var(axis=0, dtype=np.float64)
    cap = math.log(len(mean))
    return Information(
        rate=float(kl.mean()),
        rate_stderr=mean_stderr(kl),
        num_active=int((variances > ACTIVE_VARIANCE).sum()),
        variance_of_mean=variances,
        num_examples=len(mean),
        num_draws=num_draws,
        cap=cap,
        cap_fraction=estimates.plain.mutual_information / cap,
        near_cap=estimates.plain.mutual_information > cap - math.log(10),
        **estimates._asdict(),
        moment_matched=moment_matched(mean, log_var),
        held_out=held_out(mean, log_var, key=fit_key),
    )


def monte_carlo(mean: np.ndarray, log_var: np.ndarray, *, key: jax.Array, num_draws: int) -> MonteCarlo:
    """The estimates that compare M draws z_i ~ q(. | x_i) with the mixture of all N posteriors.

    - `plain`: log m̂(z_i) = logsumexp_n log q(z_i|x_n) - ln N, with the draw's own posterior in the mixture; marginal
      KL = mean of log m̂ - log p, mutual information = mean of log q(z_i|x_i) - log m̂. It is unbiased for the N
      examples themselves (how well z tells which of them it came from), hence at most ln N, for every draw, as
      m̂ >= q(.|x_i) / N. For the population: KL(m_N || p) is convex in m_N, so in expectation the marginal KL is an
      upper bound and the mutual information a lower one.
    - `dimension_wise`: Σ_j KL(m_j || p_j) from one-dimensional mixtures, in each of which the prior takes the place of
      the draw's own posterior. Such a mixture is a density that z_i is independent of, so E log m̂_j <= E log m_j. And
      KL(m || p) = total correlation of m + Σ_j KL(m_j || p_j), where the total correlation is not negative. In
      expectation this is therefore a lower bound of the marginal KL, blind to dependence between dimensions, and rate
      minus it is an upper bound of the mutual information. In one dimension neighbouring posteriors overlap, so it
      stays close to the sum as long as N times the posterior σ is well above 1.

    The numbers of draws from any two examples differ by at most one. Temporaries do not grow with N or M. Time grows
    as N·M·D: five seconds for 10,000 by 10,000 by 20 on two CPU cores. Standard errors are over draws, given the N
    examples. The arguments are those of `measure_information`, which checks them.

    References:
      Figure 4; the plain one is β-TCVAE's (Chen et al. 2018) with N the whole data set.
    """
    index_key, noise_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(index_key, len(mean)))
    own = np.resize(order, num_draws).astype(np.int32)
    z = _draw(noise_key, mean[own], log_var[own])
    posteriors = (blocks(array, BLOCK_SIZE) for array in (mean, log_var))
    indices = blocks(np.arange(len(mean), dtype=np.int32), BLOCK_SIZE, fill=-1)
    others, others_by_dim = _log_mixture_of_others(
        blocks(z, BLOCK_SIZE), blocks(own, BLOCK_SIZE, fill=-2), *posteriors, indices
    )
    others = np.asarray(others, np.float64).reshape(-1)[:num_draws]
    others_by_dim = np.asarray(others_by_dim, np.float64).reshape(-1, z.shape[1])[:num_draws]

    log_own = _log_normal(z, mean[own], log_var[own]).sum(axis=1)
    log_prior = _log_normal(z, np.zeros_like(z), np.zeros_like(z))
    kl_by_dim = np.logaddexp(others_by_dim, log_prior) - math.log(len(mean)) - log_prior
    log_prior = log_prior.sum(axis=1)
    log_plain = np.logaddexp(others, log_own) - math.log(len(mean))
    # The rate of the N examples is exact: it adds no error over draws.
    rate, kl_of_dims = _kl(mean, log_var).mean(), kl_by_dim.sum(axis=1)
    return MonteCarlo(
        plain=_decomposition(log_own - log_plain, log_plain - log_prior, "upper"),
        dimension_wise=_decomposition(rate - kl_of_dims, kl_of_dims, "lower"),
        kl_per_dimension=kl_by_dim.mean(axis=0),
    )


def moment_matched(mean: np.ndarray, log_var: np.ndarray) -> Decomposition:
    """The marginal KL of the Gaussian G with the mixture's mean and full covariance: a lower bound.

    log G - log p is quadratic, so its expectation under m and under G is the same: KL(m || p) = KL(m || G) +
    KL(G || p) >= KL(G || p), with equality if m is Gaussian. It needs no draws and is exact for the mixture of the N
    examples; for the population the sampled covariance adds at most about D(D + 3) / 4N nats. The bound of the mutual
    information is the rate minus it, an upper one. Standard errors are 0. `measure_information` checks the arguments.
    """
    centre = mean.mean(axis=0, dtype=np.float64)
    centred = mean - centre
    cov = centred.T @ centred / len(mean) + np.diag(np.exp(log_var.astype(np.float64)).mean(axis=0))
    kl = 0.5 * float(np.trace(cov) + centre @ centre - len(cov) - np.linalg.slogdet(cov)[1])
    return Decomposition(float(_kl(mean, log_var).mean()) - kl, 0.0, "upper", kl, 0.0, "lower")


def held_out(mean: np.ndarray, log_var: np.ndarray, *, key: jax.Array) -> Decomposition:
    """A density g fitted to draws from one half of the examples, evaluated on draws from the other.

    E_m[log g - log p] = KL(m || p) - KL(m || g) <= KL(m || p) for every g that has not seen the draws. Here g is a
    mixture of Gaussians with full covariances, fitted by EM. A fifth of the first half chooses the number of
    components, or the prior itself, with a bound of 0, if no mixture is better. There is one draw per example, so the
    standard errors hold for the population. The bound of the mutual information is the second half's rate minus that
    of the marginal KL, an upper one. `measure_information` checks the arguments.

    References:
      Fraley and Raftery 2007 for the prior on the covariances, which keeps them from collapsing.
    """
    split_key, noise_key, fit_key = jax.random.split(key, 3)
    order = np.asarray(jax.random.permutation(split_key, len(mean)))
    z = _draw(noise_key, mean, log_var)[order]
    num_fit, half = (2 * len(z)) // 5, len(z) // 2
    affordable = [count for count in COMPONENTS if count < num_fit]

    # Standardise the draws, to mean 0 and covariance I approximately: one prior then fits every encoder.
    size = z.shape[1]
    centre = z[:num_fit].mean(axis=0, dtype=np.float64)
    centred = z[:num_fit] - centre
    prior_count = size + 2  # keeps the covariance of a few draws regular
    factor = np.linalg.cholesky((centred.T @ centred + prior_count * np.eye(size)) / (num_fit + prior_count))
    y = np.linalg.solve(factor, (z - centre).T).T.astype(np.float32)
    log_ratio_of_y = -np.log(np.diag(factor)).sum() - _log_normal(z, np.zeros_like(z), np.zeros_like(z)).sum(axis=1)

    def log_ratio(mixture, chosen):  # log g - log p
        return log_density(mixture, y[chosen]) + log_ratio_of_y[chosen]

    fit = functools.partial(fit_mixture, fit_key, y[:half])
    scores = {count: log_ratio(fit(num_fit, count), slice(num_fit, half)).mean() for count in affordable}
    best = max(scores, key=lambda count: scores[count])
    prior_wins = scores[best] <= 0  # then g = p
    kl = np.zeros(len(z) - half) if prior_wins else log_ratio(fit(half, best), slice(half, None))
    return _decomposition(_kl(mean, log_var)[order[half:]] - kl, kl, "lower")


def encode_all(trained: Trained, images: np.ndarray, *, batch_size: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Means and log variances of q(z | x) for every image.

    Args:
      trained: its model has a method `encode(x) -> (mean, log_var)`; the likelihood is not read.
      images: [N, ...] uint8 or float data.
      batch_size: images per batch.

    Returns:
      Two float32 arrays [N, D].

    Raises:
      ValueError: if there are no images.
    """
    check_not_empty(images)
    encode, params = _encode_function(trained.model), trained.params["model"]
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    encoded = [jax.device_get(encode(params, batch)) for batch in batches]
    mean, log_var = (np.concatenate(column).astype(np.float32) for column in zip(*encoded, strict=True))
    return mean, log_var


@functools.lru_cache(maxsize=8)
def _encode_function(model: nn.Module):
    return jax.jit(lambda params, x: model.apply({"params": params}, x, method="encode"))


def _checked(mean: np.ndarray, log_var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, log_var = np.asarray(mean, np.float32), np.asarray(log_var, np.float32)
    if mean.ndim != 2 or len(mean) < MIN_EXAMPLES or mean.shape[1] < 1:
        raise ValueError(f"mean has shape {mean.shape}; expected [N, D] with N at least {MIN_EXAMPLES}")
    if log_var.shape != mean.shape:
        raise ValueError(f"log_var has shape {log_var.shape}; expected {mean.shape}, the shape of mean")
    for name, array in (("mean", mean), ("log_var", log_var)):
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has {(~np.isfinite(array)).sum()} values that are not finite; expected none")
    return mean, log_var


def _kl(mean: np.ndarray, log_var: np.ndarray) -> np.ndarray:
    """KL(q(z|x_n) || p), [N], float64."""
    mean, log_var = mean.astype(np.float64), log_var.astype(np.float64)
    return 0.5 * np.sum(np.square(mean) + np.expm1(log_var) - log_var, axis=1)


def _draw(key: jax.Array, mean: np.ndarray, log_var: np.ndarray) -> np.ndarray:
    return mean + np.exp(0.5 * log_var) * np.asarray(jax.random.normal(key, mean.shape, jnp.float32))


def _log_normal(z: np.ndarray, mean: np.ndarray, log_var: np.ndarray) -> np.ndarray:
    """log N(z; mean, exp(log_var)) of each dimension, float64."""
    z, mean, log_var = (array.astype(np.float64) for array in (z, mean, log_var))
    return -0.5 * (np.square(z - mean) * np.exp(-log_var) + log_var + LOG_2PI)


def _decomposition(information: np.ndarray, kl: np.ndarray, bound: Literal["lower", "upper"]) -> Decomposition:
    """Means and standard errors over draws; `bound` says which bound the marginal KL is."""
    other: Literal["lower", "upper"] = "lower" if bound == "upper" else "upper"
    return Decomposition(
        float(information.mean()), mean_stderr(information), other, float(kl.mean()), mean_stderr(kl), bound
    )


@jax.jit
def _log_mixture_of_others(z, own, mean, log_var, indices) -> tuple[jax.Array, jax.Array]:
    """log Σ_{n ≠ i} q(z_i | x_n), over all dimensions together [M] and for each one [M, D], block by block.

    (z - mean)² is not expanded into a matrix product, which would lose all digits in float32 if posteriors are narrow.
    """

    def add_block(carry, block, z, own):
        mean, log_var, index = block
        error = (z[None] - mean[:, None]) * jnp.exp(-0.5 * log_var)[:, None]
        log_q = -0.5 * (jnp.square(error) + log_var[:, None] + LOG_2PI)  # [block of N, block of M, D]
        left_out = (index[:, None] == own[None]) | (index[:, None] < 0)
        together = jnp.where(left_out, HIDDEN, jnp.sum(log_q, axis=2))
        return (
            _add_exponentials(carry[0], together),
            _add_exponentials(carry[1], jnp.where(left_out[..., None], HIDDEN, log_q)),
        ), None

    def one_block_of_draws(args):
        z, own = args
        together, each = ((jnp.full(s, HIDDEN, z.dtype), jnp.zeros(s, z.dtype)) for s in (own.shape, z.shape))
        everything = (mean, log_var, indices)
        sums, _ = lax.scan(lambda carry, block: add_block(carry, block, z, own), (together, each), everything)
        return tuple(largest + jnp.log(total) for largest, total in sums)

    return lax.map(one_block_of_draws, (z, own))


def _add_exponentials(carry: tuple[jax.Array, jax.Array], terms: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A running logsumexp over the first axis, kept as (maximum, Σ exp(term - maximum)).

    Before the first visible term the maximum is HIDDEN. The sum up to then is later multiplied by exp(-1e30) = 0.
    """
    largest, total = carry
    new = jnp.maximum(largest, jnp.max(terms, axis=0))
    return new, total * jnp.exp(largest - new) + jnp.sum(jnp.exp(terms - new[None]), axis=0)


def _measure(_: NoOptions, subject: Subject) -> Record:
    """Figure 4's numbers: rate, mutual information and marginal KL, active units."""
    return measure_information(*encode_all(subject.trained, subject.examples), key=subject.key)._asdict()


def _lines(record: Record) -> Iterator[str]:
    plain, bounds = record["plain"], [record[name] for name in ("dimension_wise", "moment_matched", "held_out")]
    known = [bound for bound in bounds if bound["mutual_information"] is not None]
    least = min(known or bounds[:1], key=lambda bound: bound["mutual_information"])
    rate, lower, upper = (_nats(record["rate"]), *(_nats(bound["mutual_information"]) for bound in (plain, least)))
    marginal = f"{_nats(least['marginal_kl'])} to {_nats(plain['marginal_kl'])}"
    draws = f"N = {record['num_examples']:,}, M = {record['num_draws']:,}, cap ln N = {record['cap']:.1f}"
    yield (
        f"rate {rate} nats; mutual information {lower} to {upper}, marginal KL {marginal} "
        f"(plain Monte Carlo, {draws}, and the tightest bound from the other side); "
        f"{record['num_active']} active units"
    )


def _nats(value: float | None) -> str:
    return with_stderr(value, None, "{:.1f}")


METRIC = Metric(
    "information",
    _measure,
    _lines,
    progress=lambda options: "information",
    applies=lambda options, subject: hasattr(subject.trained.model, "encode") and len(subject.examples) >= MIN_EXAMPLES,
)
