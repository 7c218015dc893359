"""Write files atomically: a file is either complete or not there, whatever interrupts the writing. And strict JSON."""

import contextlib
import json
import math
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON, which any reader takes: a number that is not finite becomes null."""
    return json.dumps(finite_or_none(value), indent=indent, allow_nan=False)


def from_json(text: str) -> Any:
    """The value of a JSON text. NaN and Infinity, which earlier versions wrote, are None like null.

    Raises:
      ValueError: if it is not JSON.
    """
    return json.loads(text, parse_constant=lambda name: None)


def finite_or_none(value: Any) -> Any:
    """The value of dicts, lists and scalars with None for each float that is NaN or infinite; tuples become lists."""
    if isinstance(value, dict):
        return {name: finite_or_none(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def printable(text: Path | str) -> str:
    """A path or name for tables, titles and reports: control characters, and bytes that are no text, as escapes."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def write_whole(path: str | Path, save: Callable[[Path], Any]) -> None:
    """Save a file under a temporary name, sync it to disk, and then rename it.

    If the process is killed or the power fails in between, the old file is still there. Missing parent folders are
    created. `save` is called with the temporary path, to which it writes the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = os.fsencode(path.name)
    # Most file systems take names of 255 bytes.
    temporary = path.with_name(f"{zlib.crc32(name):08x}.tmp" if 251 < len(name) < 256 else f"{path.name}.tmp")
    try:
        save(temporary)
        _sync(temporary, os.O_RDWR)  # Windows syncs only what is open for writing
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def sync_folder(folder: Path) -> None:
    """Sync the entries of a folder to disk, if the operating system supports it."""
    with contextlib.suppress(OSError):  # Windows opens no folder
        _sync(folder, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
