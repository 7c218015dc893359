"""`import calibrax` is light, and imports run one way."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "calibrax"

# What each part may import of the others; itself always.
MAY_IMPORT = {
    "running_average": set(),
    "likelihoods": {"running_average"},
    "objectives": {"likelihoods"},
    "linen": {"likelihoods"},
    "nnx": {"likelihoods"},
    "interop": {"likelihoods"},
    "models": {"likelihoods", "objectives"},
    "_files": set(),
    "_malloc": set(),
    "_terminal": set(),
    "data": {"_files", "_terminal"},
    "training": {"_files", "_malloc", "_terminal", "likelihoods", "objectives", "models"},
    "evaluation": {"_files", "_terminal", "likelihoods", "objectives", "models", "training"},
    "runs": {
        "_files", "_malloc", "_terminal", "running_average", "data", "evaluation", "likelihoods", "models", "training",
        "__init__",
    },
    "cli": {"_malloc", "_terminal", "data", "evaluation", "runs", "training", "__init__"},
    "__main__": {"cli"},
    "__init__": {"likelihoods", "objectives", "running_average"},
}  # fmt: skip


def modules():
    return sorted(SOURCE.rglob("*.py"))


def part_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_parts(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "calibrax":
                known = len(parts) > 1 and parts[1] in MAY_IMPORT
                yield parts[1] if known else "__init__"


def test_every_part_is_listed():
    assert {part_of(path) for path in modules()} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path):
    part = part_of(path)
    assert set(imported_parts(path)) <= MAY_IMPORT[part] | {part}


IMPORT = """
import sys, time
import jax
before = {name.split(".")[0] for name in sys.modules}
start = time.perf_counter()
import calibrax
print(time.perf_counter() - start)
print(*sorted({name.split(".")[0] for name in sys.modules} - before))
"""


def test_importing_calibrax_loads_jax_and_jaxtyping_alone_and_is_quick():
    seconds = []
    for _ in range(5):  # the least of several, because the machine may be busy
        done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
        taken, *names = done.stdout.split()
        assert names == ["calibrax", "jaxtyping"]  # besides JAX, with NumPy
        seconds.append(float(taken))
        if seconds[-1] < 0.15:
            break
    assert min(seconds) < 0.15


def test_public_names_exist():
    import calibrax as cx

    for module in (cx, cx.likelihoods):
        for name in module.__all__:
            assert hasattr(module, name), name
