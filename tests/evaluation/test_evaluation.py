import jax
import numpy as np
import pytest
from toy import LinearVAE

import calibrax as cx
from calibrax import objectives, running_average
from calibrax.evaluation import Trained, calibrate_on, evaluate_likelihood
from calibrax.evaluation.report import results_table

EVENT = (4, 5, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (37, *EVENT), dtype=np.uint8)


UNIT = IMAGES.astype(np.float32) / 255


def trained(likelihood):
    model = LinearVAE(EVENT, likelihood.output_channels(3))
    params = jax.jit(model.init)(jax.random.key(0), UNIT[:1], jax.random.key(0))["params"]
    likelihood_params, state = likelihood.init(EVENT)
    return Trained(model, likelihood, {"model": params, "likelihood": likelihood_params}, state)


@pytest.mark.parametrize("likelihood", [cx.optimal_sigma(), cx.bernoulli()])
def test_numbers_do_not_depend_on_the_batches(likelihood):
    one, other = (
        evaluate_likelihood(trained(likelihood), UNIT, key=jax.random.key(1), batch_size=size) for size in (37, 8)
    )
    for value, again in zip(one, other, strict=True):
        assert (value is None) == (again is None)
        assert value is None or np.isclose(value, again, rtol=1e-5)
    assert np.isclose(one.neg_elbo, one.rate + one.distortion, rtol=1e-6)
    assert (one.sigma is None) == (one.bits_per_dim is None) == (one.effective_beta is None)


def test_sigma_and_beta_come_from_the_running_average_and_bits_from_levels():
    running = {"mse": running_average.update(running_average.init(), 0.04, decay=0.9)}
    model = trained(cx.optimal_sigma())._replace(likelihood_state=running)
    result = evaluate_likelihood(model, UNIT, key=jax.random.key(1))
    assert np.isclose(result.sigma, 0.2, rtol=1e-5)
    assert np.isclose(result.effective_beta, 0.08, rtol=1e-5)
    # Where σ is many levels wide, a level's probability is the density times its width.
    nats = result.neg_elbo + np.prod(EVENT) * np.log(255)
    assert np.isclose(result.bits_per_dim, float(objectives.bits_per_dim(nats, EVENT)), atol=0.05)


def test_calibration_is_the_mean_squared_error_over_the_training_images():
    model = trained(cx.optimal_sigma())
    exact = calibrate_on(model, UNIT, key=jax.random.key(1), batch_size=8)
    result = evaluate_likelihood(model._replace(likelihood_state=exact), UNIT, key=jax.random.key(1))
    assert np.isclose(result.sigma**2, result.mse, rtol=1e-5)
    shifted = {"mse": exact["mse"] | {"total": 1.5 * exact["mse"]["total"]}}
    worse = evaluate_likelihood(model._replace(likelihood_state=shifted), UNIT, key=jax.random.key(1))
    assert worse.neg_elbo > result.neg_elbo


def test_the_table_names_its_columns_and_shows_a_dash_for_missing_numbers():
    result = evaluate_likelihood(trained(cx.bernoulli()), UNIT, key=jax.random.key(0))
    table = results_table("title", {"running average": result})
    assert table.splitlines()[0] == "title"
    assert "running average" in table
    assert table.splitlines()[-1].endswith(" -")


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="examples is empty"):
        evaluate_likelihood(trained(cx.optimal_sigma()), IMAGES[:0], key=jax.random.key(0))
