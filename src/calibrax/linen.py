"""A likelihood as a Flax Linen module, its running average kept as `BatchNorm` keeps its statistics."""

import jax
from flax import linen as nn

from calibrax.likelihoods import Likelihood


class Decode(nn.Module):
    """The last layer of a decoder: from outputs and data to a negative log-likelihood.

    What gradient descent trains (a shared σ) is in the `params` collection, the running average in the mutable
    collection `calibration`. Apply with `mutable=["calibration"]` when training; `init` does not count as an update.

    Attributes:
      likelihood: any `calibrax.Likelihood`.
      axis_name: the mapped axis over which the batch is spread, if any.

    Example:
      >>> nll, stats = Decode(cx.optimal_sigma())(outputs, x, train=True)  # inside a compact __call__
    """

    likelihood: Likelihood
    axis_name: str | None = None

    @nn.compact
    def __call__(self, outputs, x, *, train: bool):
        """nll `[B]` in nats and stats, for outputs `[B, ..., output_channels(C)]` and x `[B, ..., C]`."""
        params, state = self._variables(x)
        axis_name = None if self.is_initializing() else self.axis_name
        nll, stats = self.likelihood.nll(params, state.value, outputs, x, train=train, axis_name=axis_name)
        if train and not self.is_initializing():
            state.value = self.likelihood.update(state.value, stats)
        return nll, stats

    def _variables(self, x):
        initial_params, initial_state = self.likelihood.init(jax.tree.map(lambda leaf: leaf.shape[1:], x))
        params = {name: self.param(name, lambda _, value=value: value) for name, value in initial_params.items()}
        return params, self.variable("calibration", "state", lambda: initial_state)
