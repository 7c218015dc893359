"""Downloads that end: a time limit on silence, a checksum, and no torn file under a good name."""

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import NamedTuple

from calibrax.data.types import DataError

CHUNK = 1 << 20


class Remote(NamedTuple):
    """A file on the net; size and SHA-256 are None where nobody has published them."""

    url: str
    size: int | None = None  # bytes
    sha256: str | None = None


def fetch(remote: Remote, path: Path, *, timeout: float) -> None:
    """Download to `path`, which appears only once complete and checked.

    A partial file stays beside it as `NAME.part`, and the next call goes on from there where the server allows.

    Args:
      remote: what to fetch.
      path: where to put it.
      timeout: seconds of silence after which to give up.

    Raises:
      DataError: if the server cannot be reached, breaks off, or sends something else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent} cannot be made: {error.strerror}") from error
    partial = path.with_name(path.name + ".part")
    _check_space(remote, path)
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(remote.url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            resumed = response.status == 206
            _receive(response, partial, append=resumed, name=path.name, already=done if resumed else 0, of=remote.size)
    except urllib.error.HTTPError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{remote.url} answers {error.code} {error.reason}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{remote.url} cannot be fetched: {reason}".replace("\n", " ")) from error
    if remote.size is not None and partial.stat().st_size < remote.size:
        raise DataError(f"{remote.url} broke off after {partial.stat().st_size} of {remote.size} bytes; try again")
    if remote.sha256 is not None and file_sha256(partial) != remote.sha256:
        partial.unlink()
        raise DataError(f"{remote.url} is not the file it should be: its SHA-256 differs from {remote.sha256[:12]}...")
    os.replace(partial, path)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _receive(response, partial: Path, *, append: bool, name: str, already: int, of: int | None) -> None:
    from tqdm import tqdm

    expected = response.length
    with (
        partial.open("ab" if append else "wb") as file,
        tqdm(desc=name, initial=already, total=of, unit="B", unit_scale=True, leave=False) as bar,
    ):
        received = 0
        while chunk := response.read(CHUNK):
            file.write(chunk)
            received += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    if expected is not None and received < expected:
        raise OSError(f"the connection broke off after {received} of {expected} bytes")


def _check_space(remote: Remote, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    if remote.size is not None and free < 2 * remote.size:
        raise DataError(f"{path.parent} has {free >> 20} MiB free; {path.name} needs {2 * remote.size >> 20} MiB")
