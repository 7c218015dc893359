"""Predicted videos: their draws, their scores, and memory that does not grow with the number of samples."""

import functools
import gc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibrax as cx
from calibrax.data import moving_digits
from calibrax.evaluation import Trained
from calibrax.evaluation.metrics import prediction
from calibrax.evaluation.metrics.frame_scores import best_of, psnr, ssim
from calibrax.evaluation.metrics.prediction import (
    copied,
    futures,
    measure_predictions,
    predict,
    predicted_frames,
    reconstruct_videos,
)
from calibrax.models import SVG
from calibrax.training import variables_of

CLIPS, FRAMES, PAST = 3, 4, 2
VIDEOS = moving_digits(num=CLIPS, num_frames=FRAMES)
KEYS = jax.random.split(jax.random.key(1), CLIPS)


@functools.cache
def initial(model):
    return jax.jit(model.init)(jax.random.key(0), VIDEOS[:1, :2], jax.random.key(0))


def make(likelihood=None, **options) -> Trained:
    likelihood = cx.framewise(cx.optimal_sigma()) if likelihood is None else likelihood
    sizes: Any = {"features": 2, "g_dim": 8, "z_dim": 2, "rnn_size": 8, "predictor_layers": 1}
    model: Any = SVG((64, 64, 1), likelihood.output_channels(1), backbone="dcgan", **sizes)
    variables = initial(model)
    params, state = likelihood.init(VIDEOS.shape[1:])
    # Larger weights than at the start: latents must show in the frames.
    weights = jax.tree.map(lambda leaf: 6 * leaf if leaf.ndim > 1 else leaf, variables["params"])
    model_state = {name: value for name, value in variables.items() if name != "params"}
    trained = {"model": weights, "likelihood": params, "model_state": model_state}
    return Trained(model.clone(**options), likelihood, trained, state)


@pytest.fixture(scope="module", name="trained")
def _trained():
    return make()


def measured(trained, videos=VIDEOS, **options):
    return measure_predictions(trained, videos, **{"past": PAST, "num_samples": 3, "key": jax.random.key(2), **options})


def test_a_future_depends_on_its_key_alone(trained):
    first = predict(trained, VIDEOS[:, :PAST], KEYS, 2)
    assert first.shape == (CLIPS, 2, 64, 64, 1)
    assert 0 <= first.min() < first.max() <= 1
    np.testing.assert_array_equal(predict(trained, VIDEOS[:, :PAST], KEYS, 2), first)
    other = predict(trained, VIDEOS[:, :PAST], KEYS[::-1], 2)
    assert not np.allclose(other[0], first[0])
    # Without noise in the prior two keys differ by the posterior's draws of the given frames alone.
    still = [predict(trained, VIDEOS[:, :1], keys, 2, temperature=0.0) for keys in (KEYS, KEYS[::-1])]
    np.testing.assert_array_equal(still[0], still[1])


def test_a_longer_prediction_begins_like_a_shorter_one(trained):
    longer = predict(trained, VIDEOS[:, :PAST], KEYS, 3)
    np.testing.assert_allclose(predict(trained, VIDEOS[:, :PAST], KEYS, 2), longer[:, :2], atol=1e-6)


def test_frame_by_frame_equals_the_model_s_own_loop(trained):
    def to_image(outputs):
        return jax.nn.sigmoid(outputs)

    outputs = jax.jit(
        lambda x: trained.model.apply(variables_of(trained.params), x, KEYS, 2, to_image, 0.7, method="predict")
    )(VIDEOS[:, :PAST])
    frames = predict(trained, VIDEOS[:, :PAST], KEYS, 2, temperature=0.7)
    np.testing.assert_allclose(frames, jax.nn.sigmoid(outputs), atol=2e-5)


def test_samples_begin_with_what_is_given(trained):
    samples = list(futures(trained, VIDEOS, PAST, 2, KEYS))
    for sample in samples:
        assert sample.shape == VIDEOS.shape
        np.testing.assert_array_equal(sample[:, :PAST], VIDEOS[:, :PAST].astype(np.float32) / 255)
    assert not np.allclose(samples[0], samples[1])


def test_copying_repeats_the_last_given_frame():
    unit = VIDEOS.astype(np.float32) / 255
    expected = np.concatenate([unit[:, :PAST], np.repeat(unit[:, PAST - 1 : PAST], FRAMES - PAST, 1)], 1)
    np.testing.assert_array_equal(copied(VIDEOS, PAST), expected)


def test_reconstructions_see_the_true_frames(trained):
    again = reconstruct_videos(trained, VIDEOS, KEYS)
    assert again.shape == VIDEOS.shape
    np.testing.assert_array_equal(again[:, 0], VIDEOS[:, 0].astype(np.float32) / 255)


def test_scores_are_those_of_the_frames(trained):
    found = measured(trained)
    assert found.num_samples == 3
    for scores in (found.best, found.random, found.copied):
        assert scores.psnr.shape == scores.ssim.shape == (FRAMES - PAST,)
        assert (scores.num_clips, scores.first) == (CLIPS, PAST)
    names = ["truth", "best of 3", "random", "reconstruction"]
    assert [name for name, _ in found.film] == names
    truth, shown_best, shown_random, _ = (frames for _, frames in found.film)
    np.testing.assert_array_equal(truth, VIDEOS[0])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(2), jnp.arange(CLIPS))
    samples = list(futures(trained, VIDEOS, PAST, 3, keys))
    random, best = np.asarray(samples[0]), np.asarray(best_of(VIDEOS, samples, past=PAST).videos)
    np.testing.assert_array_equal(shown_random, random[0])
    np.testing.assert_array_equal(shown_best, best[0])
    unit = VIDEOS.astype(np.float32) / 255
    copy = np.repeat(unit[:, PAST - 1 : PAST], FRAMES, 1)
    for scores, frames in ((found.best, best), (found.random, random), (found.copied, copy)):
        for score, measure in ((scores.psnr, psnr), (scores.ssim, ssim)):
            np.testing.assert_allclose(score, measure(unit[:, PAST:], frames[:, PAST:]).mean(0), rtol=1e-4)
    mse = np.square(np.float64(unit[:, PAST:]) - copy[:, PAST:]).mean((2, 3, 4))
    np.testing.assert_allclose(found.copied.psnr, (-10 * np.log10(mse)).mean(0), rtol=1e-4)
    of_clip = [ssim(unit[:, PAST:], frames[:, PAST:]).mean(1) for frames in (best, random)]
    assert np.all(of_clip[0] >= of_clip[1])
    assert np.any(of_clip[0] > of_clip[1])


def test_the_same_key_measures_the_same(trained):
    one, two, other = (measured(trained, key=jax.random.key(seed)) for seed in (2, 2, 3))
    np.testing.assert_array_equal(one.best.psnr, two.best.psnr)
    np.testing.assert_array_equal(one.random.ssim, two.random.ssim)
    assert not np.array_equal(one.random.ssim, other.random.ssim)
    np.testing.assert_array_equal(one.copied.ssim, other.copied.ssim)


def test_scores_are_of_all_batches(trained):
    videos = np.concatenate([VIDEOS, VIDEOS])
    found = measured(trained, videos, batch_size=CLIPS, num_samples=2)
    assert found.random.num_clips == 2 * CLIPS
    np.testing.assert_array_equal(dict(found.film)["truth"], VIDEOS[0])
    np.testing.assert_allclose(found.copied.ssim, measured(trained, num_samples=1).copied.ssim, rtol=1e-6)


def test_memory_does_not_grow_with_the_number_of_samples(trained, monkeypatch):
    held = []

    def noted(*args):
        for index, sample in enumerate(futures(*args)):
            if index > 1:  # from the third sample on, as many are held as ever
                gc.collect()
                held.append(sum(array.nbytes for array in jax.live_arrays()))
            yield sample

    monkeypatch.setattr(prediction, "futures", noted)

    def most_bytes(num_samples):
        held.clear()
        measured(trained, num_samples=num_samples)
        return max(held)

    most_bytes(3)  # what is compiled keeps constants
    assert most_bytes(7) <= most_bytes(3) + VIDEOS.size


@pytest.mark.parametrize("decoder", [cx.categorical(4), cx.bernoulli()])
def test_any_decoder_predicts(decoder):
    found = measured(make(cx.framewise(decoder)), num_samples=1)
    assert np.isfinite(found.random.psnr).all()
    np.testing.assert_allclose(found.best.psnr, found.random.psnr, rtol=1e-6)


def test_with_running_averages_a_batch_of_one_clip_works():
    trained = make(running_average_at_test=True)
    together = predict(trained, VIDEOS[:, :PAST], KEYS, FRAMES - PAST)
    alone = predict(trained, VIDEOS[1:2, :PAST], KEYS[1:2], FRAMES - PAST)
    np.testing.assert_allclose(alone[0], together[1], atol=1e-5)
    assert np.isfinite(measured(trained, VIDEOS[:1], num_samples=1).best.psnr).all()


def test_frames_for_fid_are_bytes_of_what_was_predicted(trained):
    true, predicted = predicted_frames(trained, VIDEOS, past=PAST, key=jax.random.key(2), batch_size=CLIPS)
    assert true.dtype == predicted.dtype == np.uint8
    assert predicted.shape == true.shape == (CLIPS * (FRAMES - PAST), 64, 64, 1)
    np.testing.assert_array_equal(true[FRAMES - PAST], VIDEOS[1, PAST])
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(2), jnp.arange(CLIPS))
    (sample,) = futures(trained, VIDEOS, PAST, 1, keys)
    expected = np.round(255 * np.asarray(sample[:, PAST:], np.float64)).reshape(true.shape)
    np.testing.assert_allclose(predicted, expected, atol=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"videos": VIDEOS[:0]}, r"videos has shape \(0, 4, 64, 64, 1\); expected \[N, T, H, W, C\] with N 1 or more"),
        ({"videos": VIDEOS[0]}, r"videos has shape \(4, 64, 64, 1\)"),
        ({"past": 0}, "past is 0; expected 1 to 3"),
        ({"past": FRAMES}, "past is 4; expected 1 to 3"),
        ({"num_samples": 0}, "num_samples is 0; expected 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"temperature": -1.0}, "temperature is -1.0; expected a number from 0"),
        ({"videos": VIDEOS[:1]}, "1 clips in batches of at most 100 leave one alone.* expected two clips or more"),
        ({"videos": VIDEOS[:3], "batch_size": 2}, "3 clips in batches of at most 2 leave one alone"),
    ],
)
def test_bad_arguments_of_predictions_are_refused(trained, options, message):
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}"):
        measured(trained, **options)


def test_copying_needs_a_given_frame():
    for past in (0, FRAMES):  # frame -1 would be the last true one
        with pytest.raises(ValueError, match=f"^past is {past}; expected 1 to 3"):
            copied(VIDEOS, past)
