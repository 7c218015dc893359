"""Likelihoods and bijectors as values: equal calls of a constructor are equal, and pickle and print as the call."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, ParamSpec, TypeVar

import jax
import numpy as np
from jax.core import Tracer

PyTree = Any
P = ParamSpec("P")
V = TypeVar("V", bound="Value")


class Value:
    """A base of named tuples whose last field, `call`, is the call that made them; None if put together by hand.

    Two of them are equal if their calls are. A copy with other fields, by `_replace`, has no call: it is equal only to
    a copy with the same functions.
    """

    __slots__ = ()
    call: "Call | None"

    def _replace(self: V, **changes: Any) -> V:
        return super()._replace(**{"call": None, **changes})  # type: ignore[misc]

    __replace__ = _replace  # for `copy.replace`

    @property
    def _identity(self) -> Any:
        """What decides equality: the call; or, without a call of hashable arguments, the functions themselves."""
        return tuple(self)[:-1] if self.call is None or not self.call.is_hashable else self.call  # type: ignore

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._identity == other._identity  # type: ignore[union-attr]

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        return super().__repr__() if self.call is None else repr(self.call)

    def __reduce__(self) -> Any:
        return (type(self), tuple(self)) if self.call is None else (self.call.repeat, ())  # type: ignore[arg-type]


class Marginal(NamedTuple):
    """The distribution of each value of x on its own, given the outputs; None for what has no closed form.

    Each function has the shape of x, `[B, ..., C]`, as its result, in the data's units.

    Attributes:
      nll: `(params, state, outputs, x)`: the terms whose sum over the event is the nll; None unless the values are
        independent given the outputs.
      cdf: `(params, state, outputs, x) -> P(value <= x)`.
      quantile: `(params, state, outputs, q)`: the smallest value with P(value <= it) >= q, for a number or array q in
        [0, 1].
      variance: `(params, state, outputs)`.
      mode: `(params, state, outputs)`.
      is_discrete: whether the nll is minus the log of a probability rather than of a density.
      is_normal: whether the values are Gaussian.
    """

    nll: Callable[..., PyTree] | None = None
    cdf: Callable[..., PyTree] | None = None
    quantile: Callable[..., PyTree] | None = None
    variance: Callable[..., PyTree] | None = None
    mode: Callable[..., PyTree] | None = None
    is_discrete: bool = False
    is_normal: bool = False

    def map(self, wrap: Callable[[Callable[..., PyTree]], Callable[..., PyTree]]) -> "Marginal":
        """The same with each function wrapped by `wrap`."""
        return self._make(wrap(field) if callable(field) else field for field in self)


class _Functions(NamedTuple):
    init: Callable[..., tuple[PyTree, PyTree]]
    nll: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]
    update: Callable[[PyTree, dict[str, jax.Array]], PyTree]
    mean: Callable[[PyTree, PyTree, PyTree], PyTree]
    sample: Callable[[jax.Array, PyTree, PyTree, PyTree], PyTree]
    output_channels: Callable[[int], int]
    discretized_nll: Callable[..., jax.Array] | None = None
    batch_ndim: int = 1
    marginal: Marginal = Marginal()
    call: "Call | None" = None


class Likelihood(Value, _Functions):
    """A decoding distribution p(x | outputs) as a named tuple of pure functions.

    B is the batch and `event_shape` the shape of one example, whose last axis is the channels. `outputs` are what the
    decoder network emits: unconstrained reals, `[B, ..., output_channels(C)]`. `x` is `[B, ..., C]`: floats in the
    data's range; uint8, read as x / 255; or bool, read as 0 and 1. For distributions over levels, integers are levels;
    for those over counts they are counts, and so is uint8.

    The event may be a single number, of shape `()`: x is then `[B]`, and outputs are `[B, output_channels(1)]`, or
    `[B]` if one value is emitted. `mean` and `sample` have the shape of x where outputs are `[B]`, else `[B, 1]`.

    A likelihood is a value. Two calls of a constructor with equal arguments return likelihoods that are equal and have
    equal hashes, so that `jit` does not compile anew for the second. It pickles as the constructor and its arguments,
    and its `repr` is the call. A copy with other functions, by `_replace`, is equal only to itself.

    Attributes:
      init: `(event_shape) -> (params, state)`: what gradient descent trains, and what is averaged; nested dicts of
        arrays. Parts that hold nothing may be absent from them.
      nll: `(params, state, outputs, x, train=True, axis_name=None, mask=None) -> (nll, stats)`: nll `[B]`, at least
        float32, nats, summed over the event; stats a flat dict of arrays. `train=True` uses the statistics of this
        batch, `train=False` the running average in `state`. `axis_name` is the mapped axis over which the batch is
        spread. `mask` is True where x is observed; see `masked`, which passes it.
      update: `(state, stats) -> state`: the running average after this batch.
      mean: `(params, state, outputs) -> E[x | outputs]`, `[B, ..., C]` in the data's range; raises `NoMeanError`, a
        ValueError, if the distribution has none.
      sample: `(key, params, state, outputs) -> x`, a draw in the data's units. A density on the real line may draw
        values outside [0, 1]; clip them for display.
      output_channels: `(channels) -> int`: how many values the decoder emits per position.
      discretized_nll: `(params, state, outputs, x, mask=None) -> [B]`: -log P in nats of the 256-level image, by the
        same distribution integrated over bins of width 1/255. None if the distribution assigns them no mass.
      batch_ndim: how many leading axes of x are the batch: 1, or more for `batched`, whose nll has those axes.
      marginal: the distribution of each value on its own, as far as it is known; see `Marginal`.
      call: the constructor and the arguments that made it; None if it was put together by hand.
    """

    __slots__ = ()


class Call:
    """A call of a constructor: the function, and its arguments as they were given."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]):
        self.function, self.args, self.kwargs = function, args, kwargs
        bound = inspect.signature(function).bind(*args, **kwargs)
        bound.apply_defaults()
        self._key = function, _hashable(bound.arguments)
        self.is_hashable = _is_hashable(self._key)

    def repeat(self) -> Any:
        return self.function(*self.args, **self.kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"{self.function.__name__}({', '.join(shown)})"

    def __reduce__(self) -> Any:
        return Call, (self.function, self.args, self.kwargs)


def constructor(function: Callable[P, V]) -> Callable[P, V]:
    """Decorate a function that returns a `Likelihood` or a `Bijector`, so that what it returns is a value (see there).

    NumPy's scalars among the arguments become Python's numbers: they would change the dtype of what they meet.
    """

    @functools.wraps(function)
    def construct(*args: Any, **kwargs: Any) -> V:
        args, kwargs = tuple(map(_plain, args)), {name: _plain(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)._replace(call=Call(construct, args, kwargs))

    return construct


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python number, an array as NumPy's, which can be compared; copies of what may change."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        return value.item()
    if isinstance(value, np.ndarray) or (isinstance(value, jax.Array) and value.ndim and not isinstance(value, Tracer)):
        return np.array(value)
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, list) else value


def _is_hashable(key: Any) -> bool:
    """False, for example, if a weight is an array."""
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(key)):
        return False  # JAX 0.4.33 would hash a traced array, with a warning
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _hashable(value: Any) -> Any:
    """The value with dicts, lists and NumPy's arrays as tuples.

    The order of a dict counts, because it decides about random draws.
    """
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, value.tobytes()
    if isinstance(value, Mapping):
        return tuple((name, _hashable(entry)) for name, entry in value.items())
    return tuple(map(_hashable, value)) if type(value) in (list, tuple) else value
