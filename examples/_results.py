"""What the examples with committed results share: a table as Markdown and CSV, and where its numbers come from."""

import csv
import importlib.util
import io
import math
import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from calibrax._files import write_text
from calibrax.runs import folder as run_folder
from calibrax.runs.settings import ConfigError

Row = Mapping[str, str | float | tuple[float, ...]]  # a pair is a mean and its standard error


def check_installed(*modules: str) -> None:
    """Raise ConfigError, with one line that says what to install, if a module is missing."""
    if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
        names = ", ".join(missing)
        raise ConfigError(f"this needs {names}, of the extra examples: pip install '.[examples]' in the checkout")


def markdown(rows: Sequence[Row], forms: Mapping[str, str]) -> str:
    """A Markdown table with the keys of the first row as headings; `forms` has the format of each column of numbers."""

    def cell(name, value):
        if isinstance(value, str):
            return value
        numbers = value if isinstance(value, tuple) else (value,)
        form = forms[name]
        if not math.isfinite(numbers[0]):
            return "–"
        return " ± ".join(format(number, spec) for number, spec in zip(numbers, (form, form.lstrip("+")), strict=False))

    headings = list(rows[0])
    ruler = ["---:" if name in forms else "---" for name in headings]
    cells = [[cell(name, value) for name, value in row.items()] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in [headings, ruler, *cells])


def flat(rows: Sequence[Row]) -> list[dict[str, str | float]]:
    """The rows in full precision, with the standard error of a column under a name of its own, `... stderr`."""
    found = []
    for row in rows:
        found.append({})
        for name, value in row.items():
            numbers = value if isinstance(value, tuple) else (value,)
            found[-1] |= dict(zip((name, f"{name} stderr"), numbers, strict=False))
    return found


def as_csv(rows: Sequence[Row]) -> str:
    """The table in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(flat(rows)[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat(rows))
    return text.getvalue()


def write(
    folder: str | Path,
    title: str,
    remark: str,
    rows: Sequence[Row],
    forms: Mapping[str, str],
    *,
    module: str,
    argv: Sequence[str],
    settings: Mapping[str, Any],
    packages: Sequence[str],
    started: float,
) -> None:
    """Print the table, and write `table.md`, `table.csv` and `provenance.json` into a folder.

    Args:
      folder: created if it is missing.
      title, remark: above and below the table.
      rows, forms: as for `markdown`.
      module, argv: the command that was run.
      settings: numbers that the results depend on, seeds included.
      packages: whose versions matter beside those that this library builds on.
      started: `time.monotonic()` at the start.
    """
    table = markdown(rows, forms)
    print(table)
    folder = Path(folder)
    write_text(folder / "table.md", f"# {title}\n\n{table}\n\n{remark}\n")
    write_text(folder / "table.csv", as_csv(rows))
    provenance = {
        "table": title,
        "command": shlex.join(["python", "-m", module, *argv]),
        "settings": dict(settings),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": run_folder.commit(),
        "versions": {"python": platform.python_version()}
        | run_folder.package_versions()
        | {package: metadata.version(package) for package in packages},
        "devices": [f"{device.platform}: {device.device_kind}" for device in jax.devices()],
        "cores": os.cpu_count(),
        "seconds": round(time.monotonic() - started, 1),
        "CPU seconds": round(sum(os.times()[:2]), 1),
        "results": flat(rows),
    }
    run_folder.write_json(folder / "provenance.json", provenance)
    print(f"written to {folder}")
