"""Everything that training changes, as one pytree."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from calibrax.likelihoods import Likelihood, start_from
from calibrax.likelihoods._base import check_likelihood


def target(model: nn.Module, x: Any) -> Any:
    """The data that a model's outputs are scored against: `model.target(x)` if the model has a target, else x.

    Args:
      model: a model of `calibrax.models`, or one with the same interface.
      x: a batch of data.

    Returns:
      The data, [B, ...], or what the model's outputs are of.
    """
    return model.target(x) if hasattr(model, "target") else x


def variables_of(params: dict[str, Any]) -> dict[str, Any]:
    """The variables for `model.apply`, from `TrainState.eval_params`.

    Args:
      params: of `TrainState.eval_params`.

    Returns:
      The dict {"params": ...} with the model's other collections.
    """
    return {"params": params["model"], **params.get("model_state", {})}


class TrainState(NamedTuple):
    """Parameters, optimizer state and averages after `step` steps.

    The state holds no random key. Each step folds its number into the run's key, so a resumed run draws the same noise.

    Attributes:
      step: [], int32: steps taken.
      params: {"model": ..., "likelihood": ...}: trained by the optimizer.
      opt_state: the state of the optimizer.
      likelihood_state: the running average, updated once per step.
      ema: moving average of the parameters, or None.
      model_state: the model's other collections, such as batch_stats, or None.
    """

    step: jax.Array
    params: dict[str, Any]
    opt_state: optax.OptState
    likelihood_state: Any
    ema: dict[str, Any] | None = None
    model_state: dict[str, Any] | None = None

    @property
    def eval_params(self) -> dict[str, Any]:
        """The parameters to evaluate: their moving average if one is kept, else the parameters themselves.

        `{"model": ..., "likelihood": ...}`, and `"model_state"` if the model has other collections.
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
    start_scales: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
      key: the parameters are drawn from this key.
      example: a batch [B, ...] of data, or a pytree of such. A model that takes gains and biases from its first batch
        (`HVAE`) needs a whole batch of real data; for other models only the shapes count.
      model: a Linen module called as `model(x, key, train=True) -> (outputs, kl)`.
      likelihood: scores `outputs` against the data, see `target`.
      optimizer: any optax transformation.
      ema: True to keep a moving average of the parameters, which begins at their initial values.
      start_scales: True to begin with the learned scales that are best for `example`, which is then a batch of real
        data: see `calibrax.start_from`.

    Returns:
      The state at step 0.

    Raises:
      ValueError: if the batch is empty, or `likelihood` is not a Likelihood.
    """
    check_likelihood("likelihood", likelihood)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(example)]
    if not shapes or any(shape[:1] in ((), (0,)) for shape in shapes):
        raise ValueError(f"example has shape {', '.join(map(str, shapes))}; expected a batch of at least one example")
    variables: Any = dict(model.init(key, example, key, train=True))
    model_params = variables.pop("params")
    event = jax.tree.map(lambda leaf: leaf.shape[1:], jax.eval_shape(lambda x: target(model, x), example))
    likelihood_params, likelihood_state = likelihood.init(event)
    if start_scales:
        all_variables = {"params": model_params, **variables}
        (outputs, _), _ = model.apply(all_variables, example, key, train=True, mutable=list(variables))
        likelihood_params = start_from(likelihood, likelihood_params, outputs, target(model, example))
    params = {"model": model_params, "likelihood": likelihood_params}
    average = jax.tree.map(jnp.copy, params) if ema else None
    return TrainState(
        jnp.zeros((), jnp.int32), params, optimizer.init(params), likelihood_state, average, variables or None
    )
