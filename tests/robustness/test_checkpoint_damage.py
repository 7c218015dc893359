"""Damage to a checkpoint is found and named, an older checkpoint is used, and nothing damaged is ever restored."""

import contextlib
import functools
import json
import re
import shutil
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import calibrax as cx
from calibrax._files import write_text
from calibrax.training import Checkpoints, DamagedCheckpoint, TrainState, checkpoint
from calibrax.training.manifest import MANIFEST_FILE

OPTIMIZER = optax.adam(1e-3)


def state_at(step):
    """A state that depends on the step. Its leaves have several dtypes; one is too large for orbax's index."""
    rng = np.random.default_rng(step)
    params = {
        "model": {
            "kernel": jnp.asarray(rng.normal(size=(64, 128)), jnp.float32),
            "half": jnp.asarray(rng.normal(size=(3, 1, 5)), jnp.bfloat16),
            "blocks": [{"bias": jnp.asarray(rng.normal(size=3), jnp.float32)} for _ in range(3)],
        },
        "likelihood": {"log_sigma": jnp.asarray(rng.normal(), jnp.float32)},
    }
    moments = jax.tree.map(lambda leaf: leaf + jnp.ones_like(leaf) * step, OPTIMIZER.init(params))
    average = jax.tree.map(lambda leaf: leaf * 0.5, params)
    return TrainState(jnp.asarray(step, jnp.int32), params, moments, cx.optimal_sigma().init((4, 4, 3))[1], average)


ABSTRACT = jax.eval_shape(lambda: state_at(0))


def save(folder, *steps, keep=2):
    checkpoints = Checkpoints(folder, keep=keep)
    for step in steps:
        checkpoints.save(state_at(step), seed=0, steps_per_epoch=10)
    return checkpoints


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with checkpoints 100 and 120, for tests to copy."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    save(folder, 100, 120).close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def files_of(step_folder):
    return sorted(path for path in step_folder.rglob("*") if path.is_file())


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, at=None):
    content = bytearray(path.read_bytes())
    at = len(content) // 2 if at is None else at
    content[at] ^= 1 << (at % 8)
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


DAMAGES = {truncate: "1 bytes short", flip: "other content", empty: "bytes short", remove: "missing"}


def test_every_kind_of_damage_to_every_file_is_found_and_named(folder):
    checkpoints, cases = Checkpoints(folder), 0
    assert checkpoints.verify(120) is None
    for path in files_of(folder / "120"):
        content, name = path.read_bytes(), path.relative_to(folder / "120").as_posix()
        for damage, what in DAMAGES.items():
            damage(path)
            found = checkpoints.verify(120)
            # The manifest does not record its own length.
            expected = what if name != MANIFEST_FILE or damage is remove else "other content"
            assert found is not None
            assert found.startswith(f"{name}: ")
            assert found.endswith(expected)
            assert "\n" not in found
            path.write_bytes(content)
            cases += 1
    assert cases >= 4 * 12
    assert checkpoints.verify(120) is None


def test_a_flipped_bit_in_the_manifest_is_blamed_on_the_manifest(folder):
    checkpoints, path = Checkpoints(folder), folder / "120" / MANIFEST_FILE
    content = path.read_bytes()
    for at in range(0, len(content), 4):
        flip(path, at)
        assert checkpoints.verify(120) == f"{MANIFEST_FILE}: other content"
        path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_an_older_checkpoint_is_used_with_a_message(folder, damage, capsys):
    older = state_at(100)
    for path in files_of(folder / "120"):
        content, name = path.read_bytes(), path.relative_to(folder / "120").as_posix()
        damage(path)
        checkpoints = Checkpoints(folder)
        assert checkpoints.latest_step() == 120
        chex.assert_trees_all_equal(checkpoints.restore(ABSTRACT), older)
        line = capsys.readouterr().err.strip()
        expected = rf"calibrax: checkpoint 120 is damaged \({re.escape(name)}: [^()]+\); going back to 100"
        assert re.fullmatch(expected, line)
        with pytest.raises(
            DamagedCheckpoint, match=rf"of step 120 in .*: checkpoint 120 is damaged \({re.escape(name)}: "
        ):
            checkpoints.restore(ABSTRACT, 120)
        path.write_bytes(content)
    chex.assert_trees_all_equal(Checkpoints(folder).restore(ABSTRACT), state_at(120))
    assert capsys.readouterr().err == ""


def test_without_an_intact_checkpoint_there_is_an_error_in_one_line(folder, capsys):
    data = max(files_of(folder / "120"), key=lambda path: path.stat().st_size)
    flip(data)
    empty(folder / "100" / "state" / "_METADATA")
    checkpoints = Checkpoints(folder)
    with pytest.raises(DamagedCheckpoint, match=r"^no intact checkpoint in .*120 .*content.*100 .*short\)$") as error:
        checkpoints.restore(ABSTRACT)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, ValueError)
    assert capsys.readouterr().err == ""
    assert checkpoints.latest_step() == 120  # not None, so that no run starts over and overwrites them
    with pytest.raises(DamagedCheckpoint, match=r"^no intact checkpoint of step 100 in "):
        checkpoints.restore(ABSTRACT, 100)


def test_several_damaged_checkpoints_are_reported_once_each(tmp_path, capsys):
    folder = tmp_path / "c"
    checkpoints = save(folder, 100, 110, 120, keep=3)
    for step in (110, 120):
        remove(folder / str(step) / "commit_success.txt")
    for _ in range(2):
        assert checkpoints.restore(ABSTRACT).step == 100
    first, second = capsys.readouterr().err.splitlines()
    assert "checkpoint 120 is damaged (commit_success.txt: missing); going back to 100" in first
    assert "checkpoint 110 is damaged (commit_success.txt: missing); going back to 100" in second
    checkpoints.save(state_at(115), seed=0, steps_per_epoch=10)
    assert sorted(path.name for path in folder.iterdir()) == ["100", "115"]


def test_a_resumed_run_replaces_damaged_checkpoints(folder):
    flip(max(files_of(folder / "120"), key=lambda path: path.stat().st_size))
    checkpoints = Checkpoints(folder)
    assert checkpoints.restore(ABSTRACT).step == 100
    checkpoints.save(state_at(110), seed=0, steps_per_epoch=10)  # another --save-every
    assert sorted(path.name for path in folder.iterdir()) == ["100", "110"]
    checkpoints.save(state_at(120), seed=0, steps_per_epoch=10)
    assert sorted(path.name for path in folder.iterdir()) == ["110", "120"]
    chex.assert_trees_all_equal(Checkpoints(folder).restore(ABSTRACT), state_at(120))


@pytest.mark.parametrize("known", [True, False])
def test_saving_the_same_step_replaces_a_damaged_checkpoint(folder, known, capsys):
    truncate(folder / "120" / "state" / "manifest.ocdbt")
    checkpoints = Checkpoints(folder)
    if known:
        assert checkpoints.restore(ABSTRACT).step == 100
    checkpoints.save(state_at(120), seed=0, steps_per_epoch=10)
    assert checkpoints.verify(120) is None
    assert checkpoints.verify(100) is None
    capsys.readouterr()
    chex.assert_trees_all_equal(checkpoints.restore(ABSTRACT), state_at(120))
    assert capsys.readouterr().err == ""


def test_an_intact_checkpoint_is_not_written_again(folder):
    before = {path: path.stat().st_mtime_ns for path in files_of(folder)}
    save(folder, 100, 120)
    assert {path: path.stat().st_mtime_ns for path in files_of(folder)} == before


def make_old_format(folder):
    """Remove what older versions did not write: the manifest and its mention in the metadata."""
    (folder / MANIFEST_FILE).unlink()
    metadata = folder / checkpoint.STEP_METADATA
    write_text(metadata, json.dumps(json.loads(metadata.read_text()) | {"custom_metadata": {}}))


def test_a_checkpoint_of_an_older_version_is_used_if_orbax_can_read_it(folder, capsys):
    make_old_format(folder / "120")
    checkpoints = Checkpoints(folder)
    assert checkpoints.verify(120) is None
    chex.assert_trees_all_equal(checkpoints.restore(ABSTRACT), state_at(120))
    empty(folder / "120" / "state" / "_METADATA")
    chex.assert_trees_all_equal(checkpoints.restore(ABSTRACT), state_at(100))
    assert re.fullmatch(
        r"calibrax: checkpoint 120 is damaged, or does not fit \(.+\); going back to 100\n", capsys.readouterr().err
    )
    checkpoints.save(state_at(120), seed=0, steps_per_epoch=10)
    chex.assert_trees_all_equal(Checkpoints(folder).restore(ABSTRACT), state_at(120))


def test_checkpoints_of_an_older_version_that_do_not_fit_are_not_removed(folder):
    for step in ("100", "120"):
        make_old_format(folder / step)
    checkpoints = Checkpoints(folder, keep=3)
    with pytest.raises(DamagedCheckpoint, match="or does not fit"):
        checkpoints.restore(ABSTRACT._replace(ema=None))
    checkpoints.save(state_at(130), seed=0, steps_per_epoch=10)
    chex.assert_trees_all_equal(checkpoints.restore(ABSTRACT, 120), state_at(120))


def test_an_empty_checkpoint_folder_counts_as_damaged(folder, capsys):
    (folder / "140").mkdir()
    assert Checkpoints(folder).restore(ABSTRACT).step == 120
    assert f"checkpoint 140 is damaged ({MANIFEST_FILE}: missing); going back to 120" in capsys.readouterr().err


def test_a_checkpoint_with_another_structure_is_not_reported_as_damaged(folder):
    checkpoints = Checkpoints(folder)
    kernel = jax.ShapeDtypeStruct((64, 127), np.float32)
    model = {**ABSTRACT.params["model"], "kernel": kernel}
    for like, match in (
        (ABSTRACT._replace(ema=None), "structure"),
        (ABSTRACT._replace(params={**ABSTRACT.params, "model": model}), r"kernel.*\(64, 128\); expected \(64, 127\)"),
    ):
        with pytest.raises(ValueError, match=match) as error:
            checkpoints.restore(like)
        assert not isinstance(error.value, DamagedCheckpoint)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step 7 in"):
        checkpoints.restore(ABSTRACT, 7)


@pytest.mark.parametrize("replace", [False, True])
def test_an_interrupted_save_leaves_intact_checkpoints(saved, tmp_path, replace, monkeypatch, capsys):
    """Interrupted before each rename or removal of a folder, and before the manifest is written."""
    for cut in range(8):
        folder, calls = shutil.copytree(saved, tmp_path / str(cut)), []

        def until(call, *arguments, calls=calls, cut=cut, **options):
            calls.append(call)
            if len(calls) == cut + 1:
                raise KeyboardInterrupt
            return call(*arguments, **options)

        if replace:
            flip(folder / "120" / "state" / "_METADATA")
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            for owner, name in (
                (checkpoint, "write_manifest"),
                (checkpoint.os, "rename"),
                (checkpoint.shutil, "rmtree"),
            ):
                patch.setattr(owner, name, functools.partial(until, getattr(owner, name)))
            save(folder, 120 if replace else 140)
            break  # the save finished before the interruption
        checkpoints = Checkpoints(folder)
        restored = checkpoints.restore(ABSTRACT)
        assert restored.step in ((100, 120) if replace else (120, 140))
        chex.assert_trees_all_equal(restored, state_at(int(restored.step)))
        checkpoints.save(state_at(160), seed=0, steps_per_epoch=10)
        assert 2 <= len(list(folder.iterdir())) <= 3
        assert all(checkpoints.verify(int(path.name)) is None for path in folder.iterdir())
    assert cut >= 6


def test_a_process_killed_while_it_saves_leaves_intact_checkpoints(tmp_path):
    """A process saves again and again until it is killed. All checkpoints that are found then are intact."""
    code = (
        "import jax.numpy as jnp\n"
        "from calibrax.training import Checkpoints, TrainState\n"
        f"checkpoints = Checkpoints({str(tmp_path)!r})\n"
        "for step in range(1, 10_000):\n"
        "    state = TrainState(jnp.asarray(step), {'w': jnp.full((300, 300), step)}, (), ())\n"
        "    checkpoints.save(state, seed=0, steps_per_epoch=10)\n"
        "    print(step, flush=True)\n"
    )
    like = TrainState(jnp.asarray(0), {"w": jnp.zeros((300, 300), jnp.int32)}, (), ())
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for _ in range(9):
            seen = int(process.stdout.readline())
        process.kill()
    checkpoints = Checkpoints(tmp_path)
    steps = [step for step in range(1, 10_000) if (tmp_path / str(step)).exists()]
    assert all(checkpoints.verify(step) is None for step in steps)
    restored = checkpoints.restore(like)
    assert restored.step >= seen
    assert (restored.params["w"] == restored.step).all()
