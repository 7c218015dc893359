"""Find the tensor in which a discarded step went wrong, by repeating the step with all tensors in view."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.likelihoods import Likelihood
from calibrax.training.state import TrainState, target
from calibrax.training.step import example_keys

PyTree = Any


def first_bad_tensor(
    state: TrainState, batch: PyTree, key: jax.Array, *, model: nn.Module, likelihood: Likelihood
) -> str | None:
    """The first tensor of a training step that holds a NaN or an infinity, in the order of computation.

    The order is: data, parameters, running average, the output of each layer as the layers are called, the KL of each
    latent layer, the nll, the stats, the gradient of each parameter.

    Args:
      state: the state before the step; the noise depends on `state.step`.
      batch: [B, ...] the whole batch of the step, on one device; or a pytree of such.
      key: the run's key.
      model, likelihood: as in `train_step`.

    Returns:
      Text such as `the output of stage_3/posterior_head` or `the gradient of model/head/b`; None if all is finite.
    """
    form: Any = {"remat": False, "unroll": True}  # remat and scan hide intermediate values
    model = model.clone(**{name: value for name, value in form.items() if hasattr(model, name)})
    names: list[str] = []

    @jax.jit
    def checks():
        flags: list[jax.Array] = []

        def note(name, tree):
            names.append(name)
            flags.append(_all_finite(tree))

        def watch(call, args, kwargs, context):
            out = call(*args, **kwargs)
            if context.method_name == "__call__":
                note(f"the output of {'/'.join(context.module.path) or 'the model'}", out)
            return out

        def noted_elbo(params):
            keys = example_keys(key, state.step, jax.tree.leaves(batch)[0].shape[0])
            with nn.intercept_methods(watch):
                variables = {"params": params["model"], **(state.model_state or {})}
                forward: Any = model.apply(variables, batch, keys, train=True)
            outputs, kl = forward
            layers = kl.reshape(kl.shape[0], -1)
            for layer in range(layers.shape[1]):
                note(f"the KL of layer {layer + 1}", layers[:, layer])
            x = target(model, batch)
            nll, stats = likelihood.nll(params["likelihood"], state.likelihood_state, outputs, x, train=True)
            note("the nll", nll)
            for name, value in stats.items():
                note(f"the likelihood's {name}", value)
            return jnp.mean(nll + jnp.sum(layers, axis=1)), flags

        note("the data", batch)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
            note(f"the parameter {_path_name(path)}", leaf)
        note("the running average", state.likelihood_state)
        grads, _ = jax.grad(noted_elbo, has_aux=True)(state.params)
        for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
            note(f"the gradient of {_path_name(path)}", leaf)
        return jnp.stack(flags)

    finite = jax.device_get(checks())
    return next((name for name, good in zip(names, finite, strict=True) if not good), None)


def _all_finite(tree: PyTree) -> jax.Array:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves], bool))


def _path_name(path) -> str:
    return "/".join(str(getattr(part, "key", getattr(part, "idx", part))) for part in path)
