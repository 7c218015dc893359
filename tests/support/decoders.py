"""The one table of decoders that all tests read: those of the command line, and variants of their settings.

A decoder that `calibrax.runs.presets.LIKELIHOODS` names is in the table by itself. A row in `FACTS` says what tests
cannot find out; the defaults fit a density on the real line.
"""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import entr

import calibrax as cx
from calibrax.likelihoods._logistic_mixture import MIN_LOG_SCALE
from calibrax.runs.presets import LIKELIHOODS

B, EVENT = 6, (5, 4, 3)


class Decoder(NamedTuple):
    """A likelihood, and facts about its distribution."""

    likelihood: cx.Likelihood
    levels: int | None = None  # how many, of a distribution over levels
    bounded: bool = False  # draws stay in [0, 1]; those over levels do anyway
    counts_integers: bool = False  # integers other than uint8 are 0 and 1
    largest_count: int | None = None  # of the data that tests draw, for a distribution over counts
    period: float | None = None  # of the data, if they are angles
    is_density: bool = True  # the nll is minus the log of the density, or mass, from which `sample` draws
    # Nats per value to which training on a constant image x in [0, 1] tends, or None if nobody knows: x -> the infimum
    # of the nll, unless a comment says otherwise.
    bound: Callable[[np.ndarray], Any] | None = None

    @property
    def draws_in_unit_range(self):
        return self.bounded or self.levels is not None

    @property
    def num_values(self):
        """How many values uint8 data of this decoder have, from 0."""
        return self.levels or 256 if self.largest_count is None else self.largest_count + 1

    def floats(self, x):
        """The floats that mean the same as uint8 data: counts are themselves, others become [0, 1]."""
        top = 1 if self.largest_count is not None else self.num_values - 1
        return jnp.asarray(np.asarray(x).astype(np.float32) / np.float32(top))

    def difference(self, a, b):
        """a - b in float64, around the circle if the data are angles."""
        difference = np.subtract(a, b, dtype=np.float64)
        if self.period is None:
            return difference
        return (difference + self.period / 2) % self.period - self.period / 2


def constant(value):
    return lambda x: value


def bound_of_open_bins(x):
    """No infimum: from σ = 1 the mass of an open bin, which lies on one side of the mean, grows with σ to a half."""
    return np.where(np.isin(x, (0, 1)), math.log(2), 0.0)


def bound_of_logistic_mixture(x):
    """The least scale leaves some of the mass outside of a bin, though not outside of an open one."""
    inner = -math.log(math.tanh(math.exp(-MIN_LOG_SCALE) / 255 / 4))
    return np.where(np.isin(x, (0, 1)), 0.0, inner)


def bound_of_continuous_bernoulli(x):
    @np.vectorize
    def inner(x):
        def nll(logit):
            return logit * (0.5 - x) + math.log(math.sinh(logit / 2) / (logit / 2))

        return minimize_scalar(nll, bounds=(-500, 500), method="bounded", options={"xatol": 1e-6}).fun

    return np.where(np.isin(x, (0, 1)), -math.inf, inner(x))


LEAST_GAUSSIAN = constant(0.5 * math.log(2 * math.pi) - 6)  # at the floor of log σ
FACTS: dict[str, dict[str, Any]] = {
    "gaussian": {"bound": constant(0.5 * math.log(2 * math.pi))},
    "beta-gaussian": {"bound": constant(0.5 * math.log(math.pi))},  # σ² = β/2 = 1/2
    "shared-sigma": {"bound": constant(-math.inf)},
    "optimal-sigma": {"bound": LEAST_GAUSSIAN},
    "optimal-sigma-per-image": {"bound": LEAST_GAUSSIAN},
    "optimal-sigma-per-pixel": {"bound": LEAST_GAUSSIAN},
    "optimal-sigma-per-channel": {"bound": LEAST_GAUSSIAN},
    "pixel-sigma": {"bound": LEAST_GAUSSIAN},
    "student-t": {"bound": LEAST_GAUSSIAN},  # as the degrees of freedom grow
    "laplace": {"bound": constant(-math.inf)},
    "optimal-laplace": {"bound": constant(math.log(2) - 6)},
    "bernoulli": {"bounded": True, "counts_integers": True, "bound": lambda x: entr(x) + entr(1 - x)},
    "continuous-bernoulli": {"bounded": True, "bound": bound_of_continuous_bernoulli},
    "categorical": {"levels": 256, "bound": constant(0.0)},
    "bitwise-categorical": {"levels": 256, "bound": constant(0.0)},
    "logistic-mixture": {"levels": 256, "bound": bound_of_logistic_mixture},
    "discretized-gaussian": {"levels": 256, "bound": bound_of_open_bins},
    "discretized-logistic": {"levels": 256, "bound": bound_of_open_bins},
}
SETTINGS: Any = SimpleNamespace(
    beta=1.0, df=None, components=10, decay=0.9, initial=1.0, beta_nll=0.0, faithful=False
)  # what the command line's table reads


def named(name: str) -> Decoder:
    """A decoder of the command line."""
    return Decoder(LIKELIHOODS[name](SETTINGS), **FACTS.get(name, {}))


NAMED = {name: named(name) for name in LIKELIHOODS}
VARIANTS = {
    "gaussian identity": Decoder(cx.gaussian(0.3, link="identity")),
    "beta-gaussian 0.01": Decoder(cx.beta_gaussian(0.01)),
    "optimal-sigma identity": Decoder(cx.optimal_sigma(link="identity")),
    "rows": Decoder(cx.optimal_sigma(axis=(0, 2, 3))),
    "columns of each image": Decoder(cx.optimal_sigma(axis=(-3, -1))),
    "one axis": Decoder(cx.optimal_sigma(axis=0)),
    "shared-sigma of channels": Decoder(cx.shared_sigma("channel", 0.5, link="identity")),
    "laplace of rows": Decoder(cx.laplace((0, 2, 3), 2.0)),
    "pixel-sigma by beta-nll": Decoder(cx.pixel_sigma(beta_nll=0.5)),
    "pixel-sigma faithful": Decoder(cx.pixel_sigma(faithful=True)),
    "pixel-sigma bounded": Decoder(cx.pixel_sigma(-4.0, 1.0, link="identity")),
    "student-t of given df": Decoder(cx.student_t(5.0, link="identity")),
    "optimal-laplace of pixels": Decoder(cx.optimal_laplace(axis="pixel", link="identity")),
    "categorical of 5 levels": Decoder(cx.categorical(5), levels=5),
    "bitwise-categorical of 2 bits": Decoder(cx.bitwise_categorical(2), levels=4),
    "logistic-mixture over 7 levels": Decoder(cx.logistic_mixture(2, levels=7), levels=7),
    "poisson": Decoder(cx.poisson(), largest_count=9),
    "negative-binomial": Decoder(cx.negative_binomial(), largest_count=9),
    "negative-binomial of channels": Decoder(cx.negative_binomial("channel"), largest_count=30),
    "negative-binomial emitted": Decoder(cx.negative_binomial("emitted"), largest_count=200),
    "binomial": Decoder(cx.binomial(16), largest_count=16),
    "two-hot": Decoder(cx.two_hot(-5.0, 5.0, bins=21), is_density=False),
    "two-hot linear": Decoder(cx.two_hot(-0.5, 1.5, bins=8, spacing="linear"), is_density=False),
    "von-mises": Decoder(cx.von_mises(), period=2 * math.pi),
    "von-mises of channels": Decoder(cx.von_mises("channel"), period=2 * math.pi),
    "von-mises emitted": Decoder(cx.von_mises("emitted"), period=2 * math.pi),
    "optimal-von-mises": Decoder(cx.optimal_von_mises(), period=2 * math.pi),
    "optimal-von-mises of images": Decoder(cx.optimal_von_mises("image"), period=2 * math.pi),
    "tempered": Decoder(cx.tempered(cx.optimal_sigma(), 0.5), is_density=False),
    "framewise of frames": Decoder(cx.framewise(cx.optimal_sigma(axis="image", link="identity"))),
    "symlog of optimal-sigma": Decoder(cx.transformed(cx.optimal_sigma(link="identity"), cx.symlog)),
    "affine of student-t": Decoder(cx.transformed(cx.student_t(5.0, link="identity"), cx.affine(0.4, 2.0))),
    "mixture of pixel-sigma": Decoder(cx.mixture(cx.pixel_sigma(link="identity"), 3)),
    "mixture of shared-sigma": Decoder(cx.mixture(cx.shared_sigma(), 2)),
    "mixture of categorical": Decoder(cx.mixture(cx.categorical(5), 2), levels=5),
    "zero-inflated log-normal": Decoder(cx.zero_inflated(cx.transformed(cx.optimal_sigma(link="identity"), cx.log))),
}
DECODERS = NAMED | VARIANTS


def decoder_of(likelihood):
    """The decoder in the table that has this likelihood."""
    return next(decoder for decoder in DECODERS.values() if decoder.likelihood == likelihood)


def outputs_for(likelihood, event=EVENT, *, batch=B, scale=1.0, dtype=jnp.float32, seed=0):
    """What a decoder network might emit: normal, [batch, ..., output_channels]."""
    shape = (batch, *event[:-1], likelihood.output_channels(event[-1]))
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), dtype)


def data(event=EVENT, *, batch=B, seed=1, levels=256):
    """Levels drawn uniformly, uint8."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, levels, (batch, *event)), jnp.uint8)


def trained(likelihood, outputs, x):
    """params away from their initial value, and the state after one update."""
    params, state = likelihood.init(x.shape[1:])
    params = jax.tree.map(lambda leaf: leaf - 0.7, params)
    _, stats = likelihood.nll(params, state, outputs, x)
    return params, likelihood.update(state, stats)
