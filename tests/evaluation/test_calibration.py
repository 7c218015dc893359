"""A decoder is found calibrated on its own samples, and not calibrated on data from another distribution."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import figure_of
from PIL import Image
from scipy import stats
from toy import LinearVAE

import calibrax as cx
from calibrax.evaluation import Trained
from calibrax.evaluation.figures.calibration import save_calibration_figure
from calibrax.evaluation.metrics import calibration
from calibrax.evaluation.metrics.calibration import LEVELS, evaluate_calibration, evaluate_model_calibration

KEY = jax.random.key(0)
EVENT, B, S = (4, 4, 1), 200, 39  # 40 ranks, two for each bin of the histogram
FALSE_ALARM = 1e-4  # of each check, were the seed not fixed
PIXEL_SIGMA = cx.pixel_sigma(min_log_sigma=-20.0)  # any σ with what is compiled once
GAUSSIAN = cx.gaussian(0.1)
LIKELIHOODS = {"gaussian": GAUSSIAN, "pixel-sigma": PIXEL_SIGMA, "categorical": cx.categorical(16)}


def own_samples(likelihood, event=EVENT, num=B, seed=1):
    """Params, state, outputs and a draw of the data from them."""
    params, state = likelihood.init(event)
    outputs_key, sample_key = jax.random.split(jax.random.key(seed))
    outputs = jax.random.normal(outputs_key, (num, *event[:-1], likelihood.output_channels(event[-1])))
    return params, state, outputs, jax.jit(likelihood.sample)(sample_key, params, state, outputs)


def evaluate(likelihood, params, state, outputs, x, **settings):
    settings = {"key": KEY, "num_draws": S} | settings
    return evaluate_calibration(likelihood, params, state, [(outputs, x)], **settings)


def noisy(sigma, num=B, event=EVENT):
    """Logits of means and data of which the error has this standard deviation."""
    mean_key, noise_key = jax.random.split(jax.random.key(3))
    logits = jax.random.normal(mean_key, (num, *event))
    return logits, jax.nn.sigmoid(logits) + sigma * jax.random.normal(noise_key, logits.shape)


def with_sigma(sigma, logits, x, num_draws=S):
    """The Gaussian decoder of this σ on data."""
    outputs = jnp.concatenate([logits, jnp.broadcast_to(jnp.log(sigma), logits.shape)], -1)
    return evaluate(PIXEL_SIGMA, {}, {}, outputs, x, num_draws=num_draws)


def assert_calibrated_on_its_own_samples(likelihood):
    result = evaluate(likelihood, *own_samples(likelihood))
    assert result.num_values == result.pit_counts.sum() == B * math.prod(EVENT)
    assert (result.num_examples, result.num_draws) == (B, S)
    assert stats.chisquare(result.pit_counts).pvalue > FALSE_ALARM
    for level, coverage in result.coverage.items():
        exact = stats.binomtest(round(coverage.observed * result.num_values), result.num_values, level)
        assert exact.pvalue > FALSE_ALARM
        np.testing.assert_allclose(coverage.stderr_by_example, coverage.stderr, rtol=0.4)  # values are independent here
    np.testing.assert_allclose(result.sigma_ratio, 1, atol=0.1)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_own_samples_are_calibrated(name):
    """`tests/robustness/test_calibration_of_all.py` has the other likelihoods."""
    assert_calibrated_on_its_own_samples(LIKELIHOODS[name])


def test_a_regressor_at_any_levels():
    """Targets [B] with an emitted σ, of which every second one is half as wide as said."""
    likelihood = cx.pixel_sigma(-20.0, link="identity")
    mean, noise = jax.random.normal(jax.random.key(2), (2, 1000))
    outputs = jnp.stack([mean, jnp.full(1000, -1.0)], -1)
    x = mean + math.exp(-1.0) * noise * jnp.tile(jnp.array([1.0, 0.5]), 500)
    result = evaluate(likelihood, {}, {}, outputs, x, num_draws=199, levels=(0.5, np.float64(0.9)))
    assert list(result.coverage) == [0.5, 0.9]
    for level, coverage in result.coverage.items():
        z = stats.norm.ppf(0.5 + level / 2)
        expected = np.mean([2 * stats.norm.cdf(z) - 1, 2 * stats.norm.cdf(2 * z) - 1])
        assert abs(coverage.observed - expected) < 4 * math.sqrt(0.25 / 1000) + 0.01
        low, high = cx.interval(likelihood, {}, {}, outputs, level)
        inside = np.mean((low[:, 0] <= x) & (x <= high[:, 0]))
        np.testing.assert_allclose(coverage.observed, inside, atol=0.02)
    for levels in ((), (0.5, 1.0), (50,), "0.5", 0.5):
        with pytest.raises(ValueError, match=r"^levels is [^\n]*; expected numbers between 0 and 1, such as"):
            evaluate(likelihood, {}, {}, outputs, x, levels=levels)


def test_unit_variance_is_seen_to_be_too_wide():
    result = with_sigma(1.0, *noisy(0.06), num_draws=199)
    assert min(coverage.observed for coverage in result.coverage.values()) > 0.999
    assert result.pit_counts[8:12].sum() > 0.95 * result.num_values  # within 0.1 of 1/2
    np.testing.assert_allclose(result.sigma_ratio, 0.06, rtol=0.05)
    np.testing.assert_allclose(result.sigma_bins.predicted[result.sigma_bins.num_values.argmax()], 1, rtol=0.05)


def test_a_narrow_sigma_is_seen_to_be_too_narrow():
    logits, x = noisy(0.06)
    result = with_sigma(0.03, logits, x, num_draws=199)
    for level, coverage in result.coverage.items():
        expected = 2 * stats.norm.cdf(stats.norm.ppf(0.5 + level / 2) / 2) - 1
        np.testing.assert_allclose(coverage.observed, expected, atol=0.03)
    assert result.pit_counts[[0, -1]].min() > 3 * result.num_values / 20
    np.testing.assert_allclose(result.sigma_ratio, 2, rtol=0.05)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_fifth_too_much_or_too_little_is_found(factor):
    logits, x = noisy(0.1)
    result = with_sigma(0.1 * factor, logits, x)
    assert stats.chisquare(result.pit_counts).pvalue < 1e-6
    assert (result.coverage[0.8].observed > 0.8) == (factor > 1)


def test_a_biased_mean_gives_a_slope():
    logits, x = noisy(0.1)
    counts = with_sigma(0.1, logits, x + 0.1).pit_counts
    assert counts[:10].sum() < 0.25 * counts.sum()


def test_predicted_sigma_follows_the_error_of_each_value():
    logits, noise = noisy(1.0)
    log_sigma = jnp.linspace(-4.0, 0.0, logits.size).reshape(logits.shape)
    mean = jax.nn.sigmoid(logits)
    x = mean + jnp.exp(log_sigma) * (noise - mean)
    right = with_sigma(jnp.exp(log_sigma), logits, x)
    bins = right.sigma_bins
    assert bins.num_values.sum() == right.num_values
    many = bins.num_values > 100
    assert many.sum() > 8
    np.testing.assert_allclose(bins.predicted[many], bins.actual[many], rtol=0.25)
    assert np.ptp(np.log(bins.predicted[many])) > 3
    # The right sizes at the wrong values: no bin stands out.
    wrong = with_sigma(jnp.exp(log_sigma[::-1]), logits, x).sigma_bins
    assert np.corrcoef(np.log(wrong.predicted), np.log(wrong.actual))[0, 1] < 0


def test_a_single_sigma_fills_two_bins_at_most():
    """Different draws choose the bin and predict σ, so that chance does not spread the predicted σ."""
    bins = with_sigma(0.12, *noisy(0.12)).sigma_bins  # near an edge, so in two bins
    many = bins.num_values > 300
    assert many.sum() == 2
    np.testing.assert_allclose([bins.predicted[many], bins.actual[many]], 0.12, rtol=0.06)


def test_ties_are_broken_at_random():
    """A decoder that is sure of one level: if right, every rank is a tie and the PIT is flat; if wrong, at an end."""
    num = 60
    levels = jax.random.randint(KEY, (num, *EVENT), 0, 256)
    likelihood = cx.categorical()
    outputs = (100.0 * jax.nn.one_hot(levels, 256)).reshape(num, 4, 4, 256)
    for x in (levels.astype(jnp.uint8), np.asarray(levels, np.float32) / np.float32(255)):
        sure = evaluate(likelihood, {}, {}, outputs, x, num_draws=9)
        assert stats.chisquare(sure.pit_counts).pvalue > FALSE_ALARM
        margin = 4 * math.sqrt(0.25 / levels.size)  # four standard errors, where they are largest
        np.testing.assert_allclose([sure.coverage[level].observed for level in LEVELS], LEVELS, atol=margin)
    above = evaluate(likelihood, {}, {}, outputs, jnp.minimum(levels + 1, 255).astype(jnp.uint8), num_draws=9)
    assert above.pit_counts[18:].sum() > 0.98 * above.num_values
    assert above.coverage[0.8].observed < 0.02


def test_intensities_are_not_bernoulli_distributed():
    logits, _ = noisy(0.1)
    half = evaluate(cx.bernoulli(), {}, {}, jnp.zeros_like(logits), jnp.full(logits.shape, 0.5))
    assert half.coverage[0.5].observed > 0.99  # neither 0 nor 1 is in the middle, and all data are


def test_the_result_does_not_depend_on_the_batches():
    likelihood = GAUSSIAN
    params, state, outputs, x = own_samples(likelihood, num=12)
    whole = evaluate(likelihood, params, state, outputs, x, num_draws=9)
    pairs = [(outputs[:9], x[:9]), (outputs[9:], x[9:])]
    cut = evaluate_calibration(likelihood, params, state, pairs, key=KEY, num_draws=9)
    np.testing.assert_array_equal(cut.pit_counts, whole.pit_counts)
    assert cut.coverage == whole.coverage
    for array, reference in zip(cut.sigma_bins, whole.sigma_bins, strict=True):
        np.testing.assert_allclose(array, reference, rtol=1e-6)
    other = evaluate(likelihood, params, state, outputs, x, num_draws=9, key=jax.random.key(7))
    assert (other.pit_counts != whole.pit_counts).any()


def test_memory_does_not_grow_with_the_draws():
    params, state, outputs, x = own_samples(GAUSSIAN, event=(32, 32, 3), num=4)

    def temporaries(num_draws):
        measure = calibration._measure_function(GAUSSIAN, num_draws, LEVELS)
        compiled = measure.lower(params, state, outputs, x, jax.random.split(KEY, 4)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2000) <= 1.05 * temporaries(10)


def test_standard_errors_allow_for_correlated_pixels():
    logits, x = noisy(0.1)
    shift = 0.1 * jax.random.normal(jax.random.key(5), (B, 1, 1, 1))
    result = with_sigma(0.1 * math.sqrt(2), logits, x + shift)
    coverage = result.coverage[0.8]
    np.testing.assert_allclose(
        coverage.stderr, math.sqrt(coverage.observed * (1 - coverage.observed) / x.size), rtol=1e-6
    )
    assert coverage.stderr_by_example > 1.5 * coverage.stderr
    assert abs(coverage.observed - 0.8) < 4 * coverage.stderr_by_example
    alone = with_sigma(0.1, logits[:1], x[:1])
    assert math.isnan(alone.coverage[0.8].stderr_by_example)
    assert np.isnan(alone.pit_stderr_by_example).all()


def test_a_model_on_images():
    likelihood = cx.optimal_sigma()
    model = LinearVAE((5,), 5)
    x = np.random.default_rng(0).random((30, 5), np.float32)
    params = {"model": jax.jit(model.init)(KEY, x, KEY)["params"], "likelihood": {}}
    _, state = likelihood.init((5,))
    trained = Trained(model, likelihood, params, state)
    result, again = (evaluate_model_calibration(trained, x, key=KEY, num_draws=9, batch_size=size) for size in (30, 15))
    assert (result.num_values, result.num_examples) == (150, 30)
    np.testing.assert_allclose(result.pit_counts, again.pit_counts, atol=1)
    assert result.coverage[0.99].observed > 0.95  # σ is e^0 before any update


LOGITS, DATA = jnp.zeros((3, *EVENT)), jnp.zeros((3, *EVENT))


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        ([], {}, "pairs is empty; expected at least one"),
        ([(LOGITS, DATA)], {"num_draws": 1}, "num_draws is 1; expected an integer of at least 2"),
        ([(LOGITS, DATA)], {"num_draws": 9.5}, "num_draws is 9.5; expected an integer"),
        ([(LOGITS, DATA[:2])], {}, r"x has shape \(2, 4, 4, 1\); expected a batch as long as that of outputs"),
        ([(LOGITS, DATA[:, :2])], {}, r"x has examples of shape \(2, 4, 1\); expected \(4, 4, 1\)"),
        ([(LOGITS, (DATA, DATA > 0))], {}, "x is a tuple; expected an array"),
        ([({"image": LOGITS}, DATA)], {}, "outputs is a dict; expected an array"),
        ([(LOGITS, DATA + jnp.nan)], {}, "x or its draws have 48 values that are not finite; expected none"),
        ([(LOGITS + jnp.nan, DATA)], {}, "x or its draws have 48 values that are not finite; expected none"),
    ],
)
def test_bad_arguments_raise_one_line(pairs, settings, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate_calibration(GAUSSIAN, {}, {}, pairs, **({"key": KEY, "num_draws": 3} | settings))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module", name="results")
def _results():
    logits, x = noisy(0.06)
    return {f"σ = {sigma}": with_sigma(sigma, logits, x) for sigma in (1.0, 0.06, 0.03)}


def test_the_figure_is_a_whole_png_of_all_decoders(tmp_path, results):
    path = tmp_path / "new" / "calibration.png"
    save_calibration_figure(path, results, title="a unit-variance Gaussian, a calibrated one, a narrow one")
    assert [entry.name for entry in path.parent.iterdir()] == ["calibration.png"]
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.size == (1500, 600)
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)} <= colors  # all three are seen


def test_the_figure_draws_the_numbers(results):
    figure = figure_of(save_calibration_figure, results)
    coverage, sigma = figure.axes[1:]
    points = [line.get_ydata() for line in coverage.get_lines() if line.get_marker() == "s"]
    expected = [100 * results["σ = 0.06"].coverage[level].observed for level in LEVELS]
    np.testing.assert_allclose(points[0], expected)
    predicted, actual = next(line for line in sigma.get_lines() if line.get_marker() == "o").get_data()
    np.testing.assert_allclose(predicted[0], 1, rtol=0.2)
    np.testing.assert_allclose(actual, 0.06, rtol=0.2)
    low, high = sigma.get_xlim()
    assert low < 0.02 < 1 < high
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "calibrated"
    assert [label.split(" (")[0] for label in labels[1:]] == list(results)


def test_figures_of_odd_results(tmp_path, results):
    """One example, no predicted error at all, or seven runs with long names: drawn without a warning."""
    logits, x = noisy(0.06)
    alone = with_sigma(0.06, logits[:1], x[:1])
    sure = results["σ = 1.0"]._replace(sigma_bins=calibration.SigmaBins(*np.zeros((3, 1))), sigma_ratio=math.inf)
    save_calibration_figure(tmp_path / "odd.png", {"one": alone, "sure": sure})
    save_calibration_figure(tmp_path / "sure.png", {"sure": sure})
    save_calibration_figure(
        tmp_path / "seven.png", {f"a decoder with a long name, number {i}": alone for i in range(7)}
    )
    assert all((tmp_path / f"{name}.png").stat().st_size > 10_000 for name in ("odd", "sure", "seven"))
    for wrong in ({}, dict.fromkeys(range(8), alone)):
        with pytest.raises(ValueError, match=f"results has {len(wrong)} entries; expected 1 to 7"):
            save_calibration_figure(tmp_path / "none.png", wrong)
