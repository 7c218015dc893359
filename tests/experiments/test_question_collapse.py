"""When a VAE encodes nothing: the linear VAE's numbers, what is drawn, and the sentence for each outcome."""

import math

import numpy as np
import pytest
from drawn import figure_of

from calibrax.data import Data
from calibrax.runs import TrainConfig
from experiments import decoders, question_collapse
from experiments.figures.collapse import Point, linear_vae, save_collapse
from experiments.paper_figure import FigureData
from experiments.report import Mean
from experiments.sweep import Result

VARIANCES = np.array([4.0, 1.0, 0.25])
WHITE = Data("white", *(np.repeat(np.uint8([0, 255]), 20).reshape(40, 1, 1, 1) * np.ones((8, 8, 1), np.uint8),) * 2)


def point(sigma, active, rate=1.0, is_constant=True):
    return Point(f"σ = {sigma}", Mean(sigma, 0.0), Mean(active, 0.5), Mean(rate, None), is_constant)


@pytest.mark.parametrize(
    ("sigma", "active", "rate"),
    [(0.1, 3, 0.5 * math.log(400 * 100 * 25)), (1.0, 1, math.log(2)), (1.99, 1, math.log(2 / 1.99)), (2.0, 0, 0.0)],
)
def test_the_linear_vae_encodes_the_variances_above_that_of_the_decoder(sigma, active, rate):
    assert linear_vae(VARIANCES, sigma) == (active, pytest.approx(rate))


def test_points_and_the_linear_vae_are_drawn_over_the_same_sigma():
    points = [point(0.5, 3, 2.5), point(3.0, 0, 0.0), point(0.2, 2, 4.0, is_constant=False)]
    left, right = figure_of(save_collapse, points, VARIANCES).axes
    sigmas, rates = [0.2, 0.6, 3.0], [math.log(5**3), math.log(2 / 0.36), 0.0]
    for axes, of_points, of_linear in ((left, [3, 0, 2], [3, 2, 0]), (right, [2.5, 0, 4], rates)):
        assert axes.get_xscale() == "log"
        low, high = axes.get_xlim()
        assert low < 0.2
        assert high > 3
        drawn = {tuple(xy) for line in axes.lines if line.get_marker() in "oD" for xy in line.get_xydata()}
        assert drawn == {(sigma, y) for sigma, y in zip((0.5, 3.0, 0.2), of_points, strict=True)}
        (curve,) = (line for line in axes.lines if len(line.get_xydata()) == 1000)
        (limit,) = (line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xydata()) == 2)
        assert limit.get_xdata()[0] == 2.0
        np.testing.assert_allclose(np.interp(sigmas, *curve.get_xydata().T), of_linear, atol=0.02)
    assert right.get_yscale() == "symlog"
    assert right.get_ylim()[0] < 0


@pytest.mark.parametrize(
    ("active", "words"),
    [
        ([3, 1, 0], "has 1.0 ± 0.5 active units at σ = 1 (β = 2) and none from σ = 4 (β = 32) on; the linear VAE's "
         "limit, σ = 2 (β = 8), lies between these two, 4-fold apart."),
        ([3, 0, 0], "none from σ = 1 (β = 2) on: it collapses earlier than the linear VAE, which has none from σ = 2 "),
        ([2, 1, 1], "has active units at every σ of the sweep; the linear VAE has none from σ = 2 (β = 8) on."),
        ([0, 0, 0], "has active units at no σ of the sweep; the linear VAE has none from σ = 2 (β = 8) on."),
    ],
)  # fmt: skip
def test_the_verdict_for_each_outcome(active, words):
    found = [point(sigma, units) for sigma, units in zip((0.5, 1.0, 4.0), active, strict=True)]
    optimal = point(20.0, 5, is_constant=False)
    assert words in question_collapse.verdict([optimal, *found[::-1]], limit=2.0)


def test_a_network_that_encodes_beyond_the_limit_of_the_linear_vae_collapses_later():
    found = [point(sigma, units) for sigma, units in ((0.5, 3), (1.0, 1), (4.0, 0))]
    assert "it collapses later than the linear VAE, which has none from σ = 1 " in question_collapse.verdict(found, 1.0)


def result(case, sigma, seed, active, rate):
    information = {"num_active": active, "rate": rate, "variance_of_mean": [0.0] * 5}
    record = {"information": information, "test": {"running average": {"sigma": sigma}}, "event_shape": [8, 8, 1]}
    return Result(case, TrainConfig.for_model(seed=seed, epochs=3, **case.settings), record)


def test_the_answer_has_the_means_over_seeds_beside_the_linear_vae():
    low, high = (decoders.beta_vae(2 * sigma**2) for sigma in (2.0, 8.0))
    runs = [result(low, 2.0, 0, 2, 0.6), result(high, 8.0, 0, 0, 0.0)]
    more = [result(low, 2.0, 1, 4, 0.8), result(high, 8.0, 1, 0, 0.0)]
    text = question_collapse.answer(FigureData([*runs, *more], WHITE, "title"))
    # All 64 pixels are black or white together: λ = 64/4, so the linear VAE has σ = 4 as its limit.
    rate = math.log(4 / 2.0)
    assert f"| β-VAE, β = 8 | 2.0000 | 8 | 3.0 ± 1.0 | 1 | 0.70 ± 0.10 | {rate:.2f} |" in text
    assert "| β-VAE, β = 128 | 8.0000 | 128 | 0.0 | 0 | 0.00 | 0.00 |" in text
    assert "the linear VAE's limit, σ = 4 (β = 32), lies between" in text
