"""`framewise`: the likelihood of a video is that of its frames."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import DECODERS, data
from decoders import outputs_for as draw_outputs

import calibrax as cx

B, T, FRAME = 3, 4, (5, 6, 2)
X = data((T, *FRAME), batch=B, levels=7)
SOME = ["shared-sigma", "optimal-sigma-per-image", "optimal-sigma-per-pixel", "logistic-mixture over 7 levels"]


@pytest.fixture(params=SOME, name="decoder")
def _decoder(request):
    return DECODERS[request.param].likelihood


def outputs_for(decoder):
    return draw_outputs(decoder, (T, *FRAME), batch=B)


def flat(videos):
    return videos.reshape(B * T, *videos.shape[2:])


@pytest.mark.parametrize("train", [True, False])
def test_the_nll_of_a_video_is_the_sum_over_its_frames(decoder, train):
    video, outputs = cx.framewise(decoder), outputs_for(decoder)
    params, state = video.init((T, *FRAME))
    chex.assert_trees_all_equal((params, state), decoder.init(FRAME))
    nll, stats = video.nll(params, state, outputs, X, train=train)
    frames, expected = decoder.nll(params, state, flat(outputs), flat(X), train=train)
    np.testing.assert_allclose(nll, frames.reshape(B, T).sum(1), rtol=1e-6)
    chex.assert_trees_all_equal(stats, expected)
    chex.assert_trees_all_equal(video.update(state, stats), decoder.update(state, expected))
    if decoder.discretized_nll is None:
        assert video.discretized_nll is None
    else:
        levels = decoder.discretized_nll(params, state, flat(outputs), flat(X)).reshape(B, T).sum(1)
        np.testing.assert_allclose(video.discretized_nll(params, state, outputs, X), levels, rtol=1e-6)


def test_means_and_samples_are_videos_of_any_length(decoder):
    video, outputs = cx.framewise(decoder), outputs_for(decoder)
    params, state = video.init((T, *FRAME))
    mean = video.mean(params, state, outputs)
    assert mean.shape == X.shape
    np.testing.assert_array_equal(flat(mean), decoder.mean(params, state, flat(outputs)))
    np.testing.assert_array_equal(video.mean(params, state, outputs[:, :1]), mean[:, :1])
    assert video.sample(jax.random.key(2), params, state, outputs).shape == X.shape


def test_one_variance_over_time_or_one_per_frame():
    outputs = outputs_for(cx.gaussian())
    one, each = (cx.framewise(cx.optimal_sigma(axis)) for axis in (None, "image"))
    _, together = one.nll({}, one.init((T, *FRAME))[1], outputs, X)
    _, alone = each.nll({}, each.init((T, *FRAME))[1], outputs, X)
    square = np.square(np.asarray(X) / 255 - np.asarray(jax.nn.sigmoid(outputs)))
    np.testing.assert_allclose(together["mse"], square.mean(), rtol=1e-5)
    np.testing.assert_allclose(alone["mse"].reshape(B, T), square.mean((2, 3, 4)), rtol=1e-5)


def test_hidden_frames_and_several_modalities():
    hidden = jnp.ones((B, T, 1, 1, 1), bool).at[:, 2].set(False)
    decoder = cx.masked(cx.framewise(cx.optimal_sigma()))
    outputs, seen = outputs_for(cx.optimal_sigma()), jnp.broadcast_to(hidden, X.shape)
    params, state = decoder.init((T, *FRAME))
    nll, _ = decoder.nll(params, state, outputs, (X, seen))
    kept = jnp.array([0, 1, 3])
    expected, _ = cx.framewise(cx.optimal_sigma()).nll(params, state, outputs[:, kept], X[:, kept])
    np.testing.assert_allclose(nll, expected, rtol=1e-5)
    both = cx.framewise(cx.joint({"image": cx.optimal_sigma(), "state": cx.optimal_sigma(link="identity")}))
    states = jnp.ones((B, T, 7))
    params, state = both.init({"image": (T, *FRAME), "state": (T, 7)})
    nll, stats = both.nll(params, state, {"image": outputs, "state": 0 * states}, {"image": X, "state": states})
    assert nll.shape == (B,)
    np.testing.assert_allclose(stats["state/mse"], 1.0)


@pytest.mark.parametrize("axis_name", [None, "batch"])
def test_a_mapped_axis_is_the_global_batch(axis_name):
    video, outputs = cx.framewise(cx.optimal_sigma()), outputs_for(cx.optimal_sigma())
    state = video.init((T, *FRAME))[1]

    def nll(outputs, x):
        return video.nll({}, state, outputs[None], x[None], axis_name=axis_name)

    losses, stats = jax.vmap(nll, axis_name="batch")(outputs, X)
    whole = video.nll({}, state, outputs, X)[1]["mse"]
    assert np.allclose(stats["mse"], whole, rtol=1e-5) == (axis_name is not None)
    assert losses.shape == (B, 1)


def test_outputs_without_a_time_axis_are_named():
    video = cx.framewise(cx.gaussian())
    with pytest.raises(ValueError, match=r"outputs has shape \(3,\); expected \[B, T, ...\]"):
        video.mean({}, {}, jnp.zeros(3))
