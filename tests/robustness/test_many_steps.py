"""Many steps in one call, and many runs in one program, are the steps and the runs one by one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from process_worker import VAE, images
from tiny_runs import assert_one_line, train_args, write_images

import calibrax as cx
from calibrax import cli, data
from calibrax.likelihoods import gaussian_nll
from calibrax.training import (
    create_train_state,
    jit_step,
    looped_steps,
    resident_runs,
    resident_steps,
    stepping,
    train_step,
)

STEPS, BATCH_SIZE = 7, 16
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def settings(likelihood=None):
    return {"model": VAE(), "likelihood": likelihood or cx.optimal_sigma(decay=0.9), "optimizer": optax.sgd(1e-3)}


def one_by_one(parts):
    stepper, feed = jit_step(**parts), data.batches(images(), BATCH_SIZE, seed=1)
    state = stepper.put_state(create_train_state(KEY, images()[:1], **parts))
    rows = []
    for _ in range(STEPS):
        state, metrics = stepper.step(state, stepper.put_batch(next(feed)), KEY)
        rows.append(metrics)
    return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def order(num_examples):
    """Of the first steps, over the end of an epoch."""
    per_epoch = num_examples // BATCH_SIZE
    orders = [data.epoch_order(num_examples, seed=1, epoch=epoch)[: per_epoch * BATCH_SIZE] for epoch in range(3)]
    return np.concatenate(orders)[: STEPS * BATCH_SIZE].reshape(STEPS, BATCH_SIZE).astype(np.int32)


def test_many_steps_in_one_call_are_the_steps_one_by_one():
    parts, examples = settings(), jnp.asarray(images())
    steps = resident_steps(**parts)
    state = create_train_state(KEY, images()[:1], **parts)
    state, metrics = steps(state, examples, order(len(examples)), KEY)
    chex.assert_trees_all_close((state, metrics), one_by_one(parts), rtol=1e-5, atol=1e-6)
    assert int(state.step) == STEPS


@pytest.mark.parametrize("calls", [[7], [1, 2, 4], [1] * 7], ids=str)
def test_a_loop_of_any_number_of_steps_is_the_steps_one_by_one(calls):
    """To rounding; and to the bit it does not matter how they are spread over calls."""
    parts, steps = settings(), looped_steps(**settings())
    state, rows = looped(steps, [7])
    assert int(state.step) == STEPS
    chex.assert_trees_all_close((state, rows), one_by_one(parts), rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal((state, rows), looped(steps, calls))


def looped(steps, calls):
    """The state and all metrics after calls of so many steps, each with room for seven."""
    feed, rows = data.batches(images(), BATCH_SIZE, seed=1), []
    state = create_train_state(KEY, images()[:1], **settings())
    for num in calls:
        batches = np.stack([next(feed) for _ in range(num)] + [np.zeros_like(images()[:BATCH_SIZE])] * (STEPS - num))
        state, metrics = steps(state, batches, num, KEY)
        rows.append(jax.tree.map(lambda row, n=num: row[:n], metrics))
        assert not np.any(jax.tree.leaves(metrics)[0][num:])
    return state, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)


@pytest.mark.parametrize(("seconds", "num"), [(1e9, stepping.MAX_STEPS_PER_CALL), (0.0, 1)])
def test_a_call_takes_as_many_steps_as_its_time_has(seconds, num, monkeypatch):
    monkeypatch.setattr(stepping, "SECONDS_PER_CALL", seconds)
    parts, feed = settings(), data.batches(images(), BATCH_SIZE, seed=1)
    take = stepping.StepsInALoop(parts, feed, KEY)
    state, asked = create_train_state(KEY, images()[:1], **parts), []
    for _ in range(3):
        asked.append(take.num)
        state, metrics = take(state, int(state.step), take.num)
    assert asked == [1, 1, num]
    assert int(state.step) == sum(asked)
    assert len(metrics["loss"]) == stepping.MAX_STEPS_PER_CALL


@pytest.mark.parametrize(("batch_bytes", "most"), [(1, 8), (8 * 2**20, 4), (10 * 2**20, 3), (2**30, 1)])
def test_large_batches_wait_in_smaller_numbers(batch_bytes, most):
    assert stepping.loop_capacity(batch_bytes) == most


def test_several_seeds_in_one_program_are_the_runs_one_by_one():
    """Each has its own parameters, order, noise and running average."""
    parts, keys, examples = settings(), jax.random.split(jax.random.key(3), 4), jnp.asarray(images())
    orders = np.stack([np.roll(order(len(examples)), number, axis=1) for number in range(4)])
    orders[1:] = orders[1:, ::-1]
    states = jax.vmap(functools.partial(create_train_state, example=images()[:1], **parts))(keys)
    together = resident_runs(**parts)(states, examples, orders, keys)
    steps = resident_steps(**parts)
    for number in range(4):
        state = create_train_state(keys[number], images()[:1], **parts)
        alone = steps(state, examples, orders[number], keys[number])
        of_all = jax.tree.map(lambda leaf, n=number: leaf[n], together)
        chex.assert_trees_all_close(of_all, alone, rtol=1e-5, atol=1e-6)
        assert int(of_all[0].step) == STEPS


def test_several_weights_in_one_program_are_the_runs_one_by_one():
    """The sweep of a β: the variance is traced, the decoder is made where the step is."""
    betas = jnp.array([0.1, 1.0, 10.0])

    def step(state, batch, beta):
        def nll(params, likelihood_state, outputs, x, **options):
            return gaussian_nll(x, jax.nn.sigmoid(outputs), 0.5 * jnp.log(beta / 2))

        likelihood = cx.gaussian()._replace(nll=nll)
        return train_step(state, batch, KEY, **settings(likelihood))

    parts = settings(cx.gaussian())
    state = create_train_state(KEY, images()[:1], **parts)
    states = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), state)
    batch = images()[:BATCH_SIZE] / 255
    together, metrics = jax.jit(jax.vmap(step, in_axes=(0, None, 0)))(states, batch, betas)
    for number, beta in enumerate([0.1, 1.0, 10.0]):
        alone, single = jit_step(**settings(cx.beta_gaussian(beta))).step(jax.tree.map(jnp.array, state), batch, KEY)
        np.testing.assert_allclose(metrics["loss"][number], single["loss"], rtol=1e-5)
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, n=number: leaf[n], together.params), alone.params, rtol=1e-4, atol=1e-5
        )


def test_several_steps_a_call_are_for_one_device(tmp_path, capsys):
    args = train_args(write_images(tmp_path / "images.npz"), tmp_path / "run", "--scan-steps", "2")
    assert_one_line(capsys, cli.main([*args, "--parallel", "sharded"]), "--scan-steps is 2; expected 1 with --parallel")
    assert_one_line(capsys, cli.main([*args, "--scan-steps", "0"]), "--scan-steps is 0; expected at least 1")
