"""A run of 200 small steps compiles its step once and closes every file it opens. `make soak` takes 20,000 steps."""

import jax
import pytest

from benchmarks.soak import Sample, judge, soak


def test_two_hundred_steps(tmp_path):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        samples, compiled = soak(tmp_path, 200, steps_per_epoch=50)
    verdict = judge(samples, compiled)
    assert samples[-1].step == 200
    assert verdict.step_compiled == 1
    assert verdict.compiled_late == 0
    assert verdict.files[1] <= verdict.files[0]
    assert verdict.threads[1] <= verdict.threads[0]


@pytest.mark.parametrize(
    ("grows", "good"),
    [
        ({}, True),
        ({"mebibytes": 0.0011}, False),
        ({"files": 1}, False),
        ({"threads": 1}, False),
        ({"compilations": 1}, False),
    ],
    ids=str,
)
def test_growth_is_found(grows, good):
    """`grows` is the growth per step."""
    samples = [
        Sample(step, *(9 + grows.get(name, 0) * step for name in Sample._fields[1:])) for step in range(0, 4000, 20)
    ]
    verdict = judge(samples, {"jit(looped)": 1})
    assert verdict.good is good
    assert verdict.slope == pytest.approx(1000 * grows.get("mebibytes", 0))
    assert not judge(samples, {"jit(looped)": 2}).good
