"""Everything that training changes, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from calibrax.likelihoods import Likelihood


class TrainState(NamedTuple):
    """Parameters, optimizer state and the likelihood's running average after `step` steps.

    No random key is kept: a step folds its number into the run's one key, so a resumed run draws the same noise.
    """

    step: jax.Array  # [], int32: steps taken
    params: dict[str, Any]  # {"model": ..., "likelihood": ...}, what the optimizer trains
    opt_state: optax.OptState
    likelihood_state: Any  # the running average, updated once a step


def create_train_state(
    key: jax.Array,
    example: Any,
    *,
    model: nn.Module,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
) -> TrainState:
    """The state before the first step.

    Args:
      key: what the parameters are drawn from.
      example: a batch [B, ...] of data, or a pytree of such; its shapes count, not its values.
      model: a Linen module called as `model(x, key) -> (outputs, kl)`.
      likelihood: scores `outputs` against data.
      optimizer: any optax transformation.
    """
    model_params = model.init(key, example, key)["params"]
    likelihood_params, likelihood_state = likelihood.init(jax.tree.map(lambda leaf: leaf.shape[1:], example))
    params = {"model": model_params, "likelihood": likelihood_params}
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), likelihood_state)
