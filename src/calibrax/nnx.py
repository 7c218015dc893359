"""A likelihood as a Flax NNX module: `calibrax.linen.Decode` for NNX."""

import flax
import jax
from flax import nnx

from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import check_likelihood

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
        if train:
            updated = self.likelihood.update(state, stats)
            jax.tree.map(lambda variable, value: variable.set_value(value), self.state, updated, is_leaf=_is_variable)
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


def _is_variable(node) -> bool:
    return isinstance(node, nnx.Variable)


def _values(variables):
    return jax.tree.map(lambda variable: variable.get_value(), variables, is_leaf=_is_variable)
