"""Build the wheel and the sdist into dist/, and use the wheel as a new user would.

Command:   make wheel                        (or: python3.11 benchmarks/wheel.py)

The sdist must build the same wheel, and `twine check` must accept both. The wheel is installed, with the versions of
constraints.txt, into a new virtual environment outside of the repository: first alone, where the library works and the
command line names the extra; then with the extra `train`, where a run is trained, resumed, evaluated and sampled, and
mypy checks a program that uses the library. This needs only a Python interpreter and pip's index, and takes a few
minutes on two cores.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = ("calibrax/__init__.py", "calibrax/__main__.py", "calibrax/py.typed", "calibrax/data/datasets/svhn.py")
IN_SDIST = ("pyproject.toml", "README.md", "LICENSE", "src/calibrax/py.typed")
IMAGES = """
import numpy as np
rng = np.random.default_rng(0)
images = (128 + 40 * rng.normal(size=(60, 1, 1, 1)) * rng.normal(size=(8, 8, 3)) + 4 * rng.normal(size=(60, 8, 8, 3)))
images = images.clip(0, 255).astype(np.uint8)
np.savez("images.npz", train=images[:50], test=images[50:])
"""
PROGRAM = """
import calibrax as cx
likelihood = cx.optimal_sigma()
params, state = likelihood.init((8, 8, 3))
reveal_type(likelihood)
"""
CORE = """
import jax
import calibrax as cx, calibrax.interop, calibrax.linen, calibrax.models, calibrax.nnx, calibrax.training
x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
(nll, _), _ = cx.linen.Decode(cx.optimal_sigma()).init_with_output(jax.random.key(1), x, x, train=True)
assert nll.shape == (2,)
"""
EXTRA = ("tensorflow-datasets", "tensorflow", "matplotlib", "grain", "array_record", "tensorboardX", "tyro")
TRAIN = ("train", "--data", "images.npz", "--run-dir", "run", "--batch-size", "16", "--epochs")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="calibrax-wheel-") as folder:
        wheel = build(Path(folder).resolve())
        work = Path(folder).resolve() / "work"
        work.mkdir()
        python = use_core(Path(folder).resolve(), work, wheel)
        use(python, work, wheel)
    print(f"{wheel.name} works")


def build(folder: Path) -> Path:
    """Build the sdist and the wheel, and check what is in them; returns the wheel."""
    python = new_environment(folder / "build", "hatchling", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    run(python, "-m", "hatchling", "build", "--directory", str(ROOT / "dist"), cwd=ROOT)
    (wheel,), (sdist,) = (ROOT / "dist").glob("*.whl"), (ROOT / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "sdist", filter="data")
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    (source,) = (folder / "sdist").iterdir()
    run(python, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "again"), cwd=source)
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(folder / "again" / wheel.name) as again:
        names = archive.namelist()
        check(sorted(names) == sorted(again.namelist()), "the wheel from the sdist holds other files")
    print(run(python, "-m", "twine", "check", "--strict", str(wheel), str(sdist), cwd=ROOT))
    print(*names, f"{sdist.name}: {len(in_sdist)} files", sep="\n")
    here = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")}
    check(here <= set(names), f"the wheel lacks {sorted(here - set(names))}")
    check(set(REQUIRED) <= set(names), f"the wheel lacks {sorted(set(REQUIRED) - set(names))}")
    check(set(IN_SDIST) <= in_sdist, f"the sdist lacks {sorted(set(IN_SDIST) - in_sdist)}")
    others = [name for name in names if not name.startswith("calibrax/") and ".dist-info/" not in name]
    check(not others, f"the wheel holds {others}")
    return wheel


def use_core(folder: Path, work: Path, wheel: Path) -> Path:
    """Install the wheel alone: the library works, and a command says in one line what it lacks."""
    python = new_environment(folder / "use", str(wheel))
    where = run(python, "-c", "import calibrax; print(calibrax.__file__)", cwd=work)
    check(str(folder) in where, f"calibrax is imported from {where}")
    packages = {re.split("==| @ ", line)[0] for line in run(python, "-m", "pip", "freeze", cwd=work).splitlines()}
    print(f"{len(packages)} packages:", *sorted(packages))
    check(not packages & set(EXTRA), f"the core brings {sorted(packages & set(EXTRA))}")
    run(python, "-c", CORE, cwd=work)
    refusal = run(python, "-m", "calibrax", "train", cwd=work, code=2)
    check("pip install '.[train]'" in refusal and len(refusal.splitlines()) == 1, refusal)
    return python


def use(python: Path, work: Path, wheel: Path) -> None:
    """Install the wheel with the extra `train`, and call every command that a new user would."""
    install(python, f"{wheel}[train]")
    calibrax = str(python.with_name("calibrax"))
    for program in ([python, "-m", "calibrax"], [calibrax]):
        check(run(*program, "--version", cwd=work) == f"calibrax {wheel.name.split('-')[1]}", "--version")
    run(python, "-c", IMAGES, cwd=work)
    check("-ELBO" in run(python, "-m", "calibrax", *TRAIN, "1", cwd=work), "train prints no table")
    check("step 9" in run(calibrax, "train", "--resume", "--run-dir", "run", "--epochs", "3", cwd=work), "resume")
    check("importance samples" in run(calibrax, "evaluate", "run", "--importance-samples", "3", cwd=work), "evaluate")
    check((work / run(calibrax, "sample", "run", cwd=work)).is_file(), "sample")
    check("street-digits" in run(calibrax, "data", "street-digits", cwd=work), "data")
    check("992,427" in run(calibrax, "models", cwd=work), "models")
    install(python, "mypy")
    (work / "program.py").write_text(PROGRAM, encoding="utf-8")
    found = run(python, "-m", "mypy", "--strict", "program.py", cwd=work)
    check(re.search(r"fallback=calibrax\.likelihoods\.\w+\.Likelihood", found) is not None, found)


def new_environment(folder: Path, *packages: str) -> Path:
    """A virtual environment with these packages, of the versions of constraints.txt; returns its interpreter."""
    run(sys.executable, "-m", "venv", str(folder), cwd=ROOT)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    install(python, *packages)
    return python


def install(python: Path, *packages: str) -> None:
    options = ("--quiet", "--disable-pip-version-check", "--constraint", str(ROOT / "constraints.txt"))
    run(python, "-m", "pip", "install", *options, *packages, cwd=ROOT)


def run(*command: str | Path, cwd: Path, code: int = 0) -> str:
    """The output of a command, or its errors if it is to fail with this code; ends if it exits with another one.

    Variables that make Python import from elsewhere are removed.
    """
    print("+", *(str(part).splitlines()[0] if str(part).strip() else part for part in command), flush=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    check(done.returncode == code, f"{done.stdout}{done.stderr}exit code {done.returncode}")
    return (done.stderr if code else done.stdout).strip()


def check(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"wheel: {message}")


if __name__ == "__main__":
    main()
