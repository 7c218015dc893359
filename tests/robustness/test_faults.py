"""Runs that are killed and resumed equal uninterrupted ones to the bit. `make faults` tries many more moments."""

import signal

import pytest

from benchmarks.faults import (
    SHARES,
    Fault,
    check_log,
    differences,
    draw_faults,
    run_child,
    snapshot,
    spread,
    try_fault,
    write_images,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run on one device: its images, its files, the digest of its state, and its phases."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")
        write_images(folder / "images.npz")
        code, report, stderr = run_child(folder, folder / "images.npz")
        assert code == 0, stderr
        yield folder / "images.npz", snapshot(folder / "run"), report["digest"], report["profile"]


def test_an_uninterrupted_run_logs_each_step_once_and_leaves_no_temporary_files(whole):
    images, files, _, profile = whole
    check_log(images.parent / "run" / "metrics.jsonl")
    assert not [name for name in files if "tmp" in name or "saving" in name]
    assert set(profile) == set(SHARES)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("saving", signal.SIGKILL, entry=3, after=40, timed=False),  # while orbax writes
        Fault("log", signal.SIGKILL, entry=1, after=1, timed=False, on_resume=True),
        Fault("evaluation", signal.SIGTERM, entry=2, after=0.0, timed=True),
        Fault("steps", signal.SIGINT, entry=6, after=0.0, timed=True),
    ],
    ids=str,
)
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one_to_the_bit(whole, tmp_path, fault):
    images, files, digest, _ = whole
    outcome = try_fault(fault, tmp_path / "struck", images, files, digest)
    assert outcome.struck
    assert outcome.trouble is None


def test_the_comparison_finds_differences(whole):
    files = whole[1]
    assert differences(files, files) is None
    assert differences(files | {"metrics.jsonl": b""}, files) == "another metrics.jsonl"
    assert differences(files | {"samples/x.png.tmp": b""}, files) == "a stray file samples/x.png.tmp"
    assert differences({}, files).startswith("no file ")


def test_faults_are_spread_over_phases_and_moments(whole):
    faults = draw_faults(whole[3], 100, 20, seed=0)
    assert {name: sum(f.phase == name and f.signal == signal.SIGKILL for f in faults) for name in SHARES} == SHARES
    assert len(set(faults)) > 110
    assert sum(fault.on_resume for fault in faults) >= 5
    assert set(spread(SHARES, 12)) == set(SHARES)
