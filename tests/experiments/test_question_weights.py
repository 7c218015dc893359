"""The questions about β, learning σ and other weights: their numbers, and the sentence for each outcome."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibrax as cx
from calibrax.data import Data
from calibrax.runs import TrainConfig
from experiments import decoders, question_beta, question_learned_sigma, question_other_weights, report
from experiments.paper_figure import FigureData
from experiments.question_other_weights import beta_sigma
from experiments.report import Mean
from experiments.sweep import Result

DATA = Data("tiny", np.zeros((6, 4, 5, 3), np.uint8), np.zeros((2, 4, 5, 3), np.uint8))
LOW, HIGH = decoders.OPTIMAL, decoders.GAUSSIAN


def result(case, seed=0, fid=None, run_dir=None, train_mse=0.0, **numbers):
    """A finished run with these numbers."""
    record = {"test": {"running average": numbers}, "train": {"running average": {"mse": train_mse}}}
    record |= {"event_shape": [4, 5, 3]} | ({} if fid is None else {"fid": {"fid": {"name": "FID-768", "value": fid}}})
    return Result(case, TrainConfig.for_model(seed=seed, run_dir=run_dir, **case.settings), record)


def test_differences_are_of_the_same_seed():
    runs = [result(LOW, seed, neg_elbo=100.0 * seed) for seed in range(3)]
    runs += [result(HIGH, seed, neg_elbo=100.0 * seed + above) for seed, above in ((0, 4.0), (1, 6.0), (3, 50.0))]
    assert report.difference(runs, HIGH, LOW, "neg_elbo") == Mean(5.0, 1.0)
    assert report.difference(runs, LOW, HIGH, "neg_elbo") == Mean(-5.0, 1.0)
    assert report.difference(runs, HIGH, LOW, "fid") is None
    assert report.difference(runs[:3], HIGH, LOW, "neg_elbo") is None


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (Mean(-3.2, 0.4), "3.2 ± 0.4 nats lower"),
        (Mean(3.2, 1.7), "3.2 ± 1.7 nats higher (within two standard errors of 0)"),
        (Mean(3.2, None), "3.2 nats higher (one seed)"),
    ],
)
def test_a_difference_in_words_says_what_its_error_leaves_open(difference, words):
    assert report.in_words(difference, ".1f", " nats") == words


# Does one σ find the best β?


def beta_runs(above, fids):
    """Two seeds of three β and the optimal σ, which has -ELBO -100 and -102, and FID 1.0 and 1.2."""
    runs = []
    for seed in range(2):
        optimal, fid = -100.0 - 2 * seed, 1.0 + 0.2 * seed
        runs.append(result(LOW, seed, fid, neg_elbo=optimal, effective_beta=0.006 + 0.002 * seed, mse=0.003))
        for beta, nats, more in zip((0.001, 0.01, 0.1), above, fids, strict=True):
            numbers = {"neg_elbo": optimal + nats + seed, "effective_beta": beta, "mse": 0.004}
            runs.append(result(decoders.beta_vae(beta), seed, None if more is None else fid + more, **numbers))
    return runs


def test_the_answer_on_beta_has_every_number_and_the_difference_over_pairs():
    text = question_beta.answer(FigureData(beta_runs((50, 3, 7), (0.3, 0.2, 0.1)), DATA, "title"))
    assert "| decoder | β = 2σ² | −ELBO | FID-768 | MSE | −ELBO above the optimal σ's |" in text
    assert "| β-VAE, β = 0.01 | 0.01000 | -97.5 ± 0.5 | 1.300 ± 0.100 | 0.00400 | 3.5 ± 0.5 |" in text
    assert "The optimal σ found β = 0.00700 ± 0.00100." in text
    assert "By −ELBO, the best β of the sweep is 0.01; the optimal σ's −ELBO is 3.5 ± 0.5 nats lower." in text
    assert "By FID-768, the best β of the sweep is 0.1; the optimal σ's FID-768 is 0.100 lower." in text


def test_the_answer_on_beta_says_if_a_beta_is_better_or_fid_is_missing():
    text = question_beta.verdict(beta_runs((50, -6, 7), (None, None, None)))
    assert "the best β of the sweep is 0.01; the optimal σ's −ELBO is 5.5 ± 0.5 nats higher." in text
    assert "No β-VAE has a FID" in text
    shared = result(decoders.SHARED_FROM_DATA, neg_elbo=-110.0, effective_beta=0.008)
    text = question_beta.verdict([*beta_runs((50, -6, 7), (None, None, None)), shared])
    assert "; the shared σ's −ELBO is 4.0 nats lower (one seed)." in text
    assert "no run of the optimal σ" in question_beta.verdict([result(decoders.beta_vae(0.1), neg_elbo=1.0)])


def test_the_sweep_of_beta_shares_the_runs_of_table_1():
    betas = [case.settings["beta"] for case in question_beta.SWEPT]
    assert len(betas) == 12
    assert {0.001, 0.01, 0.1, 1.0, 10.0} <= set(betas)
    assert max(np.diff(np.log10(betas))) < 0.53


# How much slower is learning σ?


@pytest.mark.parametrize(
    ("above", "step"),
    [({10: 90, 20: 51, 30: 50, 40: -3}, 30), ({10: 9, 20: 60, 30: 20}, 30), ({10: 60, 20: 70}, None), ({10: 0}, 10)],
)
def test_a_run_has_arrived_once_it_stays_within_the_margin(above, step):
    assert question_learned_sigma.arrival(above) == step


def learned_run(folder, case, seed, curve):
    """A run whose -ELBO on test images has these values at steps 10, 20, ..."""
    path = folder / f"{case.label}-{seed}"
    path.mkdir()
    rows = [{"step": 5, "split": "train", "loss": 0.0}]
    rows += [{"step": 10 * i, "split": "test", "neg_elbo": nats} for i, nats in enumerate(curve, start=1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return result(case, seed, neg_elbo=curve[-1], sigma=0.06, run_dir=str(path))


def test_the_answer_on_learning_counts_steps_per_seed(tmp_path):
    optimal, slow, started, *_ = question_learned_sigma.CASES
    runs = [
        learned_run(tmp_path, case, seed, np.array(curve) + 7.0 * seed)
        for case, curves in (
            (optimal, [[20, 0, 0]] * 2),
            (slow, [[200, 90, 45], [200, 45, 45]]),
            (started, [[99] * 3] * 2),
        )
        for seed, curve in enumerate(curves)
    ]
    text = question_learned_sigma.answer(FigureData(runs, DATA, "title"))
    assert f"| {optimal.label} | 10 steps | 0.0 | 0.0600 |" in text
    assert f"| {slow.label} | 25 ± 5 steps | 45.0 | 0.0600 |" in text
    assert f"| {started.label} | not in 30 steps | 99.0 | 0.0600 |" in text
    assert f"{slow.label}, 25 ± 5 steps, 2.5 ± 0.5 times the optimal σ's;" in text
    assert "Every 10 steps were evaluated." in text
    half = [
        *runs[:2],
        runs[2],
        learned_run(tmp_path, slow, 2, [80, 70, 60]),
        learned_run(tmp_path, optimal, 2, [0, 0, 0]),
    ]
    assert f"| {slow.label} | 30 steps (1 of 2 seeds) |" in question_learned_sigma.answer(
        FigureData(half, DATA, "title")
    )
    assert "no run of the optimal σ" in question_learned_sigma.answer(FigureData(runs[2:], DATA, "title"))


def test_learning_is_compared_at_equal_rates_and_every_epoch_is_evaluated():
    rates = [(case.settings["likelihood"], case.settings.get("learning_rate")) for case in question_learned_sigma.CASES]
    assert sorted(rates, key=str) == sorted([("optimal-sigma", None), ("shared-sigma", None), ("shared-sigma", None),
                                             ("optimal-sigma", 1e-2), ("shared-sigma", 1e-2)], key=str)  # fmt: skip
    assert all(case.settings["eval_every"] == 1 for case in question_learned_sigma.CASES)


# Other ways to be rid of the weight


def test_beta_sigma_is_the_objective_of_its_authors_in_training_and_a_density_at_test_time():
    rng = np.random.default_rng(0)
    x, outputs = (jnp.asarray(rng.uniform(size=(5, 4, 5, 3)), jnp.float32) for _ in range(2))
    likelihood = beta_sigma(4.0)
    params, state = likelihood.init((4, 5, 3))
    nll, stats = likelihood.nll(params, state, outputs, x)
    mse = np.mean(np.square(x - jax.nn.sigmoid(outputs)), axis=(1, 2, 3), dtype=np.float64)
    objective = 60 / 2 * (np.log(2 * np.pi * mse) + 1)  # overnap/BS-VAE, model.py; added to it is 4·KL
    np.testing.assert_allclose(4 * np.asarray(nll), objective, rtol=1e-5)
    state = likelihood.update(state, stats)
    nll, _ = likelihood.nll(params, state, outputs, x, train=False)
    density = 60 / 2 * (np.log(2 * np.pi * mse.mean()) + mse / mse.mean())
    np.testing.assert_allclose(nll, density, rtol=1e-5)
    assert repr(likelihood) == "beta_sigma(4.0)"
    assert cx.calibrate(likelihood, params, [(outputs, x)]).keys() == {"mse"}


def test_the_answer_on_other_weights_says_what_each_is_told_and_where_it_lands():
    geco = next(case for case in question_other_weights.CASES if case.label == "GECO, κ = 0.07")
    numbers = {"rate": 20.0, "mse": 0.01, "sigma": 0.1}
    runs = [result(LOW, seed, 1.0, neg_elbo=-100.0 - seed, train_mse=0.0081, **numbers) for seed in range(2)] + [
        result(geco, seed, 1.5, neg_elbo=-60.0 - seed, train_mse=0.0049, **numbers) for seed in range(2)
    ]
    text = question_other_weights.answer(FigureData(runs, DATA, "title"))
    # At σ² = MSE: D/2·(log 2π·MSE + 1) and the rate.
    best = 60 / 2 * (math.log(2 * math.pi * 0.01) + 1) + 20
    assert f"| GECO | κ = 0.07 | 0.1000 | 0.0700 | 20.0 | -60.5 ± 0.5 | 40.0 | {best:.1f} | 1.500 |" in text
    assert f"| Optimal σ-VAE | nothing | 0.1000 | 0.0900 | 20.0 | -100.5 ± 0.5 | 0.0 | {best:.1f} | 1.000 |" in text
    assert "which is told nothing: GECO, κ = 0.07, 40.0 nats higher. FID-768 of" in text
    assert "GECO's error on the training images ends at 0.0700 for κ = 0.07." in text


def test_labels_name_the_method_and_what_it_is_told():
    told = {}
    for case in question_other_weights.CASES:
        told.setdefault(question_other_weights.method_of(case), []).append(question_other_weights.told_of(case))
    assert told["GECO"] == ["κ = 0.05", "κ = 0.07", "κ = 0.1"]
    assert told["Beta-Sigma VAE"] == ["β = 0.5", "β = 1", "β = 2", "β = 10"]
    assert told["Optimal σ-VAE"] == ["nothing"]
    assert len(told["β-VAE"]) == 12
    assert len(told) == 4
