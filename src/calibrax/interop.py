"""A likelihood, given what the decoder emitted, as a log-density or as a NumPyro or Distrax distribution."""

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from calibrax.likelihoods import Likelihood

if TYPE_CHECKING:
    import distrax
    import numpyro.distributions


def log_density(
    likelihood: Likelihood, params: PyTree, state: PyTree, outputs: PyTree, *, train: bool = False
) -> Callable[[PyTree], Float[Array, " B"]]:
    """log p(x | outputs) as a function of x alone: minus the nll.

    Needs no other library, and takes any x that the likelihood's own nll takes: an array, a dict of several modalities,
    a pair of data and mask. In NumPyro, `numpyro.factor("x", log_density(...)(x))` scores such an x.

    Args:
      likelihood: any `calibrax.Likelihood`.
      params: what gradient descent trains, as from `likelihood.init`.
      state: the running average, as from `likelihood.init`, `likelihood.update` or `calibrate`.
      outputs: what the decoder emitted, `[B, ..., output_channels(C)]`.
      train: use the scale of this batch rather than the running average (see `to_numpyro`).

    Returns:
      A function from x, `[B, ..., C]`, to its log-density, `[B]`, in nats.

    Example:
      >>> log_prob = log_density(cx.gaussian(), {}, {}, jnp.zeros((2, 3)))(jnp.ones((2, 3)))
    """
    return lambda x: -likelihood.nll(params, state, outputs, x, train=train)[0]


def to_numpyro(
    likelihood: Likelihood,
    params: PyTree,
    state: PyTree,
    outputs: Float[Array, "B ..."],
    *,
    event_shape: Sequence[int] | None = None,
    train: bool = False,
) -> "numpyro.distributions.Distribution":
    """p(x | outputs) as a NumPyro distribution, for an observed site of a model.

    `batch_shape` is `(B,)` and `event_shape` that of one example; put a plate of size B around the site. For sequences,
    `batched(likelihood)` has the `batch_shape` `(B, T)`; without it, T is an axis of the event, and a log_prob is the
    sum over it. `log_prob` is minus the nll; `sample` and `mean` are those of the likelihood. `variance`, `stddev`,
    `mode`, `cdf` and `icdf` (also named `quantile`) are those of each value on its own, in the shape of x; where the
    likelihood has none, they raise `NotImplementedError`. Gradients reach `outputs` and `params`. The distribution is a
    pytree: it passes through `jit`, `vmap` and NumPyro's `scan`.

    Use it for observed sites and for predictions. Its `support` is the real line for every likelihood, because a
    `Likelihood` does not say which values it draws; as a latent site, a decoder of levels or bits would need a narrower
    one. The nll checks the shapes and dtypes of values, but no value is rejected as out of support.

    Args:
      likelihood: any `calibrax.Likelihood` of one array. Construct it once, outside the model: to `jit`, likelihoods
        from two constructions are different static data.
      params: what gradient descent trains, for example `numpyro.param("likelihood", params)`.
      state: the running average; not trained, and not updated here.
      outputs: what the decoder emitted, `[B, ..., output_channels(C)]`.
      event_shape: of one example, to check the outputs by; None to take it from the outputs.
      train: False scores each example on its own, with the running average in `state`. True gives `optimal_sigma` and
        its kind the scale of the batch that is scored. That is a training objective, in which the log_prob of an
        example depends on the others, and not a density to compare models by or to run MCMC on; afterwards `calibrate`
        gives the state for test time. Samples and mean always use `state`.

    Returns:
      A `numpyro.distributions.Distribution`. It scores values `[..., B, *event_shape]`, float or uint8. The leading
      axes broadcast against `batch_shape`, as everywhere in NumPyro; event axes never broadcast.

    Raises:
      ImportError: if NumPyro is not installed.
      ValueError: if outputs or a sample is not one array, `[B, ..., channels]`, or an event is not of `event_shape`.

    Example:
      >>> with numpyro.plate("batch", x.shape[0]):
      ...     x = numpyro.sample("x", to_numpyro(likelihood, params, state, decoder(z)), obs=x)
    """
    # The class first, so that a missing library is reported before anything else.
    return _numpyro_class()(_decoded(likelihood, params, state, outputs, event_shape, train))


def to_distrax(
    likelihood: Likelihood,
    params: PyTree,
    state: PyTree,
    outputs: Float[Array, "B ..."],
    *,
    event_shape: Sequence[int] | None = None,
    train: bool = False,
) -> "distrax.Distribution":
    """p(x | outputs) as a Distrax distribution: `log_prob`, `sample`, `sample_and_log_prob`, `mean()` and others.

    `variance`, `stddev`, `mode`, `cdf` and `quantile` are those of each value on its own, as for `to_numpyro`.

    Args:
      likelihood, params, state, outputs: as for `to_numpyro`.
      event_shape: as for `to_numpyro`.
      train: as for `to_numpyro`; with True, each `[B, *event_shape]` of a value is a batch with its own scale.

    Returns:
      A `distrax.Distribution` with `batch_shape` `(B,)`, or `(B, T)` for `batched(likelihood)`, a pytree; values are
      as for `to_numpyro`.

    Raises:
      ImportError: if Distrax is not installed.
      ValueError: as for `to_numpyro`.

    Example:
      >>> x, log_prob = to_distrax(likelihood, params, state, outputs).sample_and_log_prob(seed=key)
    """
    return _distrax_class()(_decoded(likelihood, params, state, outputs, event_shape, train))


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "state", "outputs"],
    meta_fields=["likelihood", "event_shape", "train"],
)
@dataclass(frozen=True)
class _Decoded:
    """p(x | outputs) with the shapes of a distribution; the classes for both libraries wrap it.

    `vmap` and `scan` over a function that returns one stack every leaf along new leading axes. Those become batch axes
    in front of B. `outputs` has the rank of x, so its own shape says how many there are.
    """

    likelihood: Likelihood
    params: PyTree
    state: PyTree
    outputs: jax.Array  # [*batch_shape, ..., channels]
    event_shape: tuple[int, ...]
    train: bool

    @property
    def batch_shape(self) -> tuple[int, ...]:
        return self.outputs.shape[: self.outputs.ndim - len(self.event_shape)]

    @property
    def stacked(self) -> tuple[int, ...]:
        """The batch axes that `vmap` and `scan` put in front of those of the likelihood."""
        return self.batch_shape[: -self.likelihood.batch_ndim]

    def log_prob(self, value: jax.typing.ArrayLike) -> jax.Array:
        """`[..., *event_shape]` -> `[...]`, leading axes broadcast against `batch_shape`."""
        _check_one_array("value", value)

        def nll(params, state, outputs, x):
            return self.likelihood.nll(params, state, outputs, x, train=self.train)[0]

        return -self._of_values(nll, jnp.asarray(value))

    def cdf(self, value: jax.typing.ArrayLike) -> jax.Array:
        """`[..., *event_shape]` -> P(X <= value) of each value on its own, in the shape of the value."""
        _check_one_array("value", value)
        return self._of_values(self._marginal("cdf"), jnp.asarray(value))

    def quantile(self, q: jax.typing.ArrayLike) -> jax.Array:
        """The inverse of `cdf`: q broadcasts against `[*batch_shape, *event_shape]`."""
        _check_one_array("q", q)
        shape = np.broadcast_shapes(jnp.shape(q), self.batch_shape + self.event_shape)
        q = jnp.asarray(q)
        q = jnp.broadcast_to(q.reshape((1,) * (len(shape) - q.ndim) + q.shape), shape)
        return self._of_values(self._marginal("quantile"), q)

    def _marginal(self, name: str) -> Callable:
        function = getattr(self.likelihood.marginal, name)
        if function is None:
            raise NotImplementedError(f"{self.likelihood} has no {name}")
        return function

    def _of_values(self, function: Callable, value: jax.Array) -> jax.Array:
        """`function(params, state, outputs, value)` with the leading axes of the value broadcast."""
        split = value.ndim - len(self.event_shape)
        try:
            if split < 0 or value.shape[split:] != self.event_shape:
                raise ValueError  # event axes never broadcast
            lead = np.broadcast_shapes(value.shape[:split], self.batch_shape)
        except ValueError:
            expected = ", ".join(str(n) for n in self.batch_shape + self.event_shape)
            raise ValueError(f"value has shape {value.shape}; expected (..., {expected})") from None
        inner = len(lead) - self.likelihood.batch_ndim  # the axes from here on are those of the likelihood's batch
        stacked = lead[len(lead) - len(self.batch_shape) : inner]

        def broadcast(leaf, shape, replaced):
            return jnp.broadcast_to(leaf, (*shape, *jnp.shape(leaf)[replaced:]))

        params, state = jax.tree.map(lambda leaf: broadcast(leaf, stacked, len(stacked)), (self.params, self.state))
        outputs = broadcast(self.outputs, (*stacked, *lead[inner:]), len(self.batch_shape))
        value = jnp.broadcast_to(value, (*lead, *self.event_shape))
        return _vmapped(function, len(stacked), inner)(params, state, outputs, value)

    def sample(self, key: jax.Array, sample_shape: Sequence[int] = ()) -> jax.Array:
        """`[*sample_shape, *batch_shape, *event_shape]`, with one key per draw of a batch."""
        shape = (*sample_shape, *self.stacked)
        keys = jax.random.split(key, shape) if shape else key

        def sample(params, state, outputs, key):
            return self.likelihood.sample(key, params, state, outputs)

        return _vmapped(sample, len(self.stacked), len(shape))(self.params, self.state, self.outputs, keys)

    def mean(self) -> jax.Array:
        """`[*batch_shape, *event_shape]`."""
        return self._of_outputs(self.likelihood.mean)

    def variance(self) -> jax.Array:
        return self._of_outputs(self._marginal("variance"))

    def stddev(self) -> jax.Array:
        return jnp.sqrt(self.variance())

    def mode(self) -> jax.Array:
        return self._of_outputs(self._marginal("mode"))

    def _of_outputs(self, function: Callable) -> jax.Array:
        for _ in self.stacked:
            function = jax.vmap(function)
        return function(self.params, self.state, self.outputs)


def _decoded(
    likelihood: Likelihood,
    params: PyTree,
    state: PyTree,
    outputs: Any,
    event_shape: Sequence[int] | None,
    train: bool,
) -> _Decoded:
    """The record, with the event shape of a sample, which is traced but not computed."""
    _check_one_array("outputs", outputs)
    outputs, ndim = jnp.asarray(outputs), likelihood.batch_ndim
    if outputs.ndim < ndim:
        raise ValueError(f"outputs has shape {outputs.shape}; expected [B, ..., channels]")
    sample = jax.eval_shape(likelihood.sample, jax.random.key(0), params, state, outputs)
    _check_one_array("a sample", sample)
    last = max(ndim, outputs.ndim - 1)  # all axes but the channels
    if sample.shape[:last] != outputs.shape[:last]:
        raise ValueError(f"outputs has shape {outputs.shape}, a sample {sample.shape}; expected [B, ..., channels]")
    if event_shape is not None and tuple(event_shape) != sample.shape[ndim:]:
        axes = f"{ndim} batch axes and an event of shape {tuple(event_shape)}"
        raise ValueError(f"a sample has shape {sample.shape}; expected {axes}; batched(likelihood) has one axis more")
    return _Decoded(likelihood, params, state, outputs, sample.shape[ndim:], train)


def _check_one_array(name: str, value: Any) -> None:
    if not jax.tree_util.all_leaves([value]):
        kind = type(value).__name__
        raise ValueError(f"{name} is a {kind}; expected one array; calibrax.interop.log_density takes any pytree")


def _vmapped(function: Callable, stacked: int, total: int) -> Callable:
    """`function(params, state, outputs, last)` mapped over `total` leading axes of the last argument.

    All arguments have the innermost `stacked` of these axes.
    """
    for axis in range(total):  # from the innermost out: the stacked axes, then those of the samples
        mapped = 0 if axis < stacked else None
        function = jax.vmap(function, in_axes=(mapped, mapped, mapped, 0))
    return function


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f"to_{name} needs {name} ({error}): pip install '.[{name}]' in the checkout") from error


@functools.cache
def _numpyro_class() -> Callable[[_Decoded], Any]:
    dist = _import("numpyro").distributions

    class NumpyroDecoded(dist.Distribution):
        """A calibrax likelihood as a NumPyro distribution; see `calibrax.interop.to_numpyro`."""

        pytree_data_fields = ("decoded",)
        has_rsample = False  # draws of levels and bits have no gradient

        def __init__(self, decoded: _Decoded):
            self.decoded = decoded
            super().__init__(decoded.batch_shape, decoded.event_shape)

        @property
        def batch_shape(self):
            return self.decoded.batch_shape  # not the one __init__ saw: vmap and scan put axes in front

        @property
        def support(self):
            return dist.constraints.independent(dist.constraints.real, self.event_dim)

        @property
        def mean(self):
            return self.decoded.mean()

        @property
        def variance(self):
            return self.decoded.variance()

        @property
        def stddev(self):
            return self.decoded.stddev()

        @property
        def mode(self):
            return self.decoded.mode()

        def cdf(self, value):
            return self.decoded.cdf(value)

        def icdf(self, q):
            return self.decoded.quantile(q)

        quantile = icdf

        def log_prob(self, value, intermediates=None):
            return self.decoded.log_prob(value)

        def sample(self, key, sample_shape=()):
            return self.decoded.sample(key, sample_shape)

    return NumpyroDecoded


@functools.cache
def _distrax_class() -> Callable[[_Decoded], Any]:
    distrax = _import("distrax")

    class DistraxDecoded(distrax.Distribution):
        """A calibrax likelihood as a Distrax distribution; see `calibrax.interop.to_distrax`."""

        def __init__(self, decoded: _Decoded):
            self._decoded = decoded

        @property
        def batch_shape(self):
            return self._decoded.batch_shape

        @property
        def event_shape(self):
            return self._decoded.event_shape

        def mean(self):
            return self._decoded.mean()

        def variance(self):
            return self._decoded.variance()

        def stddev(self):
            return self._decoded.stddev()

        def mode(self):
            return self._decoded.mode()

        def cdf(self, value):
            return self._decoded.cdf(value)

        def quantile(self, q):
            return self._decoded.quantile(q)

        def log_prob(self, value):
            return self._decoded.log_prob(value)

        def _sample_n(self, key, n):
            return self._decoded.sample(key, (n,))

    return DistraxDecoded
