"""Write files atomically: a file is either complete or not there, whatever interrupts the writing."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: str | Path, save: Callable[[Path], Any]) -> None:
    """Save a file under a temporary name, sync it to disk, and then rename it.

    If the process is killed or the power fails in between, the old file is still there. Missing parent folders are
    created. `save` is called with the temporary path, to which it writes the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
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
