"""A VAE in NNX trains by the same step as its twin in Linen, to the same numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import calibrax as cx
from calibrax import objectives
from calibrax.models.interface import split_keys
from calibrax.nnx import Functional
from calibrax.training import Checkpoints, create_train_state, jit_step, pmap_step, sharded_step, variables_of

SIZE, HIDDEN, LATENTS = 12, 8, 2
BATCHES = np.random.default_rng(0).uniform(size=(10, 16, SIZE)).astype(np.float32)
KEY = jax.random.key(2)
LIKELIHOODS = {"optimal": cx.optimal_sigma(), "shared": cx.shared_sigma()}


class LinenVAE(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, keys, train=False):
        h = nn.Dense(HIDDEN, name="encode")(x)
        h = nn.BatchNorm(not train, momentum=0.9, axis_name=self.axis_name, name="norm")(h)
        mean, log_var = jnp.split(nn.Dense(2 * LATENTS, name="latent")(nn.relu(h)), 2, axis=-1)
        return nn.Dense(SIZE, name="decode")(draw(keys, mean, log_var)), objectives.gaussian_kl(mean, log_var)


class NnxVAE(nnx.Module):
    def __init__(self, *, rngs, dropout=0.0):
        self.encode = nnx.Linear(SIZE, HIDDEN, rngs=rngs)
        self.norm = nnx.BatchNorm(HIDDEN, momentum=0.9, rngs=rngs)
        self.dropouts = nnx.List([nnx.Dropout(dropout, rngs=rngs), nnx.Dropout(dropout, rngs=rngs)])
        self.latent = nnx.Linear(HIDDEN, 2 * LATENTS, rngs=rngs)
        self.decode = nnx.Linear(LATENTS, SIZE, rngs=rngs)

    def __call__(self, x, keys):
        h = self.dropouts[0](nnx.relu(self.norm(self.encode(x))))
        mean, log_var = jnp.split(self.latent(h), 2, axis=-1)
        return self.decode(draw(keys, mean, log_var)), objectives.gaussian_kl(mean, log_var)

    def generate(self, z):
        return self.decode(z)

    def two_masks(self, x, keys):
        """What both dropouts make of ones, in place of outputs and KL."""
        return self.dropouts[0](jnp.ones_like(x)), self.dropouts[1](jnp.ones_like(x))


def draw(keys, mean, log_var):
    noise = jax.vmap(lambda key: jax.random.normal(key, (LATENTS,)))(split_keys(keys, mean.shape[0]))
    return mean + jnp.exp(0.5 * log_var) * noise


def train(make_step, model, likelihood, steps=10, state=None):
    """The state after some SGD steps and the metrics of each; SGD, since Adam hides a gradient off by a factor."""
    parts = {"model": model, "likelihood": likelihood, "optimizer": optax.sgd(1e-2)}
    stepper = make_step(**parts)
    first = 0 if state is None else int(state.step)
    state = stepper.put_state(create_train_state(jax.random.key(1), BATCHES[0], **parts) if state is None else state)
    history = []
    for batch in BATCHES[first:steps]:
        state, metrics = stepper.step(state, stepper.put_batch(batch), KEY)
        history.append(metrics)
    return jax.device_get((stepper.get_state(state), history))


@functools.cache
def of_linen(name):
    """The Linen model's initial variables, and what training makes of them."""
    variables = LinenVAE().init(jax.random.key(1), BATCHES[0], jax.random.split(KEY, len(BATCHES[0])), train=True)
    return variables, train(jit_step, LinenVAE(), LIKELIHOODS[name])


def with_values_of(variables, **options):
    """The NNX model with the initial values of the Linen model."""
    module = NnxVAE(rngs=nnx.Rngs(0), **options)
    _, params, averages, _ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    nnx.replace_by_pure_dict(params, variables["params"])
    nnx.replace_by_pure_dict(averages, variables["batch_stats"])
    nnx.update(module, params, averages)
    return module


@pytest.mark.parametrize("make_step", [jit_step, pmap_step, sharded_step])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_nnx_equals_linen_over_ten_sgd_steps(name, make_step):
    variables, (expected, expected_history) = of_linen(name)
    state, history = train(make_step, Functional(with_values_of(variables)), LIKELIHOODS[name])
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(state.likelihood_state, expected.likelihood_state, rtol=1e-5)
    chex.assert_trees_all_close(state.model_state["state"], expected.model_state["batch_stats"], rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(history, expected_history, rtol=1e-5, atol=1e-6)
    assert np.abs(state.model_state["state"]["norm"]["mean"]).max() > 0.01  # the averages have moved


def test_evaluation_uses_the_averages_and_merge_gives_the_trained_module():
    variables, (linen_state, _) = of_linen("optimal")
    model = Functional(with_values_of(variables))
    state, _ = train(jit_step, model, cx.optimal_sigma())
    keys = jax.random.split(KEY, 16)
    expected = LinenVAE().apply(variables_of(linen_state.eval_params), BATCHES[0], keys)
    trained = variables_of(state.eval_params)
    chex.assert_trees_all_close(model.apply(trained, BATCHES[0], keys), expected, rtol=1e-4, atol=1e-5)
    module = model.merge(trained)
    chex.assert_trees_all_close(module(BATCHES[0], keys), expected, rtol=1e-4, atol=1e-5)
    z = jnp.ones((3, LATENTS))
    np.testing.assert_array_equal(model.apply(trained, z, method="generate"), module.generate(z))
    chex.assert_trees_all_equal(model.init(None, None, None)["params"], variables["params"])  # the module is as it was


def test_a_resumed_run_draws_the_same_dropout(tmp_path):
    model = Functional(NnxVAE(rngs=nnx.Rngs(0), dropout=0.5))
    whole, history = train(jit_step, model, cx.optimal_sigma())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    half, _ = train(jit_step, model, cx.optimal_sigma(), steps=5)
    checkpoints.save(half, seed=0, steps_per_epoch=10)
    restored = checkpoints.restore(half)
    checkpoints.close()
    resumed, rest = train(
        jit_step, Functional(NnxVAE(rngs=nnx.Rngs(7), dropout=0.5)), cx.optimal_sigma(), state=restored
    )
    chex.assert_trees_all_equal((resumed, rest), (whole, history[5:]))
    sharded, _ = train(sharded_step, model, cx.optimal_sigma())
    chex.assert_trees_all_close(sharded.params, whole.params, rtol=1e-5, atol=1e-6)
    without, _ = train(jit_step, Functional(NnxVAE(rngs=nnx.Rngs(0))), cx.optimal_sigma())
    assert np.abs(without.params["model"]["decode"]["kernel"] - whole.params["model"]["decode"]["kernel"]).max() > 1e-4


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_each_call_and_each_layer_has_noise_of_its_own(make_key):
    class TwoMasks(NnxVAE):
        __call__ = NnxVAE.two_masks

    model = Functional(TwoMasks(rngs=nnx.Rngs(0), dropout=0.5))
    x, variables = jnp.ones((100, SIZE)), model.init(None, None, None)

    def masks(seed, train=True):
        return model.apply(variables, x, make_key(seed), train=train)

    one, other = masks(0)
    again, next_call = masks(0)[0], masks(1)[0]
    np.testing.assert_array_equal(one, again)
    for different in (other, next_call):
        assert 0.4 < np.mean(np.asarray(one) != np.asarray(different)) < 0.6
    np.testing.assert_array_equal(masks(0, train=False)[0], x)
