"""`Decode` in Linen and NNX: its parameters, its running average, and which calls update it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import errors, nnx

import calibrax as cx
import calibrax.linen
import calibrax.nnx

X = jax.random.uniform(jax.random.key(0), (4, 5, 6, 3))
OUTPUTS = jax.random.normal(jax.random.key(1), X.shape)
LIKELIHOODS = [cx.optimal_sigma(), cx.optimal_sigma(axis="pixel"), cx.shared_sigma(), cx.bernoulli()]


def functional(likelihood, train):
    params, state = likelihood.init(X.shape[1:])
    nll, stats = likelihood.nll(params, state, OUTPUTS, X, train=train)
    return nll, stats, likelihood.update(state, stats)


def stored(variables):
    return variables.get("calibration", {}).get("state", {})


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_linen_keeps_the_average_in_a_mutable_collection(likelihood):
    module = calibrax.linen.Decode(likelihood)
    variables = module.init(jax.random.key(0), OUTPUTS, X, train=True)
    params, state = likelihood.init(X.shape[1:])
    assert dict(variables.get("params", {})) == params
    assert set(variables) == {name for name, tree in (("params", params), ("calibration", state)) if tree}
    chex.assert_trees_all_equal(stored(variables), state)  # init is no update
    (nll, stats), updated = module.apply(variables, OUTPUTS, X, train=True, mutable=["calibration"])
    expected_nll, expected_stats, expected_state = functional(likelihood, True)
    chex.assert_trees_all_close((nll, stats), (expected_nll, expected_stats))
    chex.assert_trees_all_close(stored(updated), expected_state)
    nll, _ = module.apply(variables | updated, OUTPUTS, X, train=False)
    chex.assert_trees_all_close(nll, likelihood.nll(params, expected_state, OUTPUTS, X, train=False)[0])


def test_linen_training_without_a_mutable_collection_is_an_error_of_flax():
    module = calibrax.linen.Decode(cx.optimal_sigma())
    variables = module.init(jax.random.key(0), OUTPUTS, X, train=True)
    with pytest.raises(errors.ModifyScopeVariableError):
        module.apply(variables, OUTPUTS, X, train=True)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_nnx_gives_the_same_numbers(likelihood):
    module = calibrax.nnx.Decode(likelihood, X.shape[1:])

    @nnx.jit
    def step(module):
        def loss(module):
            nll, stats = module(OUTPUTS, X, train=True)
            return jnp.mean(nll), (nll, stats)

        return nnx.value_and_grad(loss, has_aux=True)(module)

    params, _ = likelihood.init(X.shape[1:])
    (_, (nll, stats)), grads = step(module)
    expected_nll, expected_stats, expected_state = functional(likelihood, True)
    chex.assert_trees_all_close((nll, stats), (expected_nll, expected_stats), rtol=1e-5)
    chex.assert_trees_all_close(
        nnx.to_pure_dict(nnx.state(module, calibrax.nnx.Calibration)).get("state", {}), expected_state, rtol=1e-5
    )
    assert len(jax.tree.leaves(grads)) == len(jax.tree.leaves(params))  # the average has no gradient
    nll, _ = module(OUTPUTS, X, train=False)
    chex.assert_trees_all_close(nll, likelihood.nll(params, expected_state, OUTPUTS, X, train=False)[0], rtol=1e-5)


def test_nnx_optimizer_trains_the_shared_sigma():
    module = calibrax.nnx.Decode(cx.shared_sigma(link="identity"), (3,))
    optimizer = nnx.Optimizer(module, optax.sgd(0.02), wrt=nnx.Param)
    x = 0.1 * jax.random.normal(jax.random.key(0), (500, 3))

    @nnx.jit
    def step(module, optimizer):
        grads = nnx.grad(lambda module: jnp.mean(module(jnp.zeros_like(x), x, train=True)[0]))(module)
        optimizer.update(module, grads)

    for _ in range(200):
        step(module, optimizer)
    learned = jnp.exp(module.params["log_sigma"].get_value())
    np.testing.assert_allclose(learned, jnp.sqrt(jnp.mean(jnp.square(x))), rtol=1e-3)
