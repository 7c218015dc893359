"""The SVHN training step on a CPU: calibrax, an eager PyTorch twin, and `flax.linen`'s own convolutions.

Command:   make bench                        (or: python -m benchmarks.train_step --torch-python PATH --help)
Needs:     torch, in this interpreter (pip install '.[bench]') or in another one.

Each contender is a separate process with the same number of threads. They never work at the same time, but in turn,
block by block, so that a slow minute of the machine affects all of them. First, calibrax and the twin must give the
same losses from the same weights and noise. Then blocks of steps are timed. The ratio is the median over blocks of
calibrax's steps/s divided by PyTorch's in the same turn.
"""

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TOLERANCE = 1e-4  # relative, for losses
NUM_LOSSES = 5


class BenchError(Exception):
    """A failure that is reported in one line; `code` is the exit code, 2 for a user's mistake."""

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code


class Spread(NamedTuple):
    """Median and range over blocks."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        median, low, high = (f"{value:.2f}" if abs(value) >= 0.01 or not value else f"{value:.1e}" for value in self)
        return f"{median} [{low}, {high}]"


class Contender:
    """A worker process that answers JSON requests, one at a time."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], cpus: set[int] | None):
        self.name = name
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | environment
        )
        if cpus is not None:
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._process.pid, cpus)

    def ask(self, **request: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise BenchError(f"the {self.name} process stopped; its message is above", code=1)
        return json.loads(answer)

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError), self._process:  # closes the pipes and waits
            self._process.kill()


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return exit_code(lambda: compare(options))


def exit_code(command: Callable[[], object], name: str = "bench") -> int:
    """Run a command, report its errors in one line under the name of the program, and return the exit code."""
    try:
        command()
    except BenchError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def compare(options: argparse.Namespace) -> None:
    check_positive(options, "blocks", "steps", "batch_size", "threads")
    check_torch(options.torch_python)
    with contenders(options) as workers:
        versions = check_losses(workers, ["calibrax", "pytorch"])
        seconds = measure(workers, options)
    record = summary(seconds, options) | {"versions": versions}
    print(table(record))
    if options.out:
        Path(options.out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_positive(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise BenchError(f"--{name.replace('_', '-')} is {getattr(options, name)}; expected at least 1")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m benchmarks.train_step", description=(__doc__ or "").split("\n")[0]
    )
    described.add_argument("--torch-python", default=sys.executable, help="an interpreter that has torch")
    described.add_argument("--blocks", type=int, default=9, help="timed turns of each contender")
    described.add_argument("--steps", type=int, default=8, help="steps in a block")
    described.add_argument("--batch-size", type=int, default=128)
    described.add_argument("--threads", type=int, default=2, help="CPU threads of each contender")
    described.add_argument("--linen", action="store_true", help="also time flax.linen's own convolutions (slow)")
    described.add_argument("--out", help="write everything to this JSON file")
    return described


def check_torch(python: str) -> None:
    try:
        found = subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0
    except OSError:
        found = False
    if not found:
        raise BenchError(f"torch cannot be imported by {python}; pip install '.[bench]', or give --torch-python PATH")


@contextlib.contextmanager
def started(
    commands: Mapping[str, Sequence[str]], environment: dict[str, str] | None = None, threads: int | None = None
) -> Iterator[dict[str, Contender]]:
    """Start a worker per command, and stop all of them at the end of the block.

    Args:
      commands: command lines by name.
      environment: variables to add to this process's environment.
      threads: run every worker with this many threads, on the same CPUs and not on an accelerator; None for no limit.
    """
    environment, cpus = dict(environment or {}), None
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        if hasattr(os, "sched_getaffinity"):
            cpus = set(sorted(os.sched_getaffinity(0))[:threads])
    workers: dict[str, Contender] = {}
    try:
        for name, command in commands.items():
            workers[name] = Contender(name, command, environment, cpus)
        yield workers
    finally:
        for worker in workers.values():
            worker.stop()


def contenders(options: argparse.Namespace) -> contextlib.AbstractContextManager[dict[str, Contender]]:
    """The workers of this comparison, for a `with` statement."""
    here, threads = Path(__file__).resolve().parent, options.threads
    jax_command = [sys.executable, "-m", "benchmarks.jax_worker"]
    commands = {
        "calibrax": [*jax_command, "calibrax", str(options.batch_size)],
        "pytorch": [options.torch_python, str(here / "torch_twin.py"), str(threads)],
    }
    if options.linen:
        commands["flax.linen"] = [*jax_command, "linen", str(options.batch_size)]
    return started(commands, threads=threads)


def check_losses(
    workers: Mapping[str, Contender], names: Sequence[str], tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Give PyTorch calibrax's weights and compare the losses of the first steps.

    Args:
      workers: the contenders.
      names: those to compare. Every name must begin with "calibrax", or be a PyTorch twin.
      tolerance: relative.

    Returns:
      The versions of calibrax's and PyTorch's packages, by name.
    """
    twins = [name for name in names if not name.startswith("calibrax")]
    with tempfile.TemporaryDirectory() as folder:
        start = str(Path(folder) / "start.npz")
        versions = {"calibrax": workers["calibrax"].ask(export=start)}
        versions |= {name: workers[name].ask(load=start) for name in twins}
    losses = {name: workers[name].ask(losses=NUM_LOSSES) for name in names}
    ours = losses["calibrax"]
    for name, theirs in losses.items():
        errors = [abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)]
        worst = max(errors, key=lambda error: math.inf if math.isnan(error) else error)
        if not worst <= tolerance:
            raise BenchError(f"the losses of {name} differ by {worst:.1e}, relative: {theirs}, not {ours}", code=1)
        if name != "calibrax":
            print(f"the first {NUM_LOSSES} losses of {name} agree to {worst:.1e}, relative", file=sys.stderr)
    return versions


def measure(workers: Mapping[str, Contender], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per step of each contender, block by block in turn. A first block compiles and does not count."""
    num_steps = {name: max(1, options.steps // 8) if name == "flax.linen" else options.steps for name in workers}
    for name, worker in workers.items():
        worker.ask(time=num_steps[name])
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for block in range(options.blocks):
        for name, worker in workers.items():
            if sys.stderr.isatty():
                print(f"\rblock {block + 1} of {options.blocks}: {name:<12}", end="", file=sys.stderr, flush=True)
            seconds[name].append(worker.ask(time=num_steps[name]) / num_steps[name])
    if sys.stderr.isatty():
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return seconds


def summary(seconds: dict[str, list[float]], options: argparse.Namespace) -> dict[str, Any]:
    """Steps/s and the ratio to PyTorch, computed turn by turn."""
    rows = {}
    for name, values in seconds.items():
        ratios = [base / mine for base, mine in zip(seconds["pytorch"], values, strict=True)]
        rows[name] = {"steps_per_s": Spread.of([1 / value for value in values]), "ratio": Spread.of(ratios)}
    settings = {name: getattr(options, name) for name in ("blocks", "steps", "batch_size", "threads")}
    return {"settings": settings, "cpus": os.cpu_count(), "rows": rows, "seconds_per_step": seconds}


def table(record: dict[str, Any]) -> str:
    settings, versions = record["settings"], record["versions"]
    ours, theirs = versions["calibrax"], versions["pytorch"]
    lines = [
        f"Training step of the SVHN network, batch {settings['batch_size']}, {settings['threads']} CPU threads, "
        f"{settings['blocks']} blocks in turn; median [lowest, highest]",
        f"JAX {ours['jax']}, Flax {ours['flax']}, Python {ours['python']}; PyTorch {theirs['torch']} eager",
        "",
        f"{'':<12}{'steps/s':<22}{'images/s':<10}relative to PyTorch",
    ]
    for name, row in record["rows"].items():
        images = row["steps_per_s"].median * settings["batch_size"]
        lines.append(f"{name:<12}{row['steps_per_s']!s:<22}{images:<10.0f}{row['ratio']}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
