"""All decoders where the fast tests take a few: float64, half precision, scan, masks of positions, interop."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contract import check_contract
from decoders import DECODERS, EVENT, B, decoder_of, outputs_for, trained
from decoders import data as draw_data
from jax import lax

import calibrax as cx
from calibrax import interop
from calibrax.likelihoods import optimal_sigma_nll


@pytest.fixture(params=DECODERS, name="likelihood")
def _likelihood(request):
    return DECODERS[request.param].likelihood


def data(likelihood):
    return draw_data(levels=decoder_of(likelihood).num_values)


def unit_data(likelihood):
    return decoder_of(likelihood).floats(data(likelihood))


def example(likelihood):
    """params, state, outputs."""
    outputs = outputs_for(likelihood)
    return *trained(likelihood, outputs, data(likelihood)), outputs


@pytest.mark.parametrize("name", DECODERS)
def test_contract(name):
    check_contract(DECODERS[name])


@pytest.mark.parametrize("spread", [1.0, 1e-2])
@pytest.mark.parametrize("axis", [None, "image", "pixel", "channel", (0, 2), (-1, 1), 2])
def test_the_float32_gradient_of_optimal_sigma_equals_the_float64_one(axis, spread, x64):
    rng = np.random.default_rng(0)
    mean = np.float32(rng.uniform(size=(7, 4, 5, 3)))
    x = np.float32(np.clip(mean + spread * (rng.uniform(size=mean.shape) - 0.5), 0, 1))

    def gradient(dtype):
        return jax.grad(lambda mean: jnp.sum(optimal_sigma_nll(jnp.asarray(x, dtype), mean, axis)[0]))(
            jnp.asarray(mean, dtype)
        )

    narrow, wide = gradient(jnp.float32), gradient(jnp.float64)
    assert wide.dtype == jnp.float64
    np.testing.assert_allclose(narrow, wide, rtol=1e-4, atol=1e-4 * np.abs(wide).max())


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_outputs_cost_their_own_rounding_alone(likelihood, dtype, train):
    params, state, outputs = example(likelihood)
    narrow, x = outputs.astype(dtype), data(likelihood)
    result = likelihood.nll(params, state, narrow, x, train=train)
    chex.assert_tree_all_finite(result)
    chex.assert_trees_all_close(
        result,
        likelihood.nll(params, state, narrow.astype(jnp.float32), data(likelihood), train=train),
        rtol=1e-6,
        atol=1e-6,
    )


def test_float64_stays_float64(likelihood, x64):
    outputs = np.asarray(outputs_for(likelihood), np.float64)
    params, state = likelihood.init(EVENT)
    nll, _ = likelihood.nll(params, state, jnp.asarray(outputs), data(likelihood))
    assert nll.dtype == jnp.float64
    narrow, _ = likelihood.nll(params, state, jnp.asarray(outputs, jnp.float32), data(likelihood))
    np.testing.assert_allclose(nll, narrow, rtol=1e-5)
    assert np.any(np.asarray(nll) != np.asarray(narrow, np.float64))


def test_compiled_uint8_and_float_data_mean_the_same(likelihood):
    # Compiled, the conversion may be fused into a sum, which then adds up in another order (JAX 0.10); of a log σ near
    # zero that is more than the last bit.
    floats = unit_data(likelihood)
    args, compiled = example(likelihood), jax.jit(likelihood.nll)
    chex.assert_trees_all_close(compiled(*args, data(likelihood)), compiled(*args, floats), rtol=3e-7, atol=1e-7)


def test_vmap_and_scan_agree_with_the_plain_call(likelihood):
    (params, state, outputs), x = example(likelihood), data(likelihood)
    plain = likelihood.nll(params, state, outputs, x)
    stacked = jax.vmap(likelihood.nll, (None, None, 0, 0))(params, state, outputs[None], x[None])
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], stacked), plain, rtol=1e-5)

    def body(state, batch):
        nll, stats = likelihood.nll(params, state, *batch)
        return likelihood.update(state, stats), (nll, stats)

    scanned_state, scanned = lax.scan(body, state, (outputs[None], x[None]))
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], scanned), plain, rtol=1e-5)
    chex.assert_trees_all_close(scanned_state, likelihood.update(state, plain[1]), rtol=1e-5)


def test_a_mask_of_positions_is_one_of_values(likelihood):
    mask = jnp.asarray(np.random.default_rng(0).random((B, *EVENT[:-1], 1)) > 0.4)
    params, state, outputs = example(likelihood)
    x = jnp.where(mask, unit_data(likelihood), jnp.nan)
    masked = cx.masked(likelihood)
    for train in (True, False):
        by_position = masked.nll(params, state, outputs, (x, mask), train=train)
        chex.assert_tree_all_finite(by_position)
        whole = jnp.broadcast_to(mask, x.shape)
        by_value = masked.nll(params, state, outputs, (x, whole), train=train)
        chex.assert_trees_all_close(by_position, by_value, rtol=1e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("library", ["numpyro", "distrax"])
def test_a_distribution_has_the_numbers_of_the_likelihood(likelihood, library, train):
    pytest.importorskip(library)
    args = example(likelihood)
    distribution = getattr(interop, f"to_{library}")(likelihood, *args, train=train)
    assert (distribution.batch_shape, distribution.event_shape) == ((B,), EVENT)
    np.testing.assert_array_equal(
        distribution.log_prob(data(likelihood)), -likelihood.nll(*args, data(likelihood), train=train)[0]
    )
    mean = distribution.mean() if callable(distribution.mean) else distribution.mean
    np.testing.assert_array_equal(mean, likelihood.mean(*args))


@pytest.mark.parametrize("name", [name for name, decoder in DECODERS.items() if decoder.likelihood.marginal.nll])
def test_terms_of_values_add_up_to_the_nll(name):
    likelihood = DECODERS[name].likelihood
    (params, state, outputs), x = example(likelihood), data(likelihood)
    terms = likelihood.marginal.nll(params, state, outputs, x)
    assert terms.shape == x.shape
    if not name.startswith("tempered"):
        expected = likelihood.nll(params, state, outputs, x, train=False)[0]
        np.testing.assert_allclose(terms.reshape(len(x), -1).sum(1), expected, rtol=1e-5, atol=1e-4)
