"""What a training step does beside descending -ELBO: free bits, warm-up, averages, discarded and accumulated steps."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import LinearVAE, replaced

import calibrax as cx
from calibrax.models.svg.batch_norm import BatchNorm
from calibrax.objectives import free_bits
from calibrax.training import StepOptions, create_train_state, first_bad_tensor, jit_step, pmap_step, sharded_step
from calibrax.training.step import train_step

EVENT = (4, 6, 3)
KEY = jax.random.key(2)


class TwoLayers(nn.Module):
    """A linear VAE whose KL comes in two layers, one of a fifth of it."""

    @nn.compact
    def __call__(self, x, key, train=False):
        outputs, kl = LinearVAE(EVENT, 3, name="vae")(x, key)
        return outputs, jnp.stack([0.2 * kl, 0.8 * kl], axis=1)


@functools.cache
def data():
    return np.random.default_rng(0).uniform(size=(16, *EVENT)).astype(np.float32)


def parts(model=None, likelihood=None, optimizer=None):
    return {
        "model": model or TwoLayers(),
        "likelihood": likelihood or cx.gaussian(),
        "optimizer": optimizer or optax.sgd(1e-3),
    }


def step(options, steps=1, batches=None, make_step=jit_step, **given):
    setting = parts(**given)
    stepper = make_step(**setting, options=options)
    state = create_train_state(jax.random.key(1), data(), **setting, ema=options.ema_decay is not None)
    device_state, history = stepper.put_state(state), []
    for batch in batches or steps * [data()]:
        device_state, metrics = stepper.step(device_state, stepper.put_batch(batch), KEY)
        history.append(jax.device_get(metrics))
    return state, jax.device_get(stepper.get_state(device_state)), history


def test_free_bits_charges_each_layer_and_example_at_least_the_minimum():
    kl = jnp.array([[0.5, 3.0], [-0.1, 1.0]])
    np.testing.assert_array_equal(free_bits(kl, 2.0), [[2.0, 3.0], [2.0, 2.0]])
    np.testing.assert_array_equal(free_bits(kl, 0.0), kl)
    np.testing.assert_array_equal(jax.grad(lambda k: free_bits(k, 2.0).sum())(kl), [[0, 1], [0, 0]])
    for bad in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match="minimum is"):
            free_bits(kl, bad)


def test_free_bits_are_in_the_loss_alone():
    _, _, [plain] = step(StepOptions())
    _, _, [charged] = step(StepOptions(free_bits=50.0))
    assert plain["rate"] < 50
    for name in ("neg_elbo", "rate", "distortion", "kl/1", "kl/2"):
        np.testing.assert_allclose(charged[name], plain[name], rtol=1e-6)
    np.testing.assert_allclose(charged["loss"], plain["distortion"] + 100, rtol=1e-6)
    np.testing.assert_allclose(plain["loss"], plain["neg_elbo"], rtol=1e-6)
    np.testing.assert_allclose(plain["kl/1"] + plain["kl/2"], plain["rate"], rtol=1e-6)


def test_the_kl_s_weight_rises_linearly():
    _, _, history = step(StepOptions(kl_warmup=4), steps=6)
    weights = [(row["loss"] - row["distortion"]) / row["rate"] for row in history]
    np.testing.assert_allclose(weights, [0.25, 0.5, 0.75, 1, 1, 1], rtol=1e-3)


def test_the_average_begins_at_the_start_and_follows_the_parameters():
    start, one, _ = step(StepOptions(ema_decay=0.15))
    chex.assert_trees_all_equal(start.ema, start.params)
    expected = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, start.params, one.params)
    chex.assert_trees_all_close(one.ema, expected, rtol=1e-6)
    chex.assert_trees_all_equal(one.eval_params, one.ema)
    _, two, _ = step(StepOptions(ema_decay=0.15), steps=2)  # where (1 + 1)/(10 + 1) would be more
    expected = jax.tree.map(lambda a, b: 0.15 * a + 0.85 * b, one.ema, two.params)
    chex.assert_trees_all_close(two.ema, expected, rtol=1e-6)
    _, plain, _ = step(StepOptions())
    chex.assert_trees_all_equal(one.params, plain.params)
    assert plain.ema is None
    assert plain.eval_params is plain.params


@pytest.mark.parametrize("make_step", [jit_step, pmap_step, sharded_step])
def test_a_bad_batch_changes_nothing_but_the_count(make_step):
    bad = data().copy()
    bad[3, 0, 0, 0] = np.nan
    options = StepOptions(ema_decay=0.9)
    setting = {"likelihood": cx.optimal_sigma(), "optimizer": optax.sgd(1e-3, 0.9), "make_step": make_step}
    start, after, history = step(options, batches=[bad, bad], **setting)
    chex.assert_trees_all_equal(after._replace(step=start.step), start)
    assert after.step == 2
    assert [row["skipped"] for row in history] == [1, 1]
    _, after, history = step(options, batches=[bad, data()], **setting)
    assert [row["skipped"] for row in history] == [1, 0]
    chex.assert_tree_all_finite(after)


def flat_root(params, state, outputs, x, **options):
    """Finite, and its gradient is not: that of a root at 0."""
    nll, stats = cx.gaussian().nll(params, state, outputs, x, **options)
    return nll + jnp.sqrt(jnp.sum(0 * outputs, (1, 2, 3))), stats


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["data", "weight", "log_sigma", "average", "gradient"])
def test_wherever_a_number_is_not_finite_the_update_is_discarded_and_counted(place, value):
    likelihood = {
        "log_sigma": cx.shared_sigma(),
        "average": cx.optimal_sigma(),
        "gradient": cx.gaussian()._replace(nll=flat_root),
    }.get(place, cx.gaussian())
    setting, batch = parts(likelihood=likelihood, optimizer=optax.adam(1e-3)), data().copy()
    state = create_train_state(jax.random.key(1), batch, **setting)
    if place == "data":
        batch[3, 0, 0, 0] = value
    elif place == "average":  # of the squared error, where a single value overflows
        batch[3, 0, 0, 0] = 1e30 if value == np.inf else value
    elif place == "weight":
        path = ("model", "vae", "mean", "bias")
        state = state._replace(params=replaced(state.params, path, value))
    elif place == "log_sigma":
        state = state._replace(params=replaced(state.params, ("likelihood", "log_sigma"), value))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        after, metrics = jax.jit(functools.partial(train_step, **setting))(state, batch, KEY)
    assert metrics["skipped"] == 1
    assert after.step == 1
    chex.assert_trees_all_equal(after._replace(step=state.step), state)


def test_a_gradient_above_the_limit_is_discarded():
    start, after, [row] = step(StepOptions(skip_grad_norm=1e-3))
    assert row["grad_norm"] > 1e-3
    assert row["skipped"] == 1
    chex.assert_trees_all_equal(after.params, start.params)
    _, after, [row] = step(StepOptions(skip_grad_norm=1e9))
    assert row["skipped"] == 0


@pytest.mark.parametrize("make_step", [jit_step, pmap_step, sharded_step])
def test_a_batch_in_parts_gives_the_step_of_the_whole(make_step):
    _, whole, [row] = step(StepOptions())
    _, accumulated, [parted] = step(StepOptions(accumulate=2), make_step=make_step)
    chex.assert_trees_all_close(accumulated, whole, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(parted, row, rtol=1e-5, atol=1e-6)


def test_the_optimal_sigma_of_a_batch_in_parts_is_each_part_s():
    optimal = cx.optimal_sigma()
    _, after, [row] = step(StepOptions(accumulate=2), likelihood=optimal)
    setting = parts(likelihood=optimal)
    state = create_train_state(jax.random.key(1), data(), **setting)
    # The parts are every second example, with the noise they have in the whole batch.
    keys = cx_keys(len(data()))
    outputs, _ = setting["model"].apply({"params": state.params["model"]}, data(), keys)
    expected = state.likelihood_state
    for part in range(2):
        _, stats = optimal.nll({}, expected, outputs[part::2], data()[part::2], train=True)
        expected = optimal.update(expected, stats)
    chex.assert_trees_all_close(after.likelihood_state, expected, rtol=1e-5)
    assert np.isfinite(row["log_sigma"])


class Normed(nn.Module):
    """Batch norm before a linear VAE; reads three channels and gives one."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, key, train=False):
        x = BatchNorm(axis_name=self.axis_name, name="norm")(x, running=not train)
        return LinearVAE((*EVENT[:2], 1), 1, name="vae")(x, key)

    @nn.nowrap
    def target(self, x):
        return x[..., :1]


@pytest.mark.parametrize("make_step", [jit_step, pmap_step, sharded_step])
def test_a_model_s_running_averages_and_its_own_target(make_step):
    setting = {"model": Normed(), "likelihood": cx.optimal_sigma(axis="pixel")}
    start, after, history = step(StepOptions(), steps=3, make_step=make_step, **setting)
    assert {leaf.shape for leaf in jax.tree.leaves(after.likelihood_state)} == {(*EVENT[:2], 1)}
    mean = data().mean((0, 1, 2))
    averages = after.model_state["batch_stats"]["norm"]
    np.testing.assert_allclose(averages["mean"], (1 - 0.9**3) * mean, rtol=1e-5)
    np.testing.assert_array_equal(start.model_state["batch_stats"]["norm"]["mean"], np.zeros(3))
    _, expected, expected_history = step(StepOptions(), steps=3, **setting)
    chex.assert_trees_all_close(after, expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_close(history, expected_history, rtol=1e-4, atol=1e-5)
    bad = data().copy()
    bad[0, 0, 0, 1] = np.inf
    _, unmoved, _ = step(StepOptions(), batches=[bad], make_step=make_step, **setting)
    chex.assert_trees_all_equal(unmoved.model_state, start.model_state)
    _, parted, _ = step(StepOptions(accumulate=2), make_step=make_step, **setting)
    assert np.all(parted.model_state["batch_stats"]["norm"]["mean"] > 0.15 * mean)  # two updates


def cx_keys(num):
    from calibrax.training import example_keys

    return example_keys(KEY, jnp.zeros((), jnp.int32), num)


def test_parts_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="accumulate is 3; expected a divisor of 16"):
        step(StepOptions(accumulate=3))


def test_a_likelihood_with_more_than_one_nll_per_example_is_refused():
    setting = parts(likelihood=cx.batched(cx.gaussian(), 3))
    with pytest.raises(
        ValueError, match=r"^nll has shape \(16, 4, 6\); expected \(16,\), one per example; see framewise"
    ):
        train_step(create_train_state(jax.random.key(1), data(), **setting), data(), KEY, **setting)


def test_the_first_tensor_that_is_not_finite_is_named():
    setting = parts()
    state = create_train_state(jax.random.key(0), data(), **setting)
    setting = {name: setting[name] for name in ("model", "likelihood")}
    assert first_bad_tensor(state, data(), KEY, **setting) is None
    assert first_bad_tensor(state, np.full_like(data(), np.inf), KEY, **setting) == "the data"
