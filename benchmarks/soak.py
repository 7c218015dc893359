"""Train for many small steps, and check that memory, compilations, open files and threads do not grow.

Command:   make soak                         (or: python -m benchmarks.soak --steps 20000)

The run is a normal one with log, checkpoints and evaluations. Memory is the resident set of the process, sampled during
the run; its slope is fitted to all samples after the first quarter. JAX's log of compilations must name the training
step once. In the second half of the run, which has evaluations, pictures and saves too, nothing may be compiled.
"""

import argparse
import contextlib
import logging
import os
import re
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAX_SLOPE = 1.0  # MiB in 1,000 steps
STEPS_PER_EPOCH = 250
NUM_SAMPLES = 200


class Sample(NamedTuple):
    """The state of the process after a step."""

    step: int
    mebibytes: float  # resident memory
    files: int  # open
    threads: int
    compilations: int


def resident() -> float:
    """The resident memory of this process now, MiB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def sample(step: int, compiled: Counter[str]) -> Sample:
    files = len(list(Path("/proc/self/fd").iterdir()))
    return Sample(step, resident(), files, threading.active_count(), sum(compiled.values()))


@contextlib.contextmanager
def compilations() -> Iterator[Counter[str]]:
    """Count the compilations of each program while the block runs, from JAX's log, which is not printed."""
    import jax

    found: Counter[str] = Counter()

    def count(record: logging.LogRecord) -> bool:
        if match := re.match(r"Compiling (\S+)", record.getMessage()):
            found[match[1]] += 1
        return record.levelno > logging.WARNING

    loggers = [logging.getLogger(f"jax._src.{name}") for name in ("interpreters.pxla", "dispatch", "compiler")]
    for logger in loggers:
        logger.addFilter(count)
    try:
        with jax.log_compiles():
            yield found
    finally:
        for logger in loggers:
            logger.removeFilter(count)


def soak(folder: Path, num_steps: int, steps_per_epoch: int = STEPS_PER_EPOCH) -> tuple[list[Sample], Counter[str]]:
    """Train in `folder` for so many steps of 4 images of 4 x 4; what was seen along the way, and what was compiled."""
    from calibrax.runs import TrainConfig, train
    from calibrax.training.stepping import StepsInALoop

    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (4 * steps_per_epoch, 4, 4, 1), dtype=np.uint8) for name in ("train", "test")}
    np.savez(folder / "images.npz", train=images["train"], test=images["test"][:64])
    samples: list[Sample] = []
    every = max(1, num_steps // NUM_SAMPLES)
    with compilations() as compiled:
        take = StepsInALoop.__call__

        def watched(self: StepsInALoop, state: Any, step: int, num: int) -> Any:
            if step // every < (step + num) // every:
                samples.append(sample(step + num, compiled))
            return take(self, state, step, num)

        StepsInALoop.__call__ = watched
        try:
            train(
                TrainConfig.for_model(
                    data=str(folder / "images.npz"),
                    run_dir=str(folder / "run"),
                    batch_size=4,
                    latent_dim=2,
                    epochs=num_steps // steps_per_epoch,
                    eval_every=max(1, num_steps // steps_per_epoch // 8),
                )
            )
        finally:
            StepsInALoop.__call__ = take
    return samples, compiled


class Verdict(NamedTuple):
    """What grew during the run."""

    slope: float  # MiB per 1,000 steps
    step_compiled: int  # compilations of the training step
    compiled_late: int  # compilations in the second half
    files: tuple[int, int]  # open in the middle and at the end
    threads: tuple[int, int]  # in the middle and at the end

    @property
    def good(self) -> bool:
        still = self.files[1] <= self.files[0] and self.threads[1] <= self.threads[0]
        return self.slope < MAX_SLOPE and self.step_compiled == 1 and not self.compiled_late and still


def judge(samples: Sequence[Sample], compiled: Counter[str]) -> Verdict:
    """Fit the slope after the first quarter, and compare the end of the run with its middle."""
    late = samples[len(samples) // 4 :]
    slope = np.polyfit([s.step / 1000 for s in late], [s.mebibytes for s in late], 1)[0]
    middle, end = samples[len(samples) // 2], samples[-1]
    return Verdict(
        slope=float(slope),
        step_compiled=compiled["jit(looped)"],
        compiled_late=end.compilations - middle.compilations,
        files=(middle.files, end.files),
        threads=(middle.threads, end.threads),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000, help="steps to take (default 20000)")
    options = parser.parse_args(argv)
    if options.steps < 4 * STEPS_PER_EPOCH:
        parser.error(f"--steps is {options.steps}; expected at least {4 * STEPS_PER_EPOCH}")
    with tempfile.TemporaryDirectory(prefix="calibrax-soak-") as name:
        samples, compiled = soak(Path(name), options.steps)
    verdict = judge(samples, compiled)
    first, last = samples[len(samples) // 4], samples[-1]
    print(f"{options.steps:,} steps; resident memory {first.mebibytes:.0f} MiB at step {first.step:,}, ", end="")
    print(f"{last.mebibytes:.0f} MiB at the end: {verdict.slope:+.3f} MiB in 1,000 steps (limit {MAX_SLOPE})")
    print(f"compilations: {compiled.total()}, of the training step {verdict.step_compiled}, ", end="")
    print(f"{verdict.compiled_late} in the second half of the run")
    print(f"open files {verdict.files[0]} -> {verdict.files[1]}, threads {verdict.threads[0]} -> {verdict.threads[1]}")
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
