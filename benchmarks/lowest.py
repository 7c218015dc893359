"""Test with the lowest versions that pyproject.toml allows: likelihoods and Linen, then runs with the extra `train`.

Command:   make test-lowest                  (or: python3.11 benchmarks/lowest.py [core|train])

The versions are read from pyproject.toml; what those packages bring themselves is the newest that fits. Each of the two
sets is installed into a new virtual environment outside of the repository. The core's floors have files for Python 3.11
alone. This takes about 10 minutes on two cores.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOR_TESTS = ("pytest", "pytest-xdist", "hypothesis", "mpmath")
EXTRAS = {"core": (), "train": ("train", "numpyro", "distrax")}
TESTS = {
    "core": ("tests/likelihoods", "tests/test_decode.py", "tests/test_objectives.py", "tests/test_running_average.py"),
    "train": (
        "tests/runs",
        "tests/end_to_end/test_train_run.py",
        "tests/test_decode.py",
        "tests/test_interop.py",
        "tests/data/test_tfds_cache.py",
        "tests/data/test_batches.py",
        "tests/training/test_checkpoint.py",
        "tests/evaluation/test_figures.py",
    ),
}


def main(names: list[str]) -> None:
    for name in names or EXTRAS:
        with tempfile.TemporaryDirectory(prefix="calibrax-lowest-") as folder:
            python = environment(Path(folder), EXTRAS[name])
            jobs = ("-n", os.environ.get("JOBS", "2"))
            tests = subprocess.run([str(python), "-m", "pytest", *jobs, *TESTS[name]], cwd=ROOT)
        if tests.returncode:
            sys.exit(tests.returncode)


def floors(extras: tuple[str, ...]) -> dict[str, str]:
    """The lowest version of each package that the core and these extras name; an extra's goes before the core's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = project["dependencies"] + [line for extra in extras for line in project["optional-dependencies"][extra]]
    found = {}
    for requirement in named:
        match = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
        if match is None:
            sys.exit(f"lowest: {requirement} has no floor, such as {requirement}>=1.2")
        found[match[1]] = match[2]
    return found


def environment(folder: Path, extras: tuple[str, ...]) -> Path:
    """A new virtual environment with the floors installed; returns its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    pins = [f"{package}=={version}" for package, version in floors(extras).items()]
    print(f"Python {sys.version.split()[0]} with", *pins, flush=True)
    (folder / "floors.txt").write_text("\n".join(pins), encoding="utf-8")
    options = ("--quiet", "--disable-pip-version-check", "--constraint", str(folder / "floors.txt"))
    here = f".[{','.join(extras)}]" if extras else "."  # pip refuses `.[]`
    wanted = ("--editable", here, *FOR_TESTS)
    subprocess.run([str(python), "-m", "pip", "install", *options, *wanted], cwd=ROOT, check=True)
    return python


if __name__ == "__main__":
    main(sys.argv[1:])
