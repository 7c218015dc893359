"""A likelihood as a Flax NNX module: `calibrax.linen.Decode` for NNX."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from flax import nnx

from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import check_likelihood
from calibrax.likelihoods._calibrate import average, sums_of_batch

if not hasattr(nnx, "data"):
    raise ImportError(f"calibrax.nnx needs Flax 0.12; this is {flax.__version__}, with which calibrax.linen works")


class Calibration(nnx.Variable):
    """An array of a likelihood's running average, as `nnx.BatchStat` is one of a batch norm's."""


class Decode(nnx.Module):
    """The last layer of a decoder: from outputs and data to a negative log-likelihood.

    What gradient descent trains is an `nnx.Param`. The running average is held in `Calibration` variables, which a call
    in training updates; `nnx.grad` and `nnx.Optimizer(..., wrt=nnx.Param)` do not see it. `model.eval()` means
    `train=False` and `model.train()` means `train=True`, as for `nnx.BatchNorm`.

    Args:
      likelihood: any `calibrax.Likelihood`.
      event_shape: shape of one example, `(H, W, C)` for images; nested if the likelihood's `init` takes nested shapes.
      train: whether calls are training, unless they say so themselves; None if each call says it.
      axis_name: the mapped axis over which the batch is spread, if any.

    Attributes:
      use_running_average: the opposite of `train`, or None.

    Raises:
      ValueError: at construction, if it is not a likelihood or there is no such shape.

    Example:
      >>> decode = Decode(cx.optimal_sigma(), (28, 28, 3))
      >>> nll, stats = decode(outputs, x, train=True)
    """

    def __init__(self, likelihood: Likelihood, event_shape, *, train: bool | None = None, axis_name: str | None = None):
        check_likelihood("likelihood", likelihood)
        params, state = likelihood.init(event_shape)
        self.likelihood = likelihood
        self.use_running_average = None if train is None else not train
        self.axis_name = axis_name
        self._calibrating = False
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.state = nnx.data(jax.tree.map(Calibration, state))

    def __call__(self, outputs, x, train: bool | None = None):
        """nll `[B]` in nats and stats, for outputs `[B, ..., output_channels(C)]` and x `[B, ..., C]`.

        `train` precedes the attribute; ValueError if neither is given.
        """
        if train is None:
            if self.use_running_average is None:
                raise ValueError("train is None; expected True or False, here or at construction, or model.train()")
            train = not self.use_running_average
        state = _values(self.state)
        nll, stats = self.likelihood.nll(_values(self.params), state, outputs, x, train=train, axis_name=self.axis_name)
        if self._calibrating:
            sums = sums_of_batch(self.likelihood, _values(self.params), outputs, x)
            updated = jax.tree.map(jnp.add, state, sums)
        elif train:
            updated = self.likelihood.update(state, stats)
        if self._calibrating or train:
            jax.tree.map(_set, self.state, updated, is_leaf=_is_variable)
        return nll, stats

    def mean(self, outputs):
        """E[x | outputs], `[B, ..., C]` in the data's range, with the running average."""
        return self.likelihood.mean(_values(self.params), _values(self.state), outputs)

    def sample(self, key, outputs):
        """A draw of x, `[B, ..., C]`, with the running average."""
        return self.likelihood.sample(key, _values(self.params), _values(self.state), outputs)

    def set_view(self, use_running_average: bool | None = None):
        """For `nnx.view(model, use_running_average=True)`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average


def calibrate(model: nnx.Module, batches: Iterable[Any], *, method: Callable[..., Any] | None = None, **kwargs: Any):
    """Recompute the averages of all `Decode` modules of a model in one pass, each example with equal weight.

    The model changes in place. Call `model.eval()` first, so that dropout is off and batch norms use their averages:
    every call of a `Decode` counts, whatever its `train` says. `calibrax.linen.calibrate` is the same for Linen.

    Args:
      model: with `Decode` modules anywhere inside.
      batches: the arguments of the model for each batch: one array or dict, or a tuple of positional arguments.
      method: `(model, *arguments)`, for example the loss; None for a call of the model.
      **kwargs: keyword arguments of the model or method.

    Raises:
      ValueError: if there are no batches, or no `Decode`.

    Example:
      >>> model.eval()
      >>> calibrax.nnx.calibrate(model, train_batches)
    """
    decodes = [module for _, module in nnx.iter_modules(model) if isinstance(module, Decode)]
    if not decodes:
        raise ValueError(f"model is a {type(model).__name__} without a Decode; expected one inside")

    @nnx.jit
    def one_batch(model, args):
        (model if method is None else functools.partial(method, model))(*args, **kwargs)

    def set_states(states):
        for decode, state in zip(decodes, states, strict=True):
            jax.tree.map(_set, decode.state, state, is_leaf=_is_variable)

    before = [_values(decode.state) for decode in decodes]
    zeros = jax.tree.map(jnp.zeros_like, before)

    def sums():
        for batch in batches:
            set_states(zeros)
            one_batch(model, batch if isinstance(batch, tuple) else (batch,))
            yield [_values(decode.state) for decode in decodes]

    found = None
    try:
        for decode in decodes:
            decode._calibrating = True
        found = average(sums(), "batches")
    finally:
        for decode in decodes:
            decode._calibrating = False
        set_states(before if found is None else found)
    if found is None:
        raise ValueError("batches is empty; expected at least one batch")


def _set(variable, value):
    variable.set_value(value)


def _is_variable(node) -> bool:
    return isinstance(node, nnx.Variable)


def _values(variables):
    return jax.tree.map(lambda variable: variable.get_value(), variables, is_leaf=_is_variable)
