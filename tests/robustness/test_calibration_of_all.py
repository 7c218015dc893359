"""Each likelihood is calibrated on its own samples; `tests/evaluation/test_calibration.py` tests three of them."""

import pytest
from test_calibration import assert_calibrated_on_its_own_samples

import calibrax as cx

LIKELIHOODS = {
    "optimal-sigma per image": cx.optimal_sigma(axis="image"),
    "student-t": cx.student_t(5.0, link="identity"),
    "laplace": cx.laplace(),
    "bernoulli": cx.bernoulli(),
    "continuous-bernoulli": cx.continuous_bernoulli(),
    "bitwise-categorical": cx.bitwise_categorical(3),
    "logistic-mixture": cx.logistic_mixture(3),
    "discretized-gaussian": cx.discretized_gaussian(),
    "discretized-logistic": cx.discretized_logistic(),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_own_samples_are_calibrated(name):
    assert_calibrated_on_its_own_samples(LIKELIHOODS[name])
