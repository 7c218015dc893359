"""Many steps in one call, and many runs in one program, are the steps and the runs one by one."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from process_worker import VAE, images
from tiny_runs import assert_one_line, final_state, train_args, train_rows, write_images

import calibrax as cx
from calibrax import cli, data
from calibrax.likelihoods import gaussian_nll
from calibrax.training import create_train_state, jit_step, resident_steps, train_step

STEPS, BATCH_SIZE = 7, 16
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def settings(likelihood=None):
    return {"model": VAE(), "likelihood": likelihood or cx.optimal_sigma(decay=0.9), "optimizer": optax.sgd(1e-3)}


def one_by_one(parts, key=KEY, init_key=KEY):
    stepper, feed = jit_step(**parts), data.batches(images(), BATCH_SIZE, seed=1)
    state = stepper.put_state(create_train_state(init_key, images()[:1], **parts))
    rows = []
    for _ in range(STEPS):
        state, metrics = stepper.step(state, stepper.put_batch(next(feed)), key)
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


def test_several_seeds_in_one_program_are_the_runs_one_by_one():
    """By `vmap`: each has its own parameters, noise and running average, and they share the batches."""
    parts, keys = settings(), jax.random.split(jax.random.key(3), 4)
    states = jax.vmap(functools.partial(create_train_state, example=images()[:1], **parts))(keys)
    step = jax.jit(jax.vmap(functools.partial(train_step, **parts), in_axes=(0, None, 0)))
    feed, rows = data.batches(images(), BATCH_SIZE, seed=1), []
    for _ in range(STEPS):
        states, metrics = step(states, next(feed), keys)
        rows.append(metrics)
    together = states, jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *rows)
    for number in range(4):
        single = one_by_one(parts, keys[number], keys[number])
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, n=number: leaf[n], together), single, rtol=1e-5, atol=1e-6
        )


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


def test_a_run_in_calls_of_several_steps_is_the_run(tmp_path):
    """5 steps a call, saved every 2 and at the ends of epochs of 3: calls of 1 and 2; then gone on with by ones."""
    path = write_images(tmp_path / "images.npz")
    args = "--save-every", "2", "--eval-every", "2"
    assert cli.main([*train_args(path, tmp_path / "plain"), *args, "--epochs", "2"]) == 0
    assert cli.main([*train_args(path, tmp_path / "scan"), *args, "--scan-steps", "5", "--epochs", "1"]) == 0
    assert int(final_state(tmp_path / "scan").step) == 3
    resumed = ["train", "--resume", "--run-dir", str(tmp_path / "scan"), "--epochs", "2", "--scan-steps", "1"]
    assert cli.main(resumed) == 0
    ours, theirs = train_rows(tmp_path / "scan"), train_rows(tmp_path / "plain")
    assert [row["step"] for row in ours] == [1, 2, 3, 4, 5, 6]
    assert ours[0].keys() == theirs[0].keys()
    np.testing.assert_allclose([row["loss"] for row in ours], [row["loss"] for row in theirs], rtol=1e-3)  # Adam


def test_several_steps_a_call_are_for_one_device(tmp_path, capsys):
    args = train_args(write_images(tmp_path / "images.npz"), tmp_path / "run", "--scan-steps", "2")
    assert_one_line(capsys, cli.main([*args, "--parallel", "sharded"]), "--scan-steps is 2; expected 1 with --parallel")
    assert_one_line(capsys, cli.main([*args, "--scan-steps", "0"]), "--scan-steps is 0; expected at least 1")
