"""The process that `faults` strikes: `calibrax train` that sends itself a signal in one of its phases.

    python -m benchmarks.faults_worker FAULT REPORT train ...

FAULT is a `faults.Fault` as JSON, or null. REPORT is the file to write: the time at which the fault struck or, at the
end, the duration of each phase and a digest of the trained state.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

BEGIN = time.monotonic()
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.truncate"}


class Fuse:
    """Counts the file operations and the time of each phase, and sends the fault's signal at its moment."""

    def __init__(self, fault, report: Path):
        self.fault, self.report = fault, report
        self.profile = defaultdict(list)
        self.current = []  # open phases, outermost first: (record, whether the fault belongs to this entry)

    @contextlib.contextmanager
    def phase(self, name):
        entry = len(self.profile[name]) + 1
        record = {"operations": 0, "seconds": 0.0}
        self.profile[name].append(record)
        begin, lit = time.monotonic(), self.is_lit(name, entry)
        if lit and self.fault is not None and self.fault["timed"]:
            self.after(self.fault["after"])
        self.current.append((record, lit))
        try:
            yield
        finally:
            self.current.pop()
            record["seconds"] = time.monotonic() - begin

    def is_lit(self, name, entry):
        return self.fault is not None and (self.fault["phase"], self.fault["entry"]) == (name, entry)

    def after(self, seconds):
        timer = threading.Timer(max(0.0, seconds), self.strike)
        timer.daemon = True
        timer.start()

    def hook(self, event, args):
        if event not in OPERATIONS:
            return
        for record, lit in list(self.current):
            fault = self.fault if lit else None  # also None once it has struck
            if fault is not None and not fault["timed"] and record["operations"] == fault["after"]:
                self.strike()
            record["operations"] += 1

    def strike(self):
        fault, self.fault = self.fault, None
        if fault is not None:
            self.report.write_text(json.dumps({"struck": time.time()}))
            os.kill(os.getpid(), fault["signal"])

    def wrap(self, owner, name, phase):
        """Count every call of a function as an entry of a phase."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args, **kwargs):
            with self.phase(phase):
                return original(*args, **kwargs)

        setattr(owner, name, wrapped)


def digest(folder):
    """A hash of every array of the newest checkpoint, with names, dtypes and shapes."""
    import jax
    import numpy as np

    from calibrax.runs.run import Run

    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(Run.open(folder).saved_state()):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def main(plan, report, *arguments):
    report, fault = Path(report), json.loads(plan)
    fuse = Fuse(fault, report)
    if fuse.is_lit("start", 1):
        fuse.after(fault["after"] - (time.monotonic() - BEGIN))
    sys.addaudithook(fuse.hook)

    from calibrax import cli
    from calibrax.runs import epoch_images, evaluate, run
    from calibrax.training import Checkpoints, MetricsLog
    from calibrax.training.stepping import StepsInALoop

    take = StepsInALoop.__call__

    def counted(self, state, step, num):
        if not fuse.profile["start"]:
            fuse.profile["start"].append({"operations": 0, "seconds": time.monotonic() - BEGIN})
        with fuse.phase("steps"):
            import jax

            return jax.block_until_ready(take(self, state, step, num))

    StepsInALoop.__call__ = counted
    fuse.wrap(Checkpoints, "save", "saving")
    fuse.wrap(run, "evaluate_likelihood", "evaluation")
    for owner, name in (
        (epoch_images, "save_grid"),
        (epoch_images, "save_reconstructions"),
        (evaluate, "save_training_curves"),
    ):
        fuse.wrap(owner, name, "pictures")
    for name in ("_drop_after", "flush", "evaluation", "sync"):
        fuse.wrap(MetricsLog, name, "log")

    code = cli.main(arguments)
    if "struck" not in (json.loads(report.read_text()) if report.exists() else {}):
        folder = arguments[arguments.index("--run-dir") + 1]
        report.write_text(json.dumps({"profile": fuse.profile, "digest": digest(folder)}))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
