"""All benchmarks that fit on two cores: the training step beside PyTorch, start-up, rates, growth, memory, devices.

Command:   make bench TORCH_PYTHON=PATH      (or: python -m benchmarks.suite --torch-python PATH)
Writes:    benchmarks/results.json, one row per line of the table: name, unit, ours, peer, ratio, each with its spread;
           also the machine and the versions.

Nothing here runs at the same time as anything else: the parts are separate processes, one after another, and PyTorch's
step and calibrax's take turns (`benchmarks.train_step`). Without torch, the lines that need it are left out, with a
message.
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
MINUTES = 15  # the budget for all parts together
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
    """One line of the table. Measurements (`ours`, `peer`, `ratio`) become their median and range."""
    return {"name": name, "unit": unit} | {
        key: Spread.of(value)._asdict() if key in FIGURES else value for key, value in {"ours": ours, **others}.items()
    }


def beside_pytorch(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Steps/s, and the peak memory of both processes at the end."""
    try:
        train_step.check_torch(options.torch_python)
    except BenchError as error:
        print(f"bench: {error}; its lines are left out", file=sys.stderr)
        return []
    with contenders(options) as workers:
        packages = train_step.check_losses(workers, ["calibrax", "pytorch"])
        seconds = train_step.measure(workers, options)
        peaks = {name: worker.ask(peak=None) for name, worker in workers.items()}
    ours, theirs = ([1 / value for value in seconds[name]] for name in ("calibrax", "pytorch"))
    ratio = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    peer = f"PyTorch {packages['pytorch']['torch']} eager"
    memory = [peaks["calibrax"]], [peaks["pytorch"]], [peaks["calibrax"] / peaks["pytorch"]]
    return [
        row(f"training step, batch {options.batch_size}", "1/s", ours, peer=theirs, ratio=ratio, beside=peer),
        row("its process, peak memory", "MiB", memory[0], peer=memory[1], ratio=memory[2], beside=peer),
    ]


def start_up(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Seconds from the start of the process to the first loss, with an empty and with a full compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {
            "JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "",
        }  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.jax_worker", "calibrax", str(options.batch_size)]
        rows = []
        for name in ("nothing compiled before", "compiled before"):
            begin = time.perf_counter()
            run(command, environment, input='{"losses": 1}\n')
            rows.append(row(f"first step, {name}", "s", [time.perf_counter() - begin]))
    return rows


def rates(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [row(**line) for line in measured("rates")]


def growth(options: argparse.Namespace) -> list[dict[str, Any]]:
    return [row(**line) for line in measured("growth")]


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    if not Path("/proc/self/statm").exists():
        print("bench: this system does not say what a process holds; the lines of memory are left out", file=sys.stderr)
        return []
    return [row(**line) for line in measured("memory")]


def devices(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The time of a step on several simulated devices on one processor, over that of as many steps on one device.

    XLA gives N simulated devices N threads, even on one processor, and its convolutions take longer the more threads
    they are split for. One device is therefore timed with as many threads, and for comparison with one thread.
    """
    (one_thread,) = measured("devices", 1)
    rows = []
    for num in (2, 4, 8):
        (same_threads,) = measured("devices", 1, threads=num)
        for several in measured("devices", num):
            for base, unit in ((same_threads, "of one with as many threads"), (one_thread, "of one with one thread")):
                expected = num * Spread.of(base["seconds"]).median
                ratios = [value / expected for value in several["seconds"]]
                rows.append(row(f"{num} devices by {several['name']}, time a step", unit, ratios))
    return rows


def measured(what: str, num: int | None = None, *, threads: int = 1) -> Iterator[dict[str, Any]]:
    """Rows of `benchmarks.rates`. Simulated devices share one processor, so that more of them do not compute faster."""
    flags = f"--xla_force_host_platform_device_count={num}" if num else ""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    if num:
        environment["NPROC"] = str(threads)  # XLA's threads, unless there are more devices
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
    width = 2 + max(len(line["name"]) for line in record["rows"])
    lines = [
        f"{record['machine']['processor']}, {record['machine']['cpus']} CPUs; "
        + ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "",
        f"{'':<{width}}{'unit':<28}{'calibrax':<24}{'peer':<24}ratio",
    ]
    for line in record["rows"]:
        ours, peer, ratio = (str(Spread(**line[key])) if key in line else "" for key in FIGURES)
        if "arithmetic" in line:
            peer = f"arithmetic {line['arithmetic']}, last two points {line['last']:.2f}"
        lines.append(f"{line['name']:<{width}}{line['unit']:<28}{ours:<24}{peer:<24}{ratio}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
