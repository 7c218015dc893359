"""The loop over the steps of a video, whose program does not grow with the number of steps, and its noise."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.interface import split_keys


def over_steps(model: Any, body: Callable, carry: Any, inputs: Any) -> tuple[Any, Any]:
    """A `lax.scan` of `body(model, carry, inputs of a step) -> (carry, outputs of the step)`.

    Parameters are the same at every step. If `batch_stats` is mutable, each step continues with the averages of the
    previous one. The model is a bound Linen module, whose `remat` and `unroll` decide the form of the loop; the body
    reads the variables of its first argument only. Returns the last carry, and the outputs with the steps first.
    """
    if model.is_initializing():  # a scan carries running averages along but cannot create them
        body(model, carry, jax.tree.map(lambda leaf: leaf[0], inputs))
    if model.remat:
        body = nn.remat(body, prevent_cse=model.unroll)
    if model.unroll:
        leaves, treedef = jax.tree.flatten(inputs)
        outputs = []
        for step in zip(*leaves, strict=True):
            carry, output = body(model, carry, treedef.unflatten(step))
            outputs.append(output)
        return carry, jax.tree.map(lambda *steps: jnp.stack(steps), *outputs)
    variables: Any = {"variable_broadcast": ["params", "batch_stats"]}
    if model.is_mutable_collection("batch_stats"):
        variables = {"variable_broadcast": "params", "variable_carry": "batch_stats"}
    return nn.scan(body, split_rngs={"params": False}, **variables)(model, carry, inputs)


def step_noise(key: jax.Array, batch_size: int, steps: int, size: int) -> jax.Array:
    """Standard normal noise [steps, B, size], float32, of the example's key and the step's number, from 1, alone.

    The key is one for the batch, or B keys, one per example.
    """

    def draw(step, key):
        return jax.random.normal(jax.random.fold_in(key, step), (size,), jnp.float32)

    over_batch = jax.vmap(draw, (None, 0))
    return jax.vmap(over_batch, (0, None))(1 + jnp.arange(steps), split_keys(key, batch_size))
