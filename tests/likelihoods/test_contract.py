"""What holds for every likelihood (`contract.py`), and what holds for some: ranks, conversions, one-line errors."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_contract
from decoders import DECODERS, EVENT, B, data, outputs_for, trained
from jax import lax

import calibrax as cx
from calibrax.likelihoods._base import as_unit

# One of each kind; the others: tests/robustness/test_decoder_grids.py.
KINDS = [
    "gaussian", "optimal-sigma", "optimal-sigma-per-channel", "pixel-sigma", "laplace", "bernoulli", "categorical",
    "discretized-gaussian", "framewise of frames", "poisson", "two-hot",
]  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_contract(name):
    check_contract(DECODERS[name])


@pytest.mark.parametrize("event", [(7,), (2, 5, 4, 3)])
def test_events_of_other_ranks(event):
    likelihood, x = cx.optimal_sigma(axis="channel"), data(event)
    outputs = outputs_for(likelihood, event)
    params, state = trained(likelihood, outputs, x)
    nll, stats = likelihood.nll(params, state, outputs, x, train=False)
    error = np.asarray(x) / 255 - np.asarray(jax.nn.sigmoid(outputs))
    variance = np.mean(error**2, tuple(range(error.ndim - 1)))
    np.testing.assert_allclose(stats["mse"], variance, rtol=1e-5)
    expected = 0.5 * (error**2 / variance + np.log(2 * np.pi * variance)).reshape(B, -1).sum(1)
    np.testing.assert_allclose(nll, expected, rtol=1e-5)


def test_a_level_is_divided_by_255_as_numpy_does_it_compiled_or_not():
    levels = np.arange(256, dtype=np.uint8)
    for convert in (as_unit, jax.jit(as_unit, static_argnums=1)):
        unit = convert(levels, jnp.float32)
        np.testing.assert_array_equal(unit, levels.astype(np.float32) / np.float32(255))


def test_the_first_test_time_sigma_is_1():
    likelihood = cx.optimal_sigma(axis="pixel")
    _, stats = likelihood.nll(*likelihood.init(EVENT), outputs_for(likelihood), data(), train=False)
    np.testing.assert_array_equal(stats["log_sigma"], np.zeros(EVENT))


def test_stats_pass_through_scan():
    likelihood, x = cx.optimal_sigma(axis="image"), data()
    outputs, (params, state) = outputs_for(likelihood), likelihood.init(EVENT)

    def body(state, batch):
        nll, stats = likelihood.nll(params, state, *batch)
        return likelihood.update(state, stats), (nll, stats)

    scanned_state, scanned = lax.scan(body, state, (outputs[None], x[None]))
    plain = likelihood.nll(params, state, outputs, x)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], scanned), plain, rtol=1e-5)
    chex.assert_trees_all_close(scanned_state, likelihood.update(state, plain[1]), rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cx.gaussian(0.0),
        lambda: cx.gaussian(-1),
        lambda: cx.gaussian(float("nan")),
        lambda: cx.gaussian("1"),
        lambda: cx.beta_gaussian(0),
        lambda: cx.beta_gaussian(float("inf")),
        lambda: cx.optimal_sigma(axis="images"),
        lambda: cx.optimal_sigma(axis=()),
        lambda: cx.optimal_sigma(axis=(0, 0)),
        lambda: cx.optimal_sigma(axis=1.5),
        lambda: cx.optimal_sigma(decay=1.0),
        lambda: cx.optimal_sigma(decay=-0.1),
        lambda: cx.optimal_sigma(link="tanh"),
        lambda: cx.optimal_sigma(min_log_sigma=float("nan")),
        lambda: cx.pixel_sigma(1.0, 0.0),
        lambda: cx.soft_clip(jnp.zeros(2), 1.0, 1.0),
        lambda: cx.shared_sigma(link=None),
        lambda: cx.student_t(0.0),
        lambda: cx.student_t(float("nan")),
        lambda: cx.student_t(min_log_scale=float("inf")),
        lambda: cx.laplace(link="tanh"),
    ],
)
def test_bad_settings_raise_at_construction(make):
    with pytest.raises(ValueError, match=r"^\w+ is [^\n]+; expected [^\n]+$"):
        make()


def test_an_axis_beyond_the_rank_of_the_data_raises_when_it_meets_the_data():
    likelihood = cx.optimal_sigma(axis=(0, 4))
    with pytest.raises(ValueError, match=r"axis is \(0, 4\); expected axes of a rank-4 batch"):
        likelihood.init(EVENT)


def test_odd_channels_for_two_outputs_per_channel():
    likelihood = cx.pixel_sigma()
    with pytest.raises(ValueError, match="outputs has 3 channels; expected a multiple of 2"):
        likelihood.nll({}, {}, jnp.zeros((2, 4, 3)), jnp.zeros((2, 4, 1)))
