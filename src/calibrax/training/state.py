"""Everything that training changes, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from calibrax.likelihoods import Likelihood
from calibrax.likelihoods._base import check_likelihood


def target(model: nn.Module, x: Any) -> Any:
    """What a model's outputs for x are to be scored against: `model.target(x)` where it has one, else x itself."""
    return model.target(x) if hasattr(model, "target") else x


def variables_of(params: dict[str, Any]) -> dict[str, Any]:
    """What `model.apply` takes, of `TrainState.eval_params`."""
    return {"params": params["model"], **params.get("model_state", {})}


class TrainState(NamedTuple):
    """Parameters, optimizer state and averages after `step` steps.

    No random key is kept: a step folds its number into the run's one key, so a resumed run draws the same noise.
    """

    step: jax.Array  # [], int32: steps taken
    params: dict[str, Any]  # {"model": ..., "likelihood": ...}, what the optimizer trains
    opt_state: optax.OptState
    likelihood_state: Any  # the running average, updated once a step
    ema: dict[str, Any] | None = None  # moving average of the parameters; None where none is kept
    model_state: dict[str, Any] | None = None  # the model's other collections, as batch_stats; None where it has none

    @property
    def eval_params(self) -> dict[str, Any]:
        """What to evaluate: the parameters, or their moving average where one is kept.

        `{"model": ..., "likelihood": ...}`, and `"model_state"` of a model that has other collections.
        """
        params = self.params if self.ema is None else self.ema
        return params if self.model_state is None else params | {"model_state": self.model_state}


def create_train_state(
    key: jax.Array,
    example: Any,
    *,
    model: nn.Module,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
    ema: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      key: what the parameters are drawn from.
      example: a batch [B, ...] of data, or a pytree of such. Its values count for a model that takes gains and biases
        from its first batch (`HVAE`): give the whole of a real one, over all devices; else its shapes alone.
      model: a Linen module called as `model(x, key, train=True) -> (outputs, kl)`.
      likelihood: scores `outputs` against data, see `target`.
      optimizer: any optax transformation.
      ema: keep a moving average of the parameters, which begins at their initial values.

    Raises:
      ValueError: if there is no example, or `likelihood` is none.
    """
    check_likelihood("likelihood", likelihood)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(example)]
    if not shapes or any(shape[:1] in ((), (0,)) for shape in shapes):
        raise ValueError(f"example has shape {', '.join(map(str, shapes))}; expected a batch of at least one example")
    variables: Any = dict(model.init(key, example, key, train=True))
    model_params = variables.pop("params")
    event = jax.tree.map(lambda leaf: leaf.shape[1:], jax.eval_shape(lambda x: target(model, x), example))
    likelihood_params, likelihood_state = likelihood.init(event)
    params = {"model": model_params, "likelihood": likelihood_params}
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), likelihood_state, average, variables or None
    )
