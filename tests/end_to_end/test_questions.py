"""The questions: what they measure, against closed forms, and what their answers say of given numbers."""

import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from toy import LinearVAE

import calibrax as cx
from calibrax.data import Data
from calibrax.evaluation import Trained, evaluate_calibration
from calibrax.runs import TrainConfig
from experiments import decoders, question_calibrated, question_test_sigma
from experiments.paper_figure import FigureData
from experiments.sweep import Result

KEY = jax.random.key(0)
EVENT = (4, 4, 3)
IMAGES = np.zeros((20, *EVENT), np.uint8)


def figure_data(name, records):
    """Of the runs with these cases, seeds and records."""
    results = [
        Result(case, TrainConfig.for_model(seed=seed, **case.settings), {name: record})
        for case, seed, record in records
    ]
    return FigureData(results, Data("tiny", IMAGES, IMAGES[:5], validation=IMAGES[:7]), "a title")


def test_the_cost_of_a_sigma_is_the_difference_of_log_densities():
    rng = np.random.default_rng(0)
    residuals = rng.normal(0, [[0.1], [0.2], [0.3], [0.1]], (4, 6))
    errors = np.square(residuals).mean(1)

    def exact(sigmas):
        return -stats.norm.logpdf(residuals, 0, np.broadcast_to(sigmas, 4)[:, None]).sum(1).mean()

    of_batch = question_test_sigma.variances_of_batches(errors, 3)
    np.testing.assert_allclose(of_batch, [*3 * [errors[:3].mean()], errors[3]])
    for variances in (0.04, of_batch):
        ours = [question_test_sigma.nats(one, errors, 6) for one in (variances, errors.mean())]
        theirs = exact(np.sqrt(variances)) - exact(math.sqrt(errors.mean()))
        assert ours[0] - ours[1] == pytest.approx(theirs, rel=1e-6)


def test_the_running_average_is_that_of_the_log(tmp_path):
    rows = [{"step": step, "split": "train", "loss": 0.0, "mse": step, "skipped": 0.0} for step in (1, 2, 3)]
    rows.insert(2, {"step": 2, "split": "test", "mse": 9.0})
    rows[1]["skipped"] = 1.0  # a discarded step changes no average
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert question_test_sigma.running_variance(tmp_path, 0.5) == pytest.approx((0.5 * 1 + 3) / 1.5)


def test_the_answer_on_sigma_names_the_best_choice_and_does_not_hide_the_default():
    cost = {"decay 0.9": 3.0, "decay 0.99": 1.0, "decay 0.999": 9.0, "train": 8.0, "validation": 0.5, "batch": -4.0}
    sigma = dict.fromkeys(question_test_sigma.LABELS, 0.06)
    parts = ("test", "train", "validation")
    errors = {"mse": dict.fromkeys(parts, 0.0036), "mse stderr": dict.fromkeys(parts, 0.0001)}
    records = [
        (decoders.OPTIMAL, seed, {"sigma": sigma, "cost": {**cost, "clipped batch": 2.0, **other}, **errors})
        for seed, other in enumerate([{}, {"decay 0.99": 2.0, "validation": 0.7}])
    ]
    text = question_test_sigma.answer(figure_data(question_test_sigma.NAME, records))
    assert "| running average, decay 0.99 | 0.06000 | 1.50 ± 0.50 |" in text
    assert "| the test images' own | 0.06000 | 0 |" in text
    assert "0.00360 ± 0.00010 for 7 held-out images" in text
    assert "the best is “calibrate on held-out images”, 0.60 ± 0.10 nats per image above the best σ" in text
    gap = "“running average, decay 0.99”, 0.90 ± 0.40 nats worse"
    assert f"the next is {gap}. calibrax's default is {gap}." in text
    assert "costs -4.00 nats, and 2.00 with the soft clip" in text
    records[1][2]["cost"]["validation"] = 5.5
    text = question_test_sigma.answer(figure_data(question_test_sigma.NAME, records))
    assert "the best is “running average, decay 0.99”" in text
    assert "calibrax's default is the best one" in text
    assert "“running average, decay 0.9”, 1.50 ± 0.50 nats worse. " in text  # three standard errors
    records[1][2]["cost"]["decay 0.9"] = 2.0
    text = question_test_sigma.answer(figure_data(question_test_sigma.NAME, records))
    assert "“running average, decay 0.9”, 1.00 ± 1.00 nats worse, within two standard errors" in text


@pytest.mark.parametrize("ratio", [1.0, 1.15])
def test_errors_of_images_are_compared_with_those_of_draws(ratio):
    """The squared error of a Gaussian has a χ² distribution, whose intervals say how many images they hold."""
    likelihood, num = cx.gaussian(sigma=0.1), 1500
    outputs = jax.random.normal(KEY, (num, *EVENT))
    mean = jax.nn.sigmoid(outputs)
    x = mean + ratio * 0.1 * jax.random.normal(jax.random.key(1), mean.shape)
    np.testing.assert_allclose(question_calibrated.image_error(x, mean), np.square(x - mean).mean((1, 2, 3)), rtol=1e-5)
    pairs = [(outputs, question_calibrated.image_error(x, mean))]
    result = evaluate_calibration(question_calibrated.of_errors(likelihood), {}, {}, pairs, key=KEY, levels=(0.5, 0.9))
    chi = stats.chi2(math.prod(EVENT))
    for level, coverage in result.coverage.items():
        low, high = chi.ppf([0.5 - level / 2, 0.5 + level / 2]) / ratio**2
        expected = chi.cdf(high) - chi.cdf(low)
        assert abs(coverage.observed - expected) < 4 * coverage.stderr + 0.01  # 199 draws blur the ends


def test_a_covariance_gains_what_its_determinant_says():
    model, likelihood = LinearVAE(EVENT, 3), cx.optimal_sigma()
    shared = np.random.default_rng(0).normal(size=(300, 4, 4, 1))
    images = np.clip(128 + 30 * shared + 5 * np.random.default_rng(1).normal(size=(300, *EVENT)), 0, 255)
    images = images.astype(np.uint8)
    params = {"model": model.init(KEY, jnp.float32(images), KEY)["params"], "likelihood": {}}
    params["model"] = jax.tree.map(lambda leaf: 0.1 * leaf, params["model"])  # for small outputs of pixels up to 255
    trained = Trained(model, likelihood, params, likelihood.init(EVENT)[1])
    run = types.SimpleNamespace(train_part=images, test=images, eval_key=KEY)
    gain = question_calibrated.covariance_gain(run, trained)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(300))
    x = np.float32(images) / 255
    residual = np.float64(x - trained.mean(trained.outputs(x, keys))).reshape(-1, 3)
    covariance = residual.T @ residual / len(residual)
    exact = 16 / 2 * (3 * math.log(np.trace(covariance) / 3) - math.log(np.linalg.det(covariance)))
    assert exact > 10
    assert gain == pytest.approx(exact, rel=2e-3)


def test_the_answer_on_calibration_names_the_nearest_decoder_of_either_kind():
    def record(pixel, image, **other):
        kinds = {kind: {"coverage": {"0.5": at[0], "0.9": at[1]}, "sigma_ratio": 1.2} for kind, at in
                 (("pixel", pixel), ("image", image))}  # fmt: skip
        return kinds | other

    records = [
        (decoders.GAUSSIAN, 0, record((1.0, 1.0), (0.3, 0.8))),
        (decoders.OPTIMAL, 0, record((0.6, 0.91), (0.1, 0.2), **{"covariance gain": 900.0})),
        (decoders.GAUSSIAN, 1, record((1.0, 1.0), (0.3, 0.8))),
        (decoders.OPTIMAL, 1, record((0.64, 0.91), (0.1, 0.22), **{"covariance gain": 920.0})),
    ]
    text = question_calibrated.answer(figure_data(question_calibrated.NAME, records))
    assert "| Optimal σ-VAE | 62.0 ± 2.0 | 91.0 | 10.0 | 21.0 ± 1.0 | 1.200 |" in text
    assert "Of the pixels, the decoder “Optimal σ-VAE” comes nearest" in text
    assert "it is off by at most 12.0 ± 2.0 percentage points" in text
    assert "Of the errors of images, the decoder “Gaussian VAE” comes nearest" in text
    assert "The Optimal σ-VAE is off by 69.0 ± 1.0." in text
    assert "gains the Optimal σ-VAE 910 ± 10 nats per test image" in text
    without = question_calibrated.answer(figure_data(question_calibrated.NAME, records[::2]))
    assert "covariance" not in without
