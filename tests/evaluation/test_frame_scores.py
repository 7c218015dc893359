"""PSNR and SSIM against their definitions and scikit-image's numbers; the best of many samples; scores by time step."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from calibrax.evaluation.metrics.frame_scores import BestOf, FrameScores, best_of, frame_scores, psnr, ssim

# Variances are differences of squares: how many digits are left beside an edge depends on the processor's instructions.
SSIM_ROUNDING = 3e-5


def reference_ssim(x, y, data_range):
    """Wang et al. 2004, equation 13, with scikit-image's defaults, of one image [H, W, C] in float64."""

    def mean(image):
        return uniform_filter(image, size=(7, 7, 1))[3:-3, 3:-3]  # only windows that lie within

    x, y = x.astype(np.float64), y.astype(np.float64)
    mu_x, mu_y = mean(x), mean(y)
    var_x, var_y = (49 / 48 * (mean(image**2) - mean(image) ** 2) for image in (x, y))
    cov = 49 / 48 * (mean(x * y) - mu_x * mu_y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    return np.mean((2 * mu_x * mu_y + c1) * (2 * cov + c2) / ((mu_x**2 + mu_y**2 + c1) * (var_x + var_y + c2)))


def drawn(case):
    """Pairs of images, float32 [N, H, W, C], and their range."""
    rng = np.random.default_rng(0)
    noise = rng.random((2, 20, 24, 3))
    blocks = np.kron(rng.random((2, 5, 6, 3)), np.ones((1, 4, 4, 1)))
    half = np.zeros((2, 20, 24, 1))
    half[:, :, 12:] = 1
    other = rng.standard_normal(noise.shape)
    x, y, data_range = {
        "noise": (noise, np.clip(noise + 0.1 * other, 0, 1), 1.0),
        "range 2": (noise, np.clip(noise + 0.1 * other, 0, 1), 2.0),
        "blocks": (blocks, np.clip(blocks + 0.02 * other, 0, 1), 1.0),
        "bright and nearly flat": (0.9 + 0.01 * noise, 0.9 + 0.01 * rng.random(noise.shape), 1.0),
        "an edge": (half, np.clip(half + 0.003 * other[..., :1], 0, 1), 1.0),
        "flat": (np.full((1, 16, 16, 1), 0.999), np.full((1, 16, 16, 1), 0.998), 1.0),
        "white and black": (np.full((1, 16, 16, 1), 0.999), np.zeros((1, 16, 16, 1)), 1.0),
        "negatives": (noise[:1], 1 - noise[:1], 1.0),
        "levels": (255 * noise, np.clip(255 * noise + 9 * other, 0, 255), 255.0),
        "one window": (noise[:, :7, :7], noise[:, 1:8, 1:8], 1.0),
    }[case]
    return x.astype(np.float32), y.astype(np.float32), data_range


CASES = [
    "noise", "range 2", "blocks", "bright and nearly flat", "an edge", "flat", "white and black", "negatives", "levels",
    "one window",
]  # fmt: skip
# scikit-image 0.26.0 on the same arrays in float64: structural_similarity (channel_axis=-1), peak_signal_noise_ratio.
SCIKIT_IMAGE = {
    "noise": ([0.944822, 0.9486317], [20.39764, 20.68358]),
    "range 2": ([0.945713, 0.9494294], [26.41824, 26.70418]),
    "blocks": ([0.9922064, 0.9954448], [33.98154, 34.1854]),
    "bright and nearly flat": ([0.9813678, 0.9813411], [47.45431, 47.71026]),
    "an edge": ([0.9911337, 0.9918057], [52.86169, 53.55455]),
    "flat": ([0.9999995], [60.00011]),
    "white and black": ([0.0001002], [0.00869]),
    "negatives": ([-0.975468], [4.76014]),
    "levels": ([0.9924163, 0.9928153], [29.14381, 29.3829]),
    "one window": ([0.0273646, -0.0336169], [7.80494, 7.76362]),
}


@pytest.mark.parametrize("case", CASES)
def test_ssim_is_its_definition(case):
    x, y, data_range = drawn(case)
    expected = [reference_ssim(*pair, data_range) for pair in zip(x, y, strict=True)]
    for compute in (ssim, jax.jit(ssim, static_argnums=2)):
        values = compute(x, y, data_range)
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, expected, rtol=0, atol=SSIM_ROUNDING)
    np.testing.assert_allclose(ssim(y, x, data_range), expected, rtol=0, atol=SSIM_ROUNDING)


@pytest.mark.parametrize("case", CASES)
def test_psnr_is_its_definition(case):
    x, y, data_range = drawn(case)
    mse = np.mean((x.astype(np.float64) - y) ** 2, axis=(1, 2))
    np.testing.assert_allclose(psnr(x, y, data_range), np.mean(10 * np.log10(data_range**2 / mse), 1), rtol=1e-5)
    whole = psnr(x, y, data_range, per_channel=False)
    np.testing.assert_allclose(whole, 10 * np.log10(data_range**2 / mse.mean(1)), rtol=1e-5)
    assert (whole <= psnr(x, y, data_range) + 1e-4).all()


@pytest.mark.parametrize("case", SCIKIT_IMAGE)
def test_both_equal_scikit_image(case):
    x, y, data_range = drawn(case)
    similarity, decibels = SCIKIT_IMAGE[case]
    np.testing.assert_allclose(ssim(x, y, data_range), similarity, rtol=0, atol=SSIM_ROUNDING)
    np.testing.assert_allclose(psnr(x, y, data_range, per_channel=False), decibels, rtol=1e-5)


def test_leading_axes_and_dtypes():
    rng = np.random.default_rng(1)
    levels = (
        rng.integers(0, 256, (2, 3, 9, 8, 3), dtype=np.uint8),
        rng.integers(0, 256, (2, 3, 9, 8, 3), dtype=np.uint8),
    )
    units = [(level / 255).astype(np.float32) for level in levels]
    for score in (psnr, ssim):
        values = score(*levels)
        assert values.shape == (2, 3)
        np.testing.assert_allclose(values, score(*units), rtol=1e-6)
        np.testing.assert_allclose(values, score(levels[0], units[1]), rtol=1e-6)
        np.testing.assert_allclose(values[1, 2], score(levels[0][1, 2], levels[1][1, 2]), rtol=1e-6)
        half = score(*(jnp.asarray(unit, jnp.bfloat16) for unit in units))
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, values, rtol=0.02, atol=0.02)


def test_a_perfect_image():
    x = np.random.default_rng(2).random((2, 8, 8, 3), dtype=np.float32)
    assert np.isposinf(psnr(x, x)).all()
    np.testing.assert_allclose(ssim(x, x), 1, rtol=1e-6)
    black = np.zeros((1, 8, 8, 1), np.uint8)
    np.testing.assert_allclose(ssim(black, black), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            (np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 1))),
            r"truth has shape \(2, 8, 8, 3\), prediction \(2, 8, 8, 1\);",
        ),
        ((np.zeros((8, 8)), np.zeros((8, 8))), r"truth has shape \(8, 8\), .*expected \[..., H, W, C\] both"),
        ((np.zeros((8, 8, 1)), np.zeros((8, 8, 1)), 0.0), "data_range is 0.0; expected more than 0"),
        ((np.zeros((8, 8, 1)), np.zeros((8, 8, 1)), math.nan), "data_range is nan"),
        ((np.zeros((8, 8, 1), int), np.zeros((8, 8, 1), int)), "dtype int.*; expected uint8"),
    ],
)
def test_bad_images_are_refused(arguments, match):
    for score in (psnr, ssim):
        with pytest.raises(ValueError, match=rf"^[^\n]*{match}[^\n]*$"):
            score(*arguments)


def test_images_smaller_than_a_window():
    small = np.zeros((1, 6, 9, 1), np.float32)
    assert psnr(small, small).shape == (1,)
    with pytest.raises(ValueError, match=r"^images have shape \(1, 6, 9, 1\); expected at least 7x7 pixels$"):
        ssim(small, small)


def samples_of(truth, noises, seed=0):
    """For each [K, B] standard deviation a noisy copy; two frames at the front stay."""
    rng = np.random.default_rng(seed)
    for per_clip in noises:
        sample = truth + np.reshape(per_clip, (-1, 1, 1, 1, 1)) * rng.standard_normal(truth.shape)
        sample[:, :2] = truth[:, :2]
        yield np.clip(sample, 0, 1).astype(np.float32)


TRUTH = np.random.default_rng(3).random((3, 5, 8, 9, 1), dtype=np.float32)
NOISES = [[0.3, 0.1, 0.2], [0.1, 0.2, 0.3], [0.2, 0.3, 0.1], [0.4, 0.4, 0.4]]


def test_the_best_sample_of_each_clip():
    samples = np.stack(list(samples_of(TRUTH, NOISES)))
    best = best_of(TRUTH, samples_of(TRUTH, NOISES), past=2)
    assert isinstance(best, BestOf)
    chosen = samples[[1, 0, 2], [0, 1, 2]]
    np.testing.assert_array_equal(best.videos, chosen)
    assert best.psnr.shape == best.ssim.shape == (3, 3)
    np.testing.assert_allclose(best.psnr, psnr(TRUTH[:, 2:], chosen[:, 2:]), rtol=1e-6)
    np.testing.assert_allclose(best.ssim, ssim(TRUTH[:, 2:], chosen[:, 2:]), rtol=1e-6)
    every = np.stack([ssim(TRUTH[:, 2:], sample[:, 2:]).mean(1) for sample in samples])
    np.testing.assert_array_equal(every.argmax(0), [1, 0, 2])
    for again in (best_of(TRUTH, samples, past=2), best_of(jnp.asarray(TRUTH), jnp.asarray(samples), past=2)):
        jax.tree.map(np.testing.assert_array_equal, again, best)


def test_samples_are_scored_one_by_one():
    """A sample is freed before the next but one is drawn."""
    drawn, freed = [], []

    class Sample(np.ndarray):
        def __del__(self):
            freed.append(1)

    def draw():
        for sample in samples_of(TRUTH, NOISES * 3):
            drawn.append(1)
            assert len(drawn) - len(freed) <= 3
            yield sample.view(Sample)

    best_of(TRUTH, draw())
    assert len(drawn) == 12


def test_equal_samples_and_those_with_nan():
    other = np.concatenate([1 - TRUTH[:, :1], TRUTH[:, 1:]], axis=1)  # differs in a given frame, which is not scored
    np.testing.assert_array_equal(best_of(TRUTH, [other, TRUTH], past=1).videos, other)
    worst = np.stack([np.full_like(TRUTH, np.nan), 1 - TRUTH, np.full_like(TRUTH, np.nan)])
    np.testing.assert_array_equal(best_of(TRUTH, worst).videos, worst[1])


@pytest.mark.parametrize(
    ("samples", "past", "match"),
    [
        ([], 0, "samples is empty; expected at least one"),
        ([TRUTH, TRUTH[:2]], 0, r"sample 1 has shape \(2, 5, 8, 9, 1\); expected \(3, 5, 8, 9, 1\)"),
        ([TRUTH], 5, r"truth has shape \(3, 5, 8, 9, 1\), past is 5; expected \[B, T, H, W, C\], 0 <= past < T"),
        ([TRUTH], -1, "past is -1"),
    ],
)
def test_bad_samples_are_refused(samples, past, match):
    with pytest.raises(ValueError, match=rf"^[^\n]*{match}[^\n]*$"):
        best_of(TRUTH, samples, past=past)


def test_scores_by_time_step():
    rng = np.random.default_rng(4)
    decibels, similarity = rng.normal(20, 3, (50, 4)), rng.random((50, 4))
    scores = frame_scores(decibels, similarity, past=2)
    assert isinstance(scores, FrameScores)
    assert (scores.num_clips, scores.first) == (50, 2)
    np.testing.assert_allclose(scores.psnr, decibels.mean(0))
    np.testing.assert_allclose(scores.psnr_stderr, decibels.std(0, ddof=1) / math.sqrt(50))
    np.testing.assert_allclose(scores.ssim, similarity.mean(0))
    np.testing.assert_allclose(scores.ssim_stderr, similarity.std(0, ddof=1) / math.sqrt(50))


def test_scores_of_one_clip_and_of_perfect_frames():
    one = frame_scores(np.array([[20.0, math.inf]]), np.array([[0.5, 1.0]]))
    np.testing.assert_array_equal(one.psnr, [20, math.inf])
    assert np.isnan(one.ssim_stderr).all()
    two = frame_scores(np.full((2, 1), math.inf), np.ones((2, 1)))
    assert np.isposinf(two.psnr).all()


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,)), ((0, 3), (0, 3))])
def test_bad_scores_are_refused(shapes):
    with pytest.raises(ValueError, match=r"^psnr has shape [^\n]*; expected \[N, T\] both, not empty$"):
        frame_scores(*(np.zeros(shape) for shape in shapes))
