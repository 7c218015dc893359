"""One training step, a pure function; `parallel` decides where it runs."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from calibrax.likelihoods import Likelihood
from calibrax.training.state import TrainState

Metrics = dict[str, jax.Array]
PyTree = Any


def train_step(
    state: TrainState,
    batch: PyTree,
    key: jax.Array,
    *,
    model: nn.Module,
    likelihood: Likelihood,
    optimizer: optax.GradientTransformation,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One gradient step on the batch mean of -ELBO (eq. 3), and one update of the likelihood's running average.

    Args:
      state: the state so far; not mutated.
      batch: [B, ...] data, this device's part of the batch; a pytree of such where the likelihood takes one (`joint`).
      key: the run's key, the same at every step.
      model: a Linen module called as `model(x, keys) -> (outputs, kl [B])`, with a key for each example.
      likelihood: scores `outputs` against `batch`.
      optimizer: the transformation that made `state.opt_state`.
      axis_name: the mapped axis over which the batch is spread (`pmap`), if any.

    Returns:
      The new state and the batch's scalars: `loss`, `rate` (mean KL), `distortion` (mean nll), nats; `grad_norm`; and
      the mean of each of the likelihood's stats.
    """
    keys = example_keys(key, state.step, jax.tree.leaves(batch)[0].shape[0], axis_name)

    def loss_fn(params):
        forward: Any = model.apply({"params": params["model"]}, batch, keys)
        outputs, kl = forward
        nll, stats = likelihood.nll(
            params["likelihood"], state.likelihood_state, outputs, batch, train=True, axis_name=axis_name
        )
        return jnp.mean(nll + kl), (stats, {"rate": jnp.mean(kl), "distortion": jnp.mean(nll)})

    (loss, (stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    metrics = {"loss": loss, **metrics, **jax.tree.map(jnp.mean, stats)}
    if axis_name is not None:
        grads, metrics = lax.pmean((grads, metrics), axis_name)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    new_state = TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        likelihood_state=likelihood.update(state.likelihood_state, stats),
    )
    return new_state, metrics | {"grad_norm": optax.tree.norm(grads)}


def example_keys(key: jax.Array, step: jax.Array, num_examples: int, axis_name: str | None = None) -> jax.Array:
    """A key for each example of this device's part of the batch, from the step and the place in the global batch.

    The noise of an example so depends on neither the number of devices nor the kind of parallelism: one device and
    many train alike.
    """
    first = 0 if axis_name is None else lax.axis_index(axis_name) * num_examples
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(key, step), first + jnp.arange(num_examples))
