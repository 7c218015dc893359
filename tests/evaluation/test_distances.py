"""Distances against their textbook formulas."""

import numpy as np
import pytest
import scipy.linalg

from calibrax.evaluation.metrics import distances
from calibrax.evaluation.metrics.distances import Moments


def correlated(rng, num, dim, shift=0.0):
    return rng.normal(size=(num, dim)) @ rng.normal(size=(dim, dim)) + shift


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_distance_is_the_textbook_formula(rng):
    a, b = distances.moments(correlated(rng, 300, 24)), distances.moments(correlated(rng, 500, 24, 0.5))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance)
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * np.real(root))
    result = distances.frechet_distance(a, b)
    assert result.value == pytest.approx(expected, rel=1e-6)
    assert distances.frechet_distance(b, a).value == pytest.approx(expected, rel=1e-6)
    assert result[1:] == ("FID-24", 300, 500, None)


def test_distance_of_diagonal_gaussians(rng):
    means, deviations = rng.normal(size=(2, 16)), rng.uniform(0, 3, (2, 16))
    a, b = (Moments(m, np.diag(s**2), 100, 16) for m, s in zip(means, deviations, strict=True))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((deviations[0] - deviations[1]) ** 2)
    assert distances.frechet_distance(a, b).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num", [10, 500])
def test_distance_to_itself_is_zero_even_where_singular(rng, num):
    same = distances.moments(correlated(rng, num, 64))
    assert 0 <= distances.frechet_distance(same, same).value < 1e-11 * np.trace(same.covariance)


def test_singular_covariances_are_noted(rng):
    small, large = (distances.moments(correlated(rng, num, 32)) for num in (32, 33))
    note = distances.frechet_distance(large, small).note
    assert note is not None
    assert note.startswith("32 images for 32 features: the covariance is singular")
    assert "prefer KID-32" in note
    assert distances.frechet_distance(large, large).note is None


def test_other_features_are_refused(rng):
    with pytest.raises(ValueError, match="features are 3 and 4; expected the same"):
        distances.frechet_distance(
            distances.moments(rng.normal(size=(9, 3))), distances.moments(rng.normal(size=(9, 4)))
        )
    with pytest.raises(ValueError, match="features are 3 and 4; expected the same"):
        distances.kid(rng.normal(size=(9, 3)), rng.normal(size=(9, 4)))


def test_names():
    assert distances.metric_name(2048) == "FID"
    assert distances.metric_name(768) == "FID-768"
    assert distances.metric_name(2048, "KID") == "KID"
    assert distances.metric_name(64, "KID") == "KID-64"


def test_moments_are_the_mean_and_the_covariance(rng):
    features = (correlated(rng, 103, 12) + 1e4).astype(np.float32)
    wide = features.astype(np.float64)
    result = distances.moments(features)
    assert (result.num, result.feature) == (103, 12)
    np.testing.assert_allclose(result.mean, wide.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(result.covariance, np.cov(wide.T), rtol=1e-8, atol=1e-8)
    np.testing.assert_array_equal(result.covariance, result.covariance.T)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 4)), "features have 1 rows"),
        (np.zeros((0, 4)), "features have 0 rows"),
        (np.zeros(4), r"features has shape \(4,\)"),
        (np.full((3, 4), np.nan), "not finite"),
    ],
)
def test_moments_of_nothing_are_refused(features, message):
    with pytest.raises(ValueError, match=message):
        distances.moments(features)


def test_squared_mmd_is_the_double_sum(rng):
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(9, 5)) + 0.3

    def kernel(p, q):
        return (sum(p * q) / 5 + 1) ** 3

    def within(p):
        return np.mean([kernel(p[i], p[j]) for i in range(len(p)) for j in range(len(p)) if i != j])

    across = np.mean([kernel(p, q) for p in x for q in y])
    assert distances.squared_mmd(x, y) == pytest.approx(within(x) + within(y) - 2 * across, rel=1e-12)


def test_kid_is_unbiased(rng):
    draws = [distances.kid(*rng.normal(size=(2, 24, 6)), subsets=5, subset_size=8, seed=n).mean for n in range(300)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws))
    assert min(draws) < 0 < max(draws)


def test_kid_stderr_is_the_scatter_over_data_sets(rng):
    results = [
        distances.kid(rng.normal(size=(60, 6)), rng.normal(size=(80, 6)) + 0.7, subsets=40, subset_size=20, seed=n)
        for n in range(80)
    ]
    scatter, stderr = np.std([r.mean for r in results], ddof=1), np.mean([r.stderr for r in results])
    assert 0.75 < stderr / scatter < 1.6  # on the side of caution: one factor stands for both sets


def test_kid_reports_its_subsets(rng):
    a, b = rng.normal(size=(50, 6)), rng.normal(size=(41, 6))
    result = distances.kid(a, b, subsets=10)
    assert result[2:7] == ("KID-6", 50, 41, 10, 20)
    assert result.note == "subsets of 20 in place of 1000 images: the smaller set has 41"
    assert distances.kid(a, b, subsets=10) == result
    assert distances.kid(a, b, subsets=10, seed=1).mean != result.mean
    assert distances.kid(a, b, subsets=10, subset_size=40).note is None
    with pytest.raises(ValueError, match="images, subsets and subset_size are 3, 100 and 1000"):
        distances.kid(a[:3], b)
