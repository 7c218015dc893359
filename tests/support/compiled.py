"""A likelihood whose functions are compiled whole."""

import jax


def compiled(likelihood):
    """The likelihood under `jit`: in tests of many shapes, operation by operation takes several times as long."""
    return likelihood._replace(
        nll=jax.jit(likelihood.nll, static_argnames="train"),
        mean=jax.jit(likelihood.mean),
        sample=jax.jit(likelihood.sample),
        marginal=likelihood.marginal.map(jax.jit),
    )
