import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import LinearVAE

import calibrax as cx
from calibrax import objectives, running_average
from calibrax.evaluation import calibrate_on, evaluate_likelihood
from calibrax.evaluation.report import results_table
from calibrax.training import create_train_state

EVENT = (4, 5, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (37, *EVENT), dtype=np.uint8)


def trained(likelihood):
    model = LinearVAE(EVENT, likelihood.output_channels(3))
    state = create_train_state(
        jax.random.key(0), IMAGES[:1].astype(np.float32), model=model, likelihood=likelihood, optimizer=optax.sgd(1)
    )
    return model, state


@pytest.mark.parametrize("likelihood", [cx.optimal_sigma(), cx.pixel_sigma(), cx.shared_sigma(), cx.bernoulli()])
def test_numbers_do_not_depend_on_the_batches(likelihood):
    model, state = trained(likelihood)
    images = IMAGES.astype(np.float32) / 255
    args = (model, likelihood, state.params, state.likelihood_state, images)
    one, other = (evaluate_likelihood(*args, key=jax.random.key(1), batch_size=size) for size in (37, 8))
    for value, again in zip(one, other, strict=True):
        assert (value is None) == (again is None)
        assert value is None or np.isclose(value, again, rtol=1e-5)
    assert np.isclose(one.neg_elbo, one.rate + one.distortion, rtol=1e-6)
    assert (one.sigma is None) == (one.bits_per_dim is None) == (likelihood is not None and one.effective_beta is None)


def test_sigma_and_beta_are_the_running_average_s_and_bits_are_of_levels():
    likelihood = cx.optimal_sigma()
    model, state = trained(likelihood)
    running = {"mse": running_average.update(running_average.init(), 0.04, decay=0.9)}
    images = IMAGES.astype(np.float32) / 255
    result = evaluate_likelihood(model, likelihood, state.params, running, images, key=jax.random.key(1))
    assert np.isclose(result.sigma, 0.2, rtol=1e-5)
    assert np.isclose(result.effective_beta, 0.08, rtol=1e-5)
    # Where σ is many levels wide, a level's probability is the density times its width.
    nats = result.neg_elbo + np.prod(EVENT) * np.log(255)
    assert np.isclose(result.bits_per_dim, float(objectives.bits_per_dim(nats, EVENT)), atol=0.05)


def test_calibration_is_the_mean_squared_error_over_the_training_images():
    likelihood = cx.optimal_sigma()
    model, state = trained(likelihood)
    images = IMAGES.astype(np.float32) / 255
    exact = calibrate_on(model, likelihood, state.params, images, key=jax.random.key(1), batch_size=8)
    result = evaluate_likelihood(model, likelihood, state.params, exact, images, key=jax.random.key(1))
    assert np.isclose(result.sigma**2, result.mse, rtol=1e-5)
    shifted = {"mse": exact["mse"]._replace(total=1.5 * exact["mse"].total)}
    worse = evaluate_likelihood(model, likelihood, state.params, shifted, images, key=jax.random.key(1))
    assert worse.neg_elbo > result.neg_elbo


def test_table_names_its_columns_and_dashes_what_is_not_there():
    likelihood = cx.bernoulli()
    model, state = trained(likelihood)
    images = jnp.asarray(IMAGES, jnp.float32) / 255
    result = evaluate_likelihood(model, likelihood, state.params, {}, np.asarray(images), key=jax.random.key(0))
    table = results_table("title", {"running average": result})
    assert table.splitlines()[0] == "title"
    assert "running average" in table
    assert table.splitlines()[-1].endswith(" -")


def test_no_images_are_refused():
    likelihood = cx.optimal_sigma()
    model, state = trained(likelihood)
    with pytest.raises(ValueError, match="images is empty"):
        evaluate_likelihood(model, likelihood, state.params, {}, IMAGES[:0], key=jax.random.key(0))
