"""Decoders on a CPU: value and gradient of -log p in calibrax, NumPyro, Distrax, TensorFlow Probability and PyTorch.

Command:   python -m benchmarks.decoders --torch-python PATH
Needs:     numpyro, distrax, tfp-nightly in this interpreter, and torch in this or another one. Missing packages are
           left out, with a message.

The benchmark scores one batch of 128 float32 images of 32 x 32 x 3, with -log p summed over each image. The mean over
the batch is differentiated with respect to everything that a network or an optimizer would own: means, logits, log
scales, degrees of freedom. JAX functions are jitted, PyTorch is eager. All libraries get the same arrays, as arguments.
The code for each peer follows its own documentation (decoder_peers.py, decoder_torch.py). If a peer has neither the
distribution nor its parts, the cell is "-".

Before a decoder is timed, the value and gradients of every peer are compared with calibrax's. Those that differ by more
than 1e-3, relative, are marked with * and listed under the table. Then the contenders take turns in blocks of calls, so
that a slow minute of the machine affects all of them. Every call is waited for; compilation and one whole block are not
timed. The ratio is the time of the fastest unmarked peer over calibrax's in the same turn: above 1, calibrax is faster.
Temporaries are what XLA reports to allocate in addition to arguments and results.

By default, PyTorch's threads wait for each other by spinning. That is somewhat faster on an idle machine, but with
other work on the machine a call of 3 ms takes 200. Here, they wait passively unless --torch-spins is given. To quote a
table, run both on an idle machine.
"""

import argparse
import contextlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.train_step import (
    BenchError,
    Contender,
    Spread,
    check_positive,
    check_torch,
    exit_code,
    started,
)

TOLERANCE = 1e-3  # relative, for values and gradients
MIN_BLOCK_SECONDS = 0.05
EVENT_SHAPE = (32, 32, 3)
JAX_LIBRARIES = ("calibrax", "numpyro", "distrax", "tfp")
LIBRARIES = (*JAX_LIBRARIES, "pytorch")


class Row(NamedTuple):
    """The measurements of one decoder, by library. A library without the distribution has no entry."""

    decoder: str
    milliseconds: dict[str, list[float]]  # per call, one entry per block
    temporaries: dict[str, float]  # MiB
    complaints: dict[str, str]  # what is wrong with a peer's numbers, in words


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return exit_code(lambda: measure_all(options), "decoders")


def measure_all(options: argparse.Namespace) -> None:
    check(options)
    with contenders(options) as workers:
        versions = find_libraries(workers)
        rows = [measure(name, workers, versions, options) for name in options.only]
    settings = {name: getattr(options, name) for name in ("blocks", "batch_size", "threads", "torch_spins")}
    record = {"settings": settings, "versions": versions, "rows": [row._asdict() for row in rows]}
    print(table(rows, versions, options))
    if options.json:
        Path(options.json).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(
        prog="python -m benchmarks.decoders", description=(__doc__ or "").split("\n")[0]
    )
    described.add_argument("--torch-python", help="an interpreter that has torch (default: this one)")
    described.add_argument("--only", nargs="+", default=list(INPUTS), metavar="NAME", help=f"of {', '.join(INPUTS)}")
    described.add_argument("--blocks", type=int, default=9, help="timed turns of each contender")
    described.add_argument("--batch-size", type=int, default=128)
    described.add_argument("--threads", type=int, default=2, help="CPU threads of each contender")
    described.add_argument("--torch-spins", action="store_true", help="let PyTorch's threads spin")
    described.add_argument("--json", metavar="FILE", help="write everything to this file")
    return described


def check(options: argparse.Namespace) -> None:
    check_positive(options, "blocks", "batch_size", "threads")
    for name in options.only:
        if name not in INPUTS:
            raise BenchError(f"--only is {name}; expected names out of {', '.join(INPUTS)}")
    if options.json and (Path(options.json).is_dir() or not Path(options.json).absolute().parent.is_dir()):
        raise BenchError(f"--json is {options.json}; expected a file in a folder that exists")
    if options.torch_python:
        check_torch(options.torch_python)


def contenders(options: argparse.Namespace) -> contextlib.AbstractContextManager[dict[str, Contender]]:
    """A worker for the JAX libraries and one for PyTorch, for a `with` statement."""
    here = Path(__file__).resolve().parent
    torch_python = options.torch_python or sys.executable
    commands = {"jax": [sys.executable, "-m", "benchmarks.decoder_peers"]}
    try:
        check_torch(torch_python)
        commands["pytorch"] = [torch_python, str(here / "decoder_torch.py"), str(options.threads)]
    except BenchError as error:
        print(f"decoders: pytorch is left out: {error}", file=sys.stderr)
    return started(commands, {} if options.torch_spins else {"OMP_WAIT_POLICY": "PASSIVE"}, options.threads)


def find_libraries(workers: Mapping[str, Contender]) -> dict[str, str]:
    """The version of each library that is installed, in the order of the table's columns."""
    found = {}
    for worker in workers.values():
        answer = worker.ask(versions=None)
        found |= answer["found"]
        for name, reason in answer["missing"].items():
            if name == "calibrax":
                raise BenchError(f"calibrax cannot be imported: {reason}")
            print(f"decoders: {name} is left out: {reason}", file=sys.stderr)
    return found


def measure(
    decoder: str, workers: Mapping[str, Contender], versions: Mapping[str, str], options: argparse.Namespace
) -> Row:
    """Compare every contender with calibrax, then time them in turn."""
    row = Row(decoder, {}, {}, {})
    libraries = [name for name in LIBRARIES if name in versions]
    worker_of = {name: workers["pytorch" if name == "pytorch" else "jax"] for name in libraries}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), decoder, (options.batch_size, *EVENT_SHAPE))
        for library in libraries:
            progress(f"{decoder}: {library} starts")
            answer = worker_of[library].ask(prepare=[library, decoder, folder])
            if library == "calibrax":
                check_ours(decoder, answer)
            if answer is None:
                continue
            if "failure" in answer:
                row.complaints[library] = f"fails: {answer['failure']}"
                continue
            row.milliseconds[library] = []
            if "temporaries" in answer:
                row.temporaries[library] = answer["temporaries"] / 2**20
            compare(row, library, Path(folder))
            if library != "calibrax":
                shutil.rmtree(Path(folder) / library)
    repeats = {name: warm_up(worker_of[name], name) for name in row.milliseconds}
    for block in range(options.blocks):
        for name, values in row.milliseconds.items():
            progress(f"{decoder}: block {block + 1} of {options.blocks}, {name}")
            values.append(1e3 * worker_of[name].ask(time=[name, repeats[name]]) / repeats[name])
    progress("")
    return row


def check_ours(decoder: str, answer: dict[str, Any] | None) -> None:
    if answer is None:
        raise BenchError(f"this calibrax has no {decoder}_nll", code=1)
    if "failure" in answer:
        raise BenchError(f"calibrax fails at {decoder}: {answer['failure']}", code=1)


def warm_up(worker: Contender, library: str) -> int:
    """Run one whole block without timing it. Returns the number of calls that makes a block long enough."""
    worker.ask(time=[library, 1])
    repeats = max(1, math.ceil(MIN_BLOCK_SECONDS / worker.ask(time=[library, 1])))
    worker.ask(time=[library, repeats])
    return repeats


def compare(row: Row, library: str, folder: Path) -> None:
    """Record in the row how the library's value and gradients differ from calibrax's; the folder has both as .npy."""
    complaints = []
    for path in sorted((folder / "calibrax").glob("*.npy"), key=lambda path: (path.stem != "value", path.stem)):
        mine, theirs = (np.load(folder / name / path.name) for name in ("calibrax", library))
        complaint = disagreement(mine, theirs)
        if complaint:
            what = "the value" if path.stem == "value" else f"the gradient of {path.stem}"
            complaints.append(f"{what} {complaint}")
    if complaints:
        row.complaints[library] = "; ".join(complaints)


def disagreement(mine: np.ndarray, theirs: np.ndarray) -> str:
    """How far an array is from calibrax's in the Euclidean norm, in words; "" if it is within the tolerance."""
    if mine.shape != theirs.shape:
        return f"has shape {theirs.shape}, not {mine.shape}"
    for whose, array in (("", theirs), (" in calibrax", mine)):
        num_bad = array.size - np.count_nonzero(np.isfinite(array))
        if num_bad:
            return f"is not finite{whose} in {num_bad} of {array.size} places"
    error = float(np.linalg.norm((theirs - mine).ravel()) / max(float(np.linalg.norm(mine.ravel())), 1e-30))
    return "" if error <= TOLERANCE else f"differs by {error:.1e}"


def fastest_peer(row: Row) -> str | None:
    """The peer with the lowest median time among those whose numbers agree with calibrax's."""
    medians = {
        name: Spread.of(values).median
        for name, values in row.milliseconds.items()
        if name != "calibrax" and name not in row.complaints
    }
    return min(medians, key=medians.__getitem__) if medians else None


def ratio(row: Row, peer: str) -> Spread:
    """The peer's time over calibrax's, turn by turn."""
    return Spread.of([b / a for a, b in zip(row.milliseconds["calibrax"], row.milliseconds[peer], strict=True)])


def progress(message: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{message:<70}", end="" if message else "\r", file=sys.stderr, flush=True)


def table(rows: Sequence[Row], versions: Mapping[str, str], options: argparse.Namespace) -> str:
    """Times, temporaries and complaints, as Markdown."""
    libraries = [name for name in LIBRARIES if name in versions]
    jax_libraries = [name for name in libraries if name in JAX_LIBRARIES]
    shape = " x ".join(str(size) for size in (options.batch_size, *EVENT_SHAPE))
    times = [["decoder", *libraries, "MiB", "fastest peer / calibrax"]]
    memory = [["decoder", *jax_libraries]]
    notes = []
    for row in rows:
        peer = fastest_peer(row)
        cells = [time_cell(row, name) for name in libraries]
        compared = f"{spread_cell(ratio(row, peer))} {peer}" if peer else "-"
        mib = [figure(row.temporaries[name]) if name in row.temporaries else "-" for name in jax_libraries]
        times.append([row.decoder, *cells, mib[0], compared])
        memory.append([row.decoder, *mib])
        notes += [f"* {row.decoder}, {name}: {complaint}" for name, complaint in row.complaints.items()]
    lines = [
        f"Value and gradient of -log p, {shape}, float32, {options.threads} CPU threads, {options.blocks} blocks in "
        "turn: milliseconds per call, median [lowest, highest]; MiB of temporaries of calibrax",
        ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
        *aligned(times),
        *(["", *notes] if notes else []),
        "",
        "MiB of temporaries",
        "",
        *aligned(memory),
    ]
    return "\n".join(lines)


def time_cell(row: Row, library: str) -> str:
    if library not in row.milliseconds:
        return "fails*" if library in row.complaints else "-"
    return spread_cell(Spread.of(row.milliseconds[library])) + "*" * (library in row.complaints)


def spread_cell(spread: Spread) -> str:
    median, low, high = (figure(value) for value in spread)
    return f"{median} [{low}, {high}]"


def figure(value: float) -> str:
    """About three digits, never an exponent."""
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table whose columns also line up as plain text; the first row is the heading."""
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def write_inputs(folder: Path, decoder: str, shape: tuple[int, ...]) -> None:
    """Write `x.npy` and `parameters.npz`, named as the arguments of calibrax's function."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, shape, dtype=np.uint8)
    parameters = INPUTS[decoder](rng, levels.astype(np.float32) / 255)
    np.save(folder / "x.npy", DATA.get(decoder, as_levels if decoder in DISCRETE else as_unit)(levels))
    arrays: Any = {name: np.asarray(array, np.float32) for name, array in parameters.items()}
    np.savez(folder / "parameters.npz", **arrays)


def as_levels(levels: np.ndarray) -> np.ndarray:
    return levels


def as_unit(levels: np.ndarray) -> np.ndarray:
    return levels.astype(np.float32) / 255


def as_counts(levels: np.ndarray) -> np.ndarray:
    """Counts from 0 to 31, as floats: the peers' gradients of log-factorials of integers differ in dtype."""
    return (levels // 8).astype(np.float32)


def as_angles(levels: np.ndarray) -> np.ndarray:
    return 2 * np.pi * (as_unit(levels) - 0.5).astype(np.float32)


def near(rng: np.random.Generator, unit: np.ndarray) -> np.ndarray:
    """Means like those of a trained network: off by about 0.05, inside [0, 1]."""
    return np.clip(unit + 0.05 * normal(rng, unit.shape), 0.01, 0.99)


def normal(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.standard_normal(tuple(shape), dtype=np.float32)


def student_t_inputs(rng: np.random.Generator, unit: np.ndarray) -> dict[str, Any]:
    log_scale = -2.5 + 0.3 * normal(rng, unit.shape)
    return {"mean": near(rng, unit), "log_scale": log_scale, "df": 2 + np.exp(normal(rng, unit.shape))}


def mixture_inputs(rng: np.random.Generator, unit: np.ndarray, components: int = 10) -> dict[str, Any]:
    per_channel = (*unit.shape, components)
    return {
        "mixture_logits": normal(rng, (*unit.shape[:-1], components)),
        "means": np.clip(unit[..., None] + 0.1 * normal(rng, per_channel), 0.01, 0.99),
        "log_scales": -3 + 0.3 * normal(rng, per_channel),
    }


def von_mises_inputs(rng: np.random.Generator, unit: np.ndarray) -> dict[str, Any]:
    angle = 2 * np.pi * (unit - 0.5) + 0.3 * normal(rng, unit.shape)
    return {"direction": np.stack([np.cos(angle), np.sin(angle)], -1), "log_concentration": 2.0}


# A scalar scale of 0.08 against errors of 0.05 keeps its gradient away from 0, so that relative errors are meaningful.
INPUTS = {
    "gaussian": lambda rng, unit: {"mean": near(rng, unit), "log_sigma": -2.5},
    "optimal_sigma": lambda rng, unit: {"mean": near(rng, unit)},
    "student_t": student_t_inputs,
    "laplace": lambda rng, unit: {"mean": near(rng, unit), "log_scale": -2.5},
    "bernoulli": lambda rng, unit: {"logits": 2 * normal(rng, unit.shape)},
    "continuous_bernoulli": lambda rng, unit: {"logits": 2 * normal(rng, unit.shape)},
    "categorical": lambda rng, unit: {"logits": normal(rng, (*unit.shape, 256))},
    "bitwise_categorical": lambda rng, unit: {"logits": normal(rng, (*unit.shape, 8))},
    "discretized_gaussian": lambda rng, unit: {"mean": near(rng, unit), "log_sigma": -2.5},
    "discretized_logistic": lambda rng, unit: {"mean": near(rng, unit), "log_scale": -3.0},
    "logistic_mixture": mixture_inputs,
    "poisson": lambda rng, unit: {"log_rate": 2.5 + 0.5 * normal(rng, unit.shape)},
    "negative_binomial": lambda rng, unit: {"log_mean": 2.5 + 0.5 * normal(rng, unit.shape), "log_dispersion": 1.0},
    "binomial": lambda rng, unit: {"logits": normal(rng, unit.shape)},
    "von_mises": von_mises_inputs,
}
DATA = {"poisson": as_counts, "negative_binomial": as_counts, "binomial": as_counts, "von_mises": as_angles}
DISCRETE = ("categorical", "bitwise_categorical", "discretized_gaussian", "discretized_logistic", "logistic_mixture")


if __name__ == "__main__":
    sys.exit(main())
