"""The example of regression: nats in the units of the data, honest splits, and a short run of the program."""

import csv
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import calibrax as cx
from examples import regression as example

pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install '.[examples]'")
pytest.importorskip("numpyro", reason="NumPyro is not installed: pip install '.[examples]'")

NOISE = 3.0


@pytest.fixture(autouse=True)
def _as_a_user():
    """JAX as users have it: without the strict promotion rules of the library's own tests."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def linear_data(num=1000):
    """Inputs [N, 4], and targets [N] that are linear in them but for noise of 3."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(num, 4))
    return inputs, 50 + inputs @ np.array([10.0, -5.0, 0.0, 2.0]) + NOISE * rng.normal(size=num)


def fit(name, data, steps):
    make = example.LIKELIHOODS[name]
    return jax.jit(lambda data, key: example.fit_and_score(make, data, key, steps))(data, jax.random.key(0))


def assert_at_the_noise(scores):
    entropy = 0.5 * np.log(2 * np.pi * np.e * NOISE**2)
    assert abs(scores.nll - entropy) < 0.15
    assert abs(scores.rmse - NOISE) < 0.45
    for level, covered in zip(example.LEVELS, scores.covered, strict=True):
        assert abs(covered - level) < 0.12  # 200 held-out targets


def test_a_split_holds_a_fifth_out_and_standardises_by_the_rest():
    inputs, targets = linear_data()
    data = example.split(inputs, targets, seed=0)
    assert data.test_targets.shape == (200, 1)
    np.testing.assert_allclose(np.mean(data.train_inputs, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(data.train_inputs, axis=0), 1, atol=1e-5)
    together = np.concatenate([data.train_targets, data.test_targets])[:, 0]
    np.testing.assert_array_equal(np.sort(together), np.sort(np.float32(targets)))


def test_the_network_and_both_linear_regressions_reach_the_noise():
    data = example.split(*linear_data(), seed=0)
    assert_at_the_noise(fit("optimal_sigma", data, steps=600))
    assert_at_the_noise(example.bayesian_ridge(data))
    assert_at_the_noise(example.linear_in_numpyro(200)(data, jax.random.key(0)))


@pytest.mark.parametrize("name", ["optimal_sigma", "pixel_sigma", "student_t"])
def test_targets_in_other_units_have_an_nll_that_differs_by_the_logarithm_of_the_unit(name):
    inputs, targets = linear_data(200)
    one, other = (fit(name, example.split(inputs, scale * targets, seed=0), steps=5) for scale in (1, 1000))
    np.testing.assert_allclose(other.nll - one.nll, np.log(1000), rtol=1e-4)
    np.testing.assert_allclose(other.rmse, 1000 * one.rmse, rtol=1e-4)
    np.testing.assert_array_equal(one.covered, other.covered)


def test_the_network_sees_no_held_out_target():
    data = example.split(*linear_data(200), seed=0)
    other = data._replace(test_targets=data.test_targets + 100)
    one, moved = (fit("optimal_sigma", part, steps=20) for part in (data, other))
    # The fit is the same, so that the moved targets are far from it.
    assert moved.nll > one.nll + 1
    np.testing.assert_allclose(moved.rmse, 100, rtol=0.2)


def test_a_short_run_writes_the_table_its_provenance_and_a_figure(tmp_path, monkeypatch, capsys):
    names = ["optimal_sigma", "mixture of 3 pixel_sigma"]
    monkeypatch.setattr(example, "LIKELIHOODS", {name: example.LIKELIHOODS[name] for name in names})
    assert example.main(["--quick", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert [row["likelihood"] for row in rows[:4]] == [*names, "linear, scikit-learn", "linear, NumPyro"]
    assert {row["data"] for row in rows} == {"diabetes", "breast cancer, worst area"}
    diabetes, cancer = (
        [float(row["nll"]) for row in rows if row["data"].startswith(name) and row["likelihood"].startswith("linear")]
        for name in ("diabetes", "breast")
    )
    # Known of these data: a linear regression has an error of about 55, and one of 120 to 150.
    np.testing.assert_allclose(diabetes, 0.5 * np.log(2 * np.pi * np.e * 55**2), atol=0.1)
    np.testing.assert_allclose(cancer, 0.5 * np.log(2 * np.pi * np.e * 135**2), atol=0.3)
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["command"] == f"python -m examples.regression --quick --out {tmp_path}"
    assert record["versions"]["scikit-learn"]
    assert (tmp_path / "coverage.png").read_bytes()[:4] == b"\x89PNG"
    assert rows[0]["likelihood"] in (tmp_path / "table.md").read_text()
    assert "| diabetes | optimal_sigma |" in capsys.readouterr().out


def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find_spec(name))
    assert example.main(["--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "this needs sklearn, of the extra examples: pip install '.[examples]'" in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_gradients_of_the_variants_differ_and_values_do_not():
    x, outputs = jnp.array([[1.0], [3.0]]), jnp.array([[0.0, 0.3], [1.0, -0.2]])
    values = {}
    for name in ("pixel_sigma", "pixel_sigma, beta_nll=0.5", "pixel_sigma, faithful"):
        likelihood: cx.Likelihood = example.LIKELIHOODS[name]()
        values[name] = jax.value_and_grad(lambda o, use=likelihood: jnp.sum(use.nll({}, {}, o, x)[0]))(outputs)
    losses, grads = zip(*values.values(), strict=True)
    np.testing.assert_allclose(losses, losses[0], rtol=1e-6)
    assert all(np.abs(grads[0] - grad).max() > 0.1 for grad in grads[1:])
