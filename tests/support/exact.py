"""Values and gradients of formulas element by element in float32, and their uncertainty due to float32 inputs."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 2.0**-23


def single(array):
    return jnp.asarray(array, jnp.float32)


def elementwise(nll, *parameters):
    """The value of each element and its gradients, computed in float32 and returned as float64.

    `nll(*parameters) -> [B]` gets every parameter as `[B, 1]`: a batch of events with one value each.
    """
    columns = [single(parameter).reshape(-1, 1) for parameter in np.broadcast_arrays(*parameters)]
    value = jax.jit(nll)(*columns)
    grads = jax.jit(jax.grad(lambda *args: jnp.sum(nll(*args)), argnums=tuple(range(len(columns)))))(*columns)
    return np.float64(value), [np.float64(grad[:, 0]) for grad in grads]


def conditioning(reference, *parameters):
    """How much each result of `reference` changes if float32 inputs change by one unit in the last place."""
    center = reference(*parameters)
    moved = [
        reference(*(np.float64(p) * (1 + sign * EPSILON) for p, sign in zip(parameters, signs, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(parameters))
    ]
    return [np.max([np.abs(m[i] - center[i]) for m in moved], axis=0) for i in range(len(center))]


def assert_close(actual, expected, *, rtol=1e-5, atol=0.0, spread=0.0):
    """Assert that values are within rtol of the expected ones, or within `spread`, the uncertainty of the inputs."""
    bound = rtol * np.abs(expected) + atol + spread
    excess = np.abs(actual - expected) / np.maximum(bound, 1e-300)
    worst = int(np.argmax(excess))
    assert np.all(excess <= 1), (
        f"element {worst}: {np.ravel(actual)[worst]} against {np.ravel(expected)[worst]}, {excess.max():.2g} bounds off"
    )
