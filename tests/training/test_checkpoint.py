import json
import os
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import LinearVAE

import calibrax as cx
from calibrax.training import BadSteps, Checkpoints, MetricsLog, create_train_state, read_metrics

PARTS = {
    "model": LinearVAE((4, 4, 3), 3),
    "likelihood": cx.optimal_sigma(axis="pixel"),
    "optimizer": optax.sgd(0.1, 0.9),
}


def state_at(step):
    state = create_train_state(jax.random.key(step), jnp.zeros((1, 4, 4, 3)), **PARTS)
    return state._replace(step=jnp.asarray(step, jnp.int32))


def test_what_is_saved_is_restored_to_the_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    for step in (3, 5, 9):
        checkpoints.save(state_at(step), seed=1, steps_per_epoch=4)
    checkpoints.close()
    again = Checkpoints(tmp_path / "c")
    assert again.latest_step() == 9
    abstract = jax.eval_shape(lambda: state_at(0))
    chex.assert_trees_all_equal(again.restore(abstract), state_at(9))
    chex.assert_trees_all_equal(again.restore(abstract, 5), state_at(5))
    assert not (tmp_path / "c" / "3").exists()
    position = json.loads((tmp_path / "c" / "9" / "position" / "metadata").read_text())
    assert position == {"seed": 1, "epoch": 2, "batch": 1}


def test_a_checkpoint_of_version_0_1_still_opens(tmp_path):
    """Its running average was a named tuple instead of a dict."""

    class Average(NamedTuple):
        total: jax.Array
        weight: jax.Array

    state = state_at(4)
    average = Average(**jax.tree.map(lambda leaf: leaf + 0.25, state.likelihood_state["mse"]))
    Checkpoints(tmp_path).save(state._replace(likelihood_state={"mse": average}), seed=0, steps_per_epoch=1)
    restored = Checkpoints(tmp_path).restore(state)
    chex.assert_trees_all_equal(restored, state._replace(likelihood_state={"mse": average._asdict()}))


def test_saving_a_step_twice_is_harmless_and_no_checkpoint_is_an_error(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoints.restore(state_at(0))
    for _ in range(2):
        checkpoints.save(state_at(1), seed=0, steps_per_epoch=1)
    assert checkpoints.latest_step() == 1


NAMES = os.fsdecode(b"b\xe4r"), "a\\b", "a*[b]?", "gs:", "s3:x", "a\nb", "100% {a}#&'", " ", "日本", "link/../a"


@pytest.mark.parametrize("name", NAMES)
def test_a_run_s_folder_may_have_any_name(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real" / "folder").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/folder")
    checkpoints = Checkpoints(f"{name}/checkpoints", keep=1)
    for step in (1, 2):
        checkpoints.save(state_at(step), seed=0, steps_per_epoch=1)
    assert os.listdir(f"{name}/checkpoints") == ["2"]
    assert set(os.listdir(tmp_path)) <= {name, "real", "link"}
    again = Checkpoints(tmp_path / name / "checkpoints")
    chex.assert_trees_all_equal(again.restore(jax.eval_shape(lambda: state_at(0))), state_at(2))
    with MetricsLog(name) as log:
        log.train(1, {"loss": jnp.asarray(1.0)})
    assert len(read_metrics(tmp_path / name / "metrics.jsonl")) == 1


def test_a_log_opened_at_a_step_forgets_later_rows_and_torn_lines(tmp_path):
    log = MetricsLog(tmp_path, flush_every=2)
    for step in range(1, 8):
        log.train(step, {"loss": jnp.asarray(float(step))})
        if step == 3:
            log.evaluation(step, "test", {"neg_elbo": 1.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "spl')
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 8
    log = MetricsLog(tmp_path, step=5)
    assert log.evaluated_steps == {3}
    log.train(6, {"loss": jnp.asarray(60.0)})
    log.close()
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["split"]) for row in rows] == [
        (1, "train"), (2, "train"), (3, "train"), (3, "test"), (4, "train"), (5, "train"), (6, "train")
    ]  # fmt: skip
    assert rows[-1]["loss"] == 60.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path, bad):
    log = MetricsLog(tmp_path, flush_every=10)
    log.train(1, {"loss": jnp.asarray(1.0)})
    log.train(2, {"loss": jnp.asarray(bad)})
    with pytest.raises(FloatingPointError, match=r"no usable update at step 2 \(loss -?(nan|inf)"):
        log.flush()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    log.close()


def test_a_loss_that_is_not_finite_is_null_and_counts_as_discarded_after_a_resume(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(tmp_path, max_skipped=3) as log:
        for step, loss in enumerate((1.0, np.nan, -np.inf), start=1):
            log.train(step, {"loss": jnp.asarray(loss), "grad_norm": jnp.asarray(np.inf)})
        log.evaluation(3, "test", {"neg_elbo": 2.0, "neg_elbo_stderr": np.float64("nan")})
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    assert [row.get("loss") for row in rows] == [1.0, None, None, None]
    assert rows[3] == {"step": 3, "split": "test", "neg_elbo": 2.0, "neg_elbo_stderr": None}
    assert read_metrics(path) == rows
    as_before = path.read_text().replace('"loss": null', '"loss": NaN').replace("null", "-Infinity")
    for text in (path.read_text(), as_before):  # of an earlier version
        path.write_text(text)
        assert read_metrics(path) == rows
        with MetricsLog(tmp_path, step=3, max_skipped=3) as log:
            assert log.num_skipped == 2
            log.train(4, {"loss": jnp.asarray(np.nan)})
        assert json.loads(path.read_text().splitlines()[-1], parse_constant=pytest.fail)["loss"] is None
    log = MetricsLog(tmp_path, step=4, max_skipped=3)
    log.train(5, {"loss": jnp.asarray(np.nan)})
    with pytest.raises(BadSteps, match="no usable update in 4 steps from step 2 on"):
        log.flush()
    log.close()


def test_discarded_steps_in_a_row_stop_the_run_and_are_counted_across_a_resume(tmp_path):
    def rows(log, steps, skipped):
        for step in steps:
            log.train(step, {"loss": jnp.asarray(1.0), "skipped": jnp.asarray(float(step in skipped))})

    log = MetricsLog(tmp_path, max_skipped=3)
    rows(log, range(1, 11), {1, 4, 5, 6, 9, 10})
    log.close()
    assert log.num_skipped == 6
    log = MetricsLog(tmp_path, step=10, max_skipped=3)
    assert log.num_skipped == 6
    rows(log, (11, 12, 13), {11, 12})
    with pytest.raises(BadSteps, match=r"no usable update in 4 steps from step 9 on .* at step 12") as caught:
        log.flush()
    assert caught.value.first_step == 9
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))
    log.close()
