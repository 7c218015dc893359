"""Kill training at many moments, resume it, and compare the result with an uninterrupted run, bit by bit.

Command:   make faults                       (or: python -m benchmarks.faults --help)

SIGKILL strikes in six phases: start (imports, data, compilation), steps, evaluation, saving (also while orbax's threads
write), pictures, and the log (also its rotation when a run is resumed). The moment within a phase is random: before one
of its file operations, or after some time. After each kill, `calibrax train --resume` must end with exit code 0, and
the parameters, optimizer, likelihood state, metrics.jsonl and pictures must be identical to the bit, without an extra
file. In other runs, SIGTERM must end the process with exit code 0 within 5 seconds, and the resumed run must be
identical too.
"""

import argparse
import concurrent.futures
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SHARES = {"start": 10, "steps": 20, "evaluation": 15, "saving": 30, "pictures": 10, "log": 15}  # kills per hundred
GRACE = 5.0  # seconds from SIGTERM to the end of the process
EXIT_CODES: dict[int, int] = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 0, signal.SIGINT: 130}
NUM_STEPS = 12
SETTINGS = ["--batch-size", "16", "--epochs", "4", "--save-every", "2", "--likelihood", "optimal-sigma"]


class Fault(NamedTuple):
    """A signal in one phase of a run.

    Attributes:
      phase: one of `SHARES`.
      signal: SIGKILL, SIGTERM or SIGINT.
      entry: strike when the phase is entered for the n-th time, from 1.
      after: strike after this many file operations of the phase or, if `timed`, after this many seconds.
      timed: whether `after` is in seconds.
      on_resume: strike the process that resumes a run after an earlier kill.
    """

    phase: str
    signal: int
    entry: int
    after: float
    timed: bool
    on_resume: bool = False

    def __str__(self) -> str:
        where = f"{self.after:.3f} s" if self.timed else f"file operation {self.after:.0f}"
        resumed = " of a resumed run" if self.on_resume else ""
        return f"{signal.Signals(self.signal).name} in {self.phase} {self.entry}{resumed}, {where}"


class Outcome(NamedTuple):
    """The outcome of one fault."""

    fault: Fault
    trouble: str | None  # what went wrong, in one line; None if nothing did
    struck: bool  # False if the run ended before the fault's moment
    seconds: float  # from the signal to the end of the process


def draw_faults(profile: dict[str, list[dict[str, float]]], num_kills: int, num_terms: int, seed: int) -> list[Fault]:
    """Draw faults: phases in proportion to `SHARES`, and random entries, file operations and times within them.

    Args:
      profile: for each phase of an uninterrupted run, and each time it was entered, its file operations and seconds.
      num_kills: number of SIGKILLs.
      num_terms: number of SIGTERMs.
      seed: of the random moments.
    """
    rng, faults = random.Random(seed), []
    for kind, number in ((signal.SIGKILL, num_kills), (signal.SIGTERM, num_terms)):
        shares = {name: share for name, share in SHARES.items() if kind == signal.SIGKILL or name != "start"}
        phases = spread(shares, number)
        for index, phase in enumerate(phases):
            entry = rng.randrange(len(profile[phase]))
            seen = profile[phase][entry]
            timed = phase in ("start", "steps") or seen["operations"] == 0 or rng.random() < 0.4
            after = rng.uniform(0, seen["seconds"]) if timed else rng.randrange(int(seen["operations"]))
            on_resume = phase == "log" and index % 2 == 0 and kind == signal.SIGKILL
            if on_resume:  # a resumed run rotates its log first
                entry, timed, after = 0, False, rng.randrange(6)
            faults.append(Fault(phase, kind, entry + 1, after, timed, on_resume))
    return faults


def spread(shares: dict[str, int], number: int) -> list[str]:
    """A list of `number` phases, in proportion to the shares."""
    taken: Counter[str] = Counter()
    phases = []
    for _ in range(number):
        phase = max(shares, key=lambda name: shares[name] / (taken[name] + 1))
        taken[phase] += 1
        phases.append(phase)
    return phases


def run_child(folder: Path, data: Path, *, resume: bool = False, fault: Fault | None = None) -> tuple[int, dict, str]:
    """Train in a new process. Returns its exit code, its report and its stderr."""
    train = ["train", "--resume"] if resume else ["train", "--data", str(data), *SETTINGS]
    train += ["--run-dir", str(folder / "run")]
    plan = json.dumps(None if fault is None else fault._asdict())
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.faults_worker", plan, str(report), *train]
    process = subprocess.run(command, capture_output=True, text=True, timeout=600)
    content = json.loads(report.read_text()) if report.exists() else {}
    return process.returncode, content | {"ended": time.time()}, process.stderr


def snapshot(folder: Path) -> dict[str, Any]:
    """The content of every file of a run, without what depends on the time of day."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or name.startswith("tensorboard/events"):
            continue
        if name.startswith("checkpoints/"):
            name = "/".join(name.split("/")[:2])  # the arrays of a checkpoint are compared by their digest
            files[name] = None
        elif name == "config.json":
            files[name] = json.loads(path.read_text())["config"] | {"run_dir": None}
        elif name == "results.json":
            files[name] = json.loads(path.read_text()) | {"training": None}
        else:
            files[name] = path.read_bytes()
    return files


def differences(found: dict[str, Any], expected: dict[str, Any]) -> str | None:
    """The first difference between two snapshots, or None."""
    for name in sorted({*found, *expected}):
        if name not in expected:
            return f"a stray file {name}"
        if name not in found:
            return f"no file {name}"
        if found[name] != expected[name]:
            return f"another {name}"
    return None


def try_fault(fault: Fault, folder: Path, data: Path, expected: dict[str, Any], digest: str) -> Outcome:
    """Strike a run (for `on_resume`, kill it and strike the resumed run), resume it, and compare."""
    folder.mkdir()
    if fault.on_resume:
        first = Fault("steps", signal.SIGKILL, 8, 0, timed=True)
        run_child(folder, data, fault=first)
    code, report, stderr = run_child(folder, data, resume=fault.on_resume, fault=fault)
    struck, seconds = "struck" in report, report["ended"] - report.get("struck", report["ended"])

    def outcome(trouble: str | None) -> Outcome:
        return Outcome(fault, trouble, struck, seconds)

    if code != (EXIT_CODES[fault.signal] if struck else 0):
        return outcome(f"exit code {code}: {last_line(stderr)}")
    if fault.signal == signal.SIGTERM and seconds > GRACE:
        return outcome(f"{seconds:.1f} s from SIGTERM to the end")
    has_begun = (folder / "run" / "config.json").exists()
    code, report, stderr = run_child(folder, data, resume=has_begun)
    if code != 0:
        return outcome(f"exit code {code} on resuming: {last_line(stderr)}")
    if report["digest"] != digest:
        return outcome("other parameters, optimizer or likelihood state")
    return outcome(differences(snapshot(folder / "run"), expected))


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["nothing said"])[-1]


def check_log(path: Path) -> None:
    """Assert that the log has every training step once, in order."""
    steps = [row["step"] for row in map(json.loads, path.read_text().splitlines()) if row["split"] == "train"]
    assert steps == list(range(1, NUM_STEPS + 1)), steps


def write_images(path: Path) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (68, 8, 8, 3), dtype=np.uint8)
    np.savez(path, train=images[:48], test=images[48:])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs (default 100)")
    parser.add_argument("--terms", type=int, default=20, help="SIGTERMs (default 20)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(argv)
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="calibrax-faults-") as name:
        folder = Path(name)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compilations"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        write_images(data := folder / "images.npz")
        for reference in ("warm", "whole"):  # the second one finds its programs compiled, and measures the phases
            (folder / reference).mkdir()
            code, report, stderr = run_child(folder / reference, data)
            if code != 0:
                print(f"the uninterrupted run failed: {last_line(stderr)}", file=sys.stderr)
                return 1
        expected, digest = snapshot(folder / "whole" / "run"), report["digest"]
        check_log(folder / "whole" / "run" / "metrics.jsonl")
        faults = draw_faults(report["profile"], options.kills, options.terms, options.seed)
        outcomes = []
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            jobs = [
                pool.submit(try_fault, fault, folder / f"fault{index}", data, expected, digest)
                for index, fault in enumerate(faults)
            ]
            for number, job in enumerate(concurrent.futures.as_completed(jobs), start=1):
                outcomes.append(outcome := job.result())
                left = (time.monotonic() - begin) / number * (len(faults) - number) / 60
                verdict = outcome.trouble or ("ok" if outcome.struck else "ok, but the run had ended before")
                print(f"{number:4}/{len(faults)}  {outcome.fault}: {verdict}  [{left:.0f} min left]", flush=True)
    print(summary(outcomes, time.monotonic() - begin))
    return 1 if any(outcome.trouble for outcome in outcomes) else 0


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """A Markdown table of how many faults struck in each phase and how many runs came out identical."""
    lines = ["", "| signal | phase | struck | resumed, identical to the bit |", "|---|---|---:|---:|"]
    for kind in (signal.SIGKILL, signal.SIGTERM):
        for phase in SHARES:
            some = [outcome for outcome in outcomes if outcome.fault[:2] == (phase, kind)]
            if some:
                struck, identical = sum(o.struck for o in some), sum(o.trouble is None for o in some if o.struck)
                lines.append(f"| {kind.name} | {phase} | {struck} | {identical} |")
    longest = max((o.seconds for o in outcomes if o.struck and o.fault.signal == signal.SIGTERM), default=0.0)
    lines += ["", f"longest time from SIGTERM to the end: {longest:.1f} s; all in {seconds / 60:.1f} min"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
