"""A likelihood as a Flax NNX module: `calibrax.linen.Decode` for NNX."""

import jax
from flax import nnx

from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import check_likelihood


class Calibration(nnx.Variable):
    """The running average of a likelihood, as `nnx.BatchStat` is that of a batch norm."""


class Decode(nnx.Module):
    """The last layer of a decoder: from outputs and data to a negative log-likelihood.

    What gradient descent trains is an `nnx.Param`. The running average is a `Calibration` variable, which a call with
    `train=True` updates; `nnx.grad` and `nnx.Optimizer(..., wrt=nnx.Param)` do not see it.

    Args:
      likelihood: any `calibrax.Likelihood`.
      event_shape: shape of one example, `(H, W, C)` for images; nested if the likelihood's `init` takes nested shapes.
      axis_name: the mapped axis over which the batch is spread, if any.

    Example:
      >>> decode = Decode(cx.optimal_sigma(), (28, 28, 3))
      >>> nll, stats = decode(outputs, x, train=True)
    """

    def __init__(self, likelihood: Likelihood, event_shape, *, axis_name: str | None = None):
        check_likelihood("likelihood", likelihood)
        params, state = likelihood.init(event_shape)
        self.likelihood = likelihood
        self.axis_name = axis_name
        self.params = nnx.data(jax.tree.map(nnx.Param, params))
        self.state = Calibration(state)

    def __call__(self, outputs, x, *, train: bool):
        """nll `[B]` in nats and stats, for outputs `[B, ..., output_channels(C)]` and x `[B, ..., C]`."""
        params = jax.tree.map(nnx.Param.get_value, self.params, is_leaf=lambda node: isinstance(node, nnx.Param))
        state = self.state.get_value()
        nll, stats = self.likelihood.nll(params, state, outputs, x, train=train, axis_name=self.axis_name)
        if train:
            self.state.set_value(self.likelihood.update(state, stats))
        return nll, stats
