"""More encoders for the bounds of `tests/evaluation/test_information.py`."""

import math

import jax
import numpy as np
import pytest
from test_information import KEY, assert_the_plain_estimate_shows_its_cap, linear_gaussian, matching_encoder

from calibrax.evaluation.metrics import information
from calibrax.evaluation.metrics.information import held_out, measure_information


@pytest.mark.parametrize("width", [0.1, 0.001])
def test_the_plain_estimate_shows_its_cap(width):
    assert_the_plain_estimate_shows_its_cap(width)


@pytest.mark.usefixtures("x64")
def test_x64_mode_changes_nothing():
    """Other code may have switched it on; what is computed in float32 stays float32."""
    mean, log_var, truth = linear_gaussian(600)
    info = measure_information(mean, log_var, key=KEY, num_draws=100)
    np.testing.assert_allclose(info.moment_matched.marginal_kl, truth["kl"], atol=0.3)
    np.testing.assert_allclose(info.held_out.marginal_kl, truth["kl"], atol=0.5)


def test_a_held_out_density_never_promises_more_than_there_is(monkeypatch):
    """Even an overfitted density, of few examples and many components, is evaluated on other draws."""
    monkeypatch.setattr(information, "COMPONENTS", (16, 100))
    variance = np.full(10, 0.5)
    for seed in range(5):
        bound = held_out(*matching_encoder(variance, 60, seed), key=jax.random.key(seed))
        assert -0.2 < bound.marginal_kl < 4 * bound.marginal_kl_stderr + 1e-9  # the prior, where nothing is better
        assert math.isfinite(bound.mutual_information)
