"""Everything that fits on two cores: the training step beside PyTorch, start-up, rates, growth, memory, devices.

Command:   make bench TORCH_PYTHON=PATH      (or: python -m benchmarks.suite --torch-python PATH)
Writes:    benchmarks/results.json, a row for each line of the table: name, unit, ours, peer, ratio, each with its
           spread, and the machine and versions they come from.

Nothing here runs beside anything else: each part is a process of its own, one after another, and PyTorch's step and
calibrax's take turns (`benchmarks.train_step`). Without torch those lines are left out, and the table says so.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import train_step
from benchmarks.train_step import BenchError, Spread, contenders

RESULTS = Path(__file__).parent / "results.json"
MINUTES = 15  # what all of it may take
FIGURES = "ours", "peer", "ratio"
PACKAGES = "jax", "jaxlib", "flax", "optax", "numpy"


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return train_step.exit_code(lambda: measure_all(options))


def measure_all(options: argparse.Namespace) -> None:
    begin, rows = time.monotonic(), []
    for part in (beside_pytorch, start_up, rates, growth, memory, devices):
        print(f"[{time.monotonic() - begin:4.0f} s] {part.__name__.replace('_', ' ')}", file=sys.stderr, flush=True)
        rows += part(options)
    minutes = (time.monotonic() - begin) / 60
    record = {"machine": machine(), "versions": versions(), "minutes": minutes, "rows": rows}
    print(table(record))
    Path(options.out).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"\n{options.out}; {minutes:.1f} of {MINUTES} minutes")


def parser() -> argparse.ArgumentParser:
    described = train_step.parser()
    described.prog, described.description = "python -m benchmarks.suite", (__doc__ or "").split("\n")[0]
    described.set_defaults(out=str(RESULTS), linen=False)
    return described


def row(name: str, unit: str, ours: Sequence[float], **others: Any) -> dict[str, Any]:
    """A line; what was measured several times becomes its median and range."""
    found = {"ours": ours, **others}
    return {"name": name, "unit": unit} | {
        key: Spread.of(value)._asdict() if key in FIGURES else value for key, value in found.items()
    }


def beside_pytorch(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Steps/s, and the peak memory of either process at the end of it."""
    try:
        train_step.check_torch(options.torch_python)
    except BenchError as error:
        print(f"bench: {error}; its lines are left out", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory() as folder, contenders(options) as workers:
        found = train_step.check_losses(workers, Path(folder) / "start.npz")
        seconds = train_step.measure(workers, options)
        peaks = {name: worker.ask(peak=None) for name, worker in workers.items()}
    ours, theirs = ([1 / value for value in seconds[name]] for name in ("calibrax", "pytorch"))
    ratio = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    peer = f"PyTorch {found['pytorch']['torch']} eager"
    memory = [peaks["calibrax"]], [peaks["pytorch"]], [peaks["calibrax"] / peaks["pytorch"]]
    return [
        row(f"training step, batch {options.batch_size}", "1/s", ours, peer=theirs, ratio=ratio, beside=peer),
        row("its process, peak memory", "MiB", memory[0], peer=memory[1], ratio=memory[2], beside=peer),
    ]


def start_up(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from starting the process to the first step's loss, the cache of compilations empty and full."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "",
        }  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.jax_worker", "calibrax", str(options.batch_size)]
        found = []
        for _ in range(2):
            begin = time.perf_counter()
            run(command, environment, input='{"losses": 1}\n')
            found.append(time.perf_counter() - begin)
    names = "nothing compiled before", "compiled before"
    return [row(f"first step, {name}", "s", [value]) for name, value in zip(names, found, strict=True)]


def rates(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [row(**found) for found in measured("rates")]


def growth(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [row(**found) for found in measured("growth")]


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not Path("/proc/self/statm").exists():
        print("bench: this system does not say what a process holds; the lines of memory are left out", file=sys.stderr)
        return []
    return [row(**found) for found in measured("memory")]


def devices(options: argparse.Namespace) -> list[dict[str, Any]]:
    """What several simulated devices cost on one processor, against as many steps of one device; 1 is no cost.

    XLA gives N simulated devices N threads to share, on one processor too, and its convolutions take longer the more
    threads they are cut for. So one device is timed with as many threads, and with one for comparison.
    """
    (alone,) = measured("devices", 1)
    rows = []
    for num in (2, 4, 8):
        (same,) = measured("devices", 1, threads=num)
        for found in measured("devices", num):
            for base, unit in ((same, "of one with as many threads"), (alone, "of one with one thread")):
                expected = num * Spread.of(base["seconds"]).median
                ratios = [value / expected for value in found["seconds"]]
                rows.append(row(f"{num} devices by {found['name']}, time a step", unit, ratios))
    return rows


def measured(what: str, num: int | None = None, *, threads: int = 1) -> Iterator[dict[str, Any]]:
    """Rows of `benchmarks.rates`; devices share one processor, so that more of them are not more arithmetic at once."""
    flags = f"--xla_force_host_platform_device_count={num}" if num else ""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if num:
        environment["NPROC"] = str(threads)  # XLA's threads, where there are not more devices
    command = [sys.executable, "-m", "benchmarks.rates", what, *([str(num)] if num else [])]
    first = min(os.sched_getaffinity(0)) if num and hasattr(os, "sched_getaffinity") else None
    for line in run(command, environment, processor=first).splitlines():
        yield json.loads(line)


def run(command: Sequence[str], environment: dict[str, str], *, input: str = "", processor: int | None = None) -> str:
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if processor is not None:
            os.sched_setaffinity(process.pid, {processor})
        output, _ = process.communicate(input)
    if process.returncode:
        raise BenchError(f"{' '.join(command[1:])} stopped; its message is above", code=1)
    return output


def machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return {"processor": name, "cpus": os.cpu_count(), "system": platform.system()}


def versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {package: metadata.version(package) for package in PACKAGES}


def table(record: dict[str, Any]) -> str:
    width = 2 + max(len(one["name"]) for one in record["rows"])
    lines = [
        f"{record['machine']['processor']}, {record['machine']['cpus']} CPUs; "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "",
        f"{'':<{width}}{'unit':<28}{'calibrax':<24}{'peer':<24}ratio",
    ]
    for one in record["rows"]:
        cells = [str(Spread(**one[key])) if key in one else "" for key in ("ours", "peer", "ratio")]
        note = "" if "arithmetic" not in one else f"arithmetic {one['arithmetic']}, last two points {one['last']:.2f}"
        lines.append(f"{one['name']:<{width}}{one['unit']:<28}{cells[0]:<24}{cells[1] or note:<24}{cells[2]}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
