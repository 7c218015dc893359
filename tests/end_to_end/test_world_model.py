"""The example of a world model: its data, its losses by their formulas, and predictions that see no later step."""

import csv
import importlib.util
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples import world_model as example

needs_gymnasium = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gymnasium", "pygame")),
    reason="gymnasium or pygame is not installed: pip install '.[examples]'",
)


@pytest.fixture(autouse=True)
def _as_a_user():
    """JAX as users have it, in all threads: without the strict promotion rules of the library's own tests."""
    as_a_user = {"jax_numpy_rank_promotion": "allow", "jax_numpy_dtype_promotion": "standard"}
    strict = {name: getattr(jax.config, name) for name in as_a_user}
    for name, value in as_a_user.items():
        jax.config.update(name, value)
    yield
    for name, value in strict.items():
        jax.config.update(name, value)


def drawn(num=3, seed=0, num_states=3):
    """Sequences of noise, of which the second ends after 9 steps."""
    rng = np.random.default_rng(seed)
    mask = np.ones((num, example.LENGTH), bool)
    mask[1, 9:] = False
    x = {
        "image": rng.integers(0, 256, (num, example.LENGTH, 64, 64, 1), np.uint8),
        "state": rng.normal(size=(num, example.LENGTH, num_states)).astype(np.float32),
        "reward": rng.normal(size=(num, example.LENGTH)).astype(np.float32),
        "continues": rng.random((num, example.LENGTH)) < 0.9,
    }
    actions = rng.uniform(-1, 1, (num, example.LENGTH, 1)).astype(np.float32)
    return jax.tree.map(jnp.asarray, example.Sequences(x, actions, mask))


def outputs_of(data, seed=1):
    rng = np.random.default_rng(seed)
    shapes = {name: jnp.shape(value) for name, value in data.x.items()}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


@needs_gymnasium
@pytest.mark.parametrize(("environment", "num_states"), [("Pendulum-v1", 3), ("CartPole-v1", 4)])
def test_sequences_are_of_an_episode_and_its_end(environment, num_states):
    data = jax.tree.map(np.asarray, example.play(environment, 12, seed=0))
    assert data.x["image"].shape == (12, 20, 64, 64, 1)
    assert data.x["state"].shape == (12, 20, num_states)
    again = jax.tree.map(np.asarray, example.play(environment, 12, seed=0))
    np.testing.assert_array_equal(data.x["image"], again.x["image"])
    np.testing.assert_array_equal(np.abs(data.actions[data.mask]) <= 1, True)
    assert (data.x["image"][data.mask].min(axis=(1, 2, 3)) < 150).all()  # something dark is drawn in each frame
    lengths = data.mask.sum(axis=1)
    for sequence, length in enumerate(lengths):
        assert data.mask[sequence, :length].all()
        assert data.x["continues"][sequence, : length - 1].all()
        assert data.x["continues"][sequence, length - 1] or environment.startswith("CartPole")
        assert length == example.LENGTH or not data.x["continues"][sequence, length - 1]
    if environment == "CartPole-v1":
        ends = data.mask & ~data.x["continues"]
        assert 0 < ends.sum() < 12
        np.testing.assert_array_equal(data.x["reward"], np.where(ends, -1, 0))
    else:
        cosine, sine, _ = np.moveaxis(data.x["state"], -1, 0)
        np.testing.assert_allclose(cosine**2 + sine**2, 1, rtol=1e-5)
        torque = 2 * data.actions[..., 0]
        # The reward is of the state that the action met: -(θ² + 0.1·ω² + 0.001·torque²).
        before = data.x["state"][:, :-1]
        angle = np.arctan2(before[..., 1], before[..., 0])
        expected = -(angle**2 + 0.1 * before[..., 2] ** 2 + 0.001 * torque[:, 1:] ** 2)
        np.testing.assert_allclose(data.x["reward"][:, 1:], expected, atol=1e-3)


def flag_nll(data, outputs):
    return np.where(data.x["continues"], np.logaddexp(0, -outputs["continues"]), np.logaddexp(0, outputs["continues"]))


def nll(likelihood, data, outputs):
    _, state = likelihood.init({"image": (64, 64, 1), "state": (3,), "reward": (), "continues": ()})
    return np.asarray(likelihood.nll({}, state, outputs, (data.x, data.mask))[0], np.float64)


def test_hand_weights_weigh_the_squared_errors():
    data = drawn()
    ours, other = outputs_of(data, 1), outputs_of(data, 2)
    likelihood = example.by_hand(jnp.array([30.0, 5.0]))

    def expected(outputs):
        image = 1 / (1 + np.exp(-np.float64(outputs["image"]))) - np.float64(data.x["image"]) / 255
        vectors = np.sum(np.square(np.float64(outputs["state"]) - data.x["state"]), -1)
        vectors = vectors + np.square(np.float64(outputs["reward"]) - data.x["reward"])
        return 30 * np.square(image).sum((2, 3, 4)) + 5 * vectors + flag_nll(data, outputs)

    # The constant of each Gaussian is the same for all outputs.
    found = nll(likelihood, data, ours) - nll(likelihood, data, other)
    np.testing.assert_allclose(found, np.where(data.mask, expected(ours) - expected(other), 0), rtol=1e-4, atol=0.05)


def test_dreamers_loss_is_the_squared_error_of_symlog():
    data = drawn()
    ours, other = outputs_of(data, 1), outputs_of(data, 2)

    def symlog(x):
        return np.sign(x) * np.log1p(np.abs(np.float64(x)))

    def expected(outputs):
        image = 1 / (1 + np.exp(-np.float64(outputs["image"]))) - np.float64(data.x["image"]) / 255
        vectors = np.sum(np.square(outputs["state"] - symlog(data.x["state"])), -1)
        vectors = vectors + np.square(outputs["reward"] - symlog(data.x["reward"]))
        return np.square(image).sum((2, 3, 4)) + vectors + flag_nll(data, outputs)

    likelihood = example.as_dreamer(jnp.ones(2))
    found = nll(likelihood, data, ours) - nll(likelihood, data, other)
    np.testing.assert_allclose(found, np.where(data.mask, expected(ours) - expected(other), 0), rtol=1e-4, atol=0.01)
    in_units = example.symexp_of_vectors(ours)
    np.testing.assert_allclose(symlog(in_units["state"]), ours["state"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(in_units["image"], ours["image"])


def test_without_weights_every_modality_has_its_own_sigma():
    data = drawn()
    outputs = outputs_of(data)
    _, stats = example.without_weights().nll({}, {}, outputs, (data.x, data.mask))
    seen = np.asarray(data.mask)
    error = np.square(outputs["state"] - data.x["state"])[seen].mean(axis=0)
    np.testing.assert_allclose(stats["state/mse"], error, rtol=1e-5)
    error = np.square(outputs["reward"] - data.x["reward"])[seen].mean()
    np.testing.assert_allclose(stats["reward/mse"], error, rtol=1e-5)


def test_predictions_see_actions_but_nothing_of_the_data_after_the_context():
    data, other = drawn(), drawn(seed=5)
    later = np.arange(example.LENGTH) >= example.CONTEXT
    mixed = jax.tree.map(lambda a, b: jnp.where(later.reshape(1, -1, *[1] * (a.ndim - 2)), b, a), data.x, other.x)
    model = example.WorldModel(3)
    observed = jnp.broadcast_to(~jnp.asarray(later), data.mask.shape)
    key = jax.random.key(0)
    variables = model.init(key, data, observed, key)
    outputs, kl = model.apply(variables, data, observed, key)
    changed, _ = model.apply(variables, data._replace(x=mixed), observed, key)
    jax.tree.map(np.testing.assert_array_equal, outputs, changed)
    assert (kl[:, : example.CONTEXT] > 0).all()
    assert not kl[:, example.CONTEXT :].any()
    observing, _ = model.apply(variables, data._replace(x=mixed), jnp.ones_like(observed), key)
    assert np.abs(observing["state"] - outputs["state"])[:, example.CONTEXT :].max() > 1e-3
    pushed, _ = model.apply(variables, data._replace(actions=-data.actions), observed, key)
    assert np.abs(pushed["state"] - outputs["state"])[:, example.CONTEXT :].max() > 1e-3


def test_relative_error_is_one_for_the_mean_and_by_dimension_for_states():
    data = drawn(num=200)
    seen = np.asarray(data.mask)[:, example.CONTEXT :]
    for name in ("image", "state", "reward", "continues"):
        values = np.float64(data.x[name]) / (255 if name == "image" else 1)
        mean = values[:, example.CONTEXT :][seen].mean(axis=0)
        error, by_step = example.relative_error(np.broadcast_to(mean, values.shape), data.x[name], data.mask)
        np.testing.assert_allclose(error, 1, rtol=1e-6)
        assert by_step.shape == (example.LENGTH - example.CONTEXT,)
        perfect, _ = example.relative_error(values, data.x[name], data.mask)
        assert perfect == 0
    scales = np.array([1.0, 100.0, 10.0])
    noisy = np.float64(data.x["state"]) + 0.5
    one, _ = example.relative_error(noisy, data.x["state"], data.mask)
    other, _ = example.relative_error(noisy * scales, data.x["state"] * scales, data.mask)
    np.testing.assert_allclose(other, one, rtol=1e-4)
    constant, _ = example.relative_error(np.zeros(data.mask.shape), jnp.ones(data.mask.shape, bool), data.mask)
    assert np.isnan(constant)


@needs_gymnasium
def test_a_short_run_writes_the_table_its_provenance_and_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(example, "ENVIRONMENTS", ("CartPole-v1",))
    chosen = example.contenders()[:4]
    monkeypatch.setattr(example, "contenders", lambda: chosen)
    assert example.main(["--seeds", "0", "--out", str(tmp_path)]) == 2
    assert example.main(["--quick", "--out", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    names = [row["loss"] for row in rows]
    assert names == ["joint, no weights", "squared errors, symlog", "weights 30, 1", "weights 30, 30",
                     "best of the weights, per column"]  # fmt: skip
    for column in ("frame", "state", "reward", "flag", "-ELBO"):
        assert float(rows[-1][column]) == min(float(row[column]) for row in rows[2:4])
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert record["settings"]["num_steps"] == 2
    assert record["versions"]["gymnasium"]
    for name in ("frames.png", "horizon.png"):
        assert (tmp_path / name).read_bytes()[:4] == b"\x89PNG"
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"


def test_training_lowers_the_nats_of_a_world_that_repeats():
    data = drawn(num=2)
    contender = example.contenders()[0]
    init, _ = example.training_functions(contender.make, 3, 20, 1)
    untrained = init(jnp.ones(2), data, jax.random.key(0))[0]
    trained = example.train(contender, data, seed=0, num_steps=20)
    before, after = (example.evaluate(contender, each, data, data, num_samples=2) for each in (untrained, trained))
    assert after.neg_elbo < before.neg_elbo
