"""A manifest of a folder: the size and SHA-256 of each file, from which damaged files are found later."""

import hashlib
from pathlib import Path

from calibrax._files import write_text

MANIFEST_FILE = "manifest.sha256"


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files under `folder`: one line per file with SHA-256, size in bytes and name.

    The first line is the SHA-256 of the others, so that damage to the manifest itself is not blamed on another file.
    """
    lines = [f"{_sha256(folder / name)} {(folder / name).stat().st_size} {name}\n" for name in _files(folder)]
    body = "".join(lines)
    write_text(folder / MANIFEST_FILE, f"{_text_sha256(body)}\n{body}")


def find_damage(folder: Path) -> str | None:
    """The first file that differs from the manifest and how it differs, in one line; None if all files are intact.

    Files that the manifest does not name are ignored.
    """
    try:
        content = (folder / MANIFEST_FILE).read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return f"{MANIFEST_FILE}: other content"
    except OSError as error:
        return f"{MANIFEST_FILE}: {_why(error)}"
    checksum, _, body = content.partition("\n")
    if checksum != _text_sha256(body):
        return f"{MANIFEST_FILE}: other content"
    for line in body.splitlines():
        sha256, size, name = line.split(" ", 2)
        wrong = _compare(folder / name, int(size), sha256)
        if wrong is not None:
            return f"{name}: {wrong}"
    return None


def _files(folder: Path) -> list[str]:
    """File names relative to the folder, with slashes."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != MANIFEST_FILE)


def _compare(path: Path, size: int, sha256: str) -> str | None:
    try:
        there = path.stat().st_size
        if there != size:
            return f"{size - there} bytes short" if there < size else f"{there - size} bytes too many"
        return None if _sha256(path) == sha256 else "other content"
    except OSError as error:
        return _why(error)


def _why(error: OSError) -> str:
    return "missing" if isinstance(error, FileNotFoundError) else error.strerror or "cannot be read"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
