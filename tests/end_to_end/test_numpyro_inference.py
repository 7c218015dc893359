"""Inference with NumPyro: SVI, `Predictive`, an automatic guide and NUTS, on distributions made from likelihoods."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import calibrax as cx
from calibrax import interop


@pytest.fixture
def numpyro():
    return pytest.importorskip("numpyro")


@pytest.fixture(autouse=True)
def relaxed():
    """Allow what NumPyro's optimizers and samplers do, but calibrax never does: mixing ranks and dtypes."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def sample_in_plate(numpyro, distribution, x):
    with numpyro.plate("batch", distribution.batch_shape[0]):
        return numpyro.sample("x", distribution, obs=x)


def test_svi_trains_the_optimal_sigma_and_predicts(numpyro):
    """Probabilistic PCA of one factor: x = w z + noise; `calibrate` gives σ, `Predictive` draws with it."""
    likelihood = cx.optimal_sigma(link="identity")
    factor, noise = jax.random.split(jax.random.key(0))
    x = jax.random.normal(factor, (400, 1)) * jnp.array([[1.0, -2.0, 0.5]]) + 0.3 * jax.random.normal(noise, (400, 3))
    init_params, state = likelihood.init(x.shape[1:])
    dist = numpyro.distributions

    def model(x=None, *, state=state, train=False):
        params = numpyro.param("likelihood", init_params)  # empty here, and just as welcome
        weights = numpyro.param("weights", jnp.array([[0.5, -0.5, 0.5]]))
        with numpyro.plate("batch", 400):
            z = numpyro.sample("z", dist.Normal(jnp.zeros((400, 1)), 1.0).to_event(1))
            numpyro.sample("x", interop.to_numpyro(likelihood, params, state, z @ weights, train=train), obs=x)

    def guide(x=None, *, state=state, train=False):
        read = numpyro.param("read", jnp.array([[0.1], [-0.1], [0.1]]))
        scale = numpyro.param("scale", 0.5, constraint=dist.constraints.positive)
        with numpyro.plate("batch", 400):
            numpyro.sample("z", dist.Normal(x @ read, scale).to_event(1))

    svi = numpyro.infer.SVI(model, guide, optax.adam(0.02), numpyro.infer.Trace_ELBO(num_particles=2))
    learned = svi.run(jax.random.key(1), 800, x, train=True, progress_bar=False).params
    latents = numpyro.infer.Predictive(guide, params=learned, num_samples=20)(jax.random.key(2), x)["z"]
    state = cx.calibrate(likelihood, {}, [(z @ learned["weights"], x) for z in latents])
    prior = numpyro.infer.Predictive(model, params=learned, num_samples=50)
    draws = prior(jax.random.key(3), state=state)["x"].reshape(-1, 3)
    np.testing.assert_allclose(jnp.cov(draws.T), jnp.cov(x.T), atol=0.3)
    given = numpyro.infer.Predictive(model, guide=guide, params=learned, num_samples=7, return_sites=["x"])
    assert given(jax.random.key(4), x, state=state)["x"].shape == (7, 400, 3)
    predicted = numpyro.infer.Predictive(model, posterior_samples={"z": latents}, params=learned)
    draws = predicted(jax.random.key(5), state=state)["x"]
    assert draws.shape == (20, 400, 3)
    rmse = jnp.sqrt(jnp.mean(jnp.square(latents @ learned["weights"] - x)))
    np.testing.assert_allclose(jnp.std(draws - latents @ learned["weights"]), rmse, rtol=0.05)


def test_nuts_samples_a_posterior(numpyro):
    """A conjugate Gaussian: z ~ N(0, 1), x | z ~ N(z, 0.5²)."""
    likelihood = cx.gaussian(0.5, link="identity")
    x = jnp.full((8, 1), 1.0)

    def model(x):
        z = numpyro.sample("z", numpyro.distributions.Normal(0.0, 1.0))
        sample_in_plate(numpyro, interop.to_numpyro(likelihood, {}, {}, jnp.broadcast_to(z, x.shape)), x)

    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_warmup=200, num_samples=500, progress_bar=False)
    mcmc.run(jax.random.key(0), x)
    z = mcmc.get_samples()["z"]
    precision = 1 + 8 / 0.25
    np.testing.assert_allclose(z.mean(), 32 / precision, atol=0.05)
    np.testing.assert_allclose(z.std(), precision**-0.5, atol=0.03)


def test_an_automatic_guide_trains_a_decoder(numpyro):
    likelihood = cx.shared_sigma()
    x = jax.random.uniform(jax.random.key(0), (64, 8, 8, 3))
    init_params, state = likelihood.init((8, 8, 3))

    def model(x=None, batch=64):
        params = numpyro.param("likelihood", init_params)
        weights = numpyro.param("decoder", jnp.zeros((16, 8 * 8 * 3)))
        with numpyro.plate("batch", batch):
            z = numpyro.sample("z", numpyro.distributions.Normal(jnp.zeros((batch, 16)), 1.0).to_event(1))
            outputs = (z @ weights).reshape(batch, 8, 8, 3)
            numpyro.sample("x", interop.to_numpyro(likelihood, params, state, outputs), obs=x)

    guide = numpyro.infer.autoguide.AutoNormal(model)
    svi = numpyro.infer.SVI(model, guide, optax.adam(1e-2), numpyro.infer.Trace_ELBO())
    result = svi.run(jax.random.key(1), 30, x, progress_bar=False)
    assert result.losses[-1] < result.losses[0]
    draws = numpyro.infer.Predictive(model, params=result.params, num_samples=10)(jax.random.key(2))["x"]
    assert draws.shape == (10, 64, 8, 8, 3)
