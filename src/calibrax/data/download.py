"""Downloads that end: limits on silence, slowness and size, a checksum, and no torn file under a good name."""

import contextlib
import email.utils
import errno
import hashlib
import http.client
import os
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from calibrax._files import sync_folder
from calibrax.data.types import DataError

CHUNK = 1 << 20
LARGEST = 1 << 28  # bytes, of a file whose size nobody has published
SLOWEST = 1 << 10  # bytes a second
WAITS = (1.0, 4.0, 16.0)  # seconds before a further attempt
LONGEST_WAIT = 60.0  # seconds that a server may ask for
LASTING = str, socket.gaierror, ConnectionRefusedError, PermissionError, ssl.SSLCertVerificationError, ValueError
DISK_ERRORS = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EISDIR
PASSING = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a moment later


class Remote(NamedTuple):
    """A file on the net; size and SHA-256 are None where nobody has published them."""

    url: str
    size: int | None = None  # bytes
    sha256: str | None = None


class _Passing(Exception):
    """A fault that may be gone at the next attempt."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait  # seconds, where the server says


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows a redirection within what `_check_scheme` allows."""

    def __init__(self, remote: Remote):
        self.remote = remote

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        try:
            _check_scheme(newurl, self.remote, " is sent on to")
        except DataError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(remote: Remote, path: Path, *, timeout: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Download to `path`, which appears only once complete and checked.

    Faults that may pass (a connection that breaks off or falls silent, a server that is busy) are met with three
    further attempts, after 1, 4 and 16 seconds or when the server says. Where a SHA-256 is known, a partial file stays
    beside `path` as `NAME.part`, and the next attempt or call goes on from there where the server allows. Certificates
    are verified; a file without a known SHA-256 comes by https alone, however it is redirected.

    Args:
      remote: what to fetch.
      path: where to put it; its folder is made, and removed again if nothing came.
      timeout: seconds of silence, or of less than 1 KiB a second, after which an attempt ends.
      sleep: waits so many seconds.

    Raises:
      DataError: if the server cannot be reached, breaks off time and again, or sends something else.
    """
    _check_scheme(remote.url, remote, "")
    with _folder_of(path):
        _check_space(remote, path)
        partial = path.with_name(path.name + ".part")
        for wait in (*WAITS, None):
            try:
                _attempt(remote, partial, timeout)
                break
            except _Passing as fault:
                if wait is None:
                    raise DataError(f"{fault}; gave up after {len(WAITS) + 1} attempts") from fault
                wait = wait if fault.wait is None else fault.wait
                print(f"calibrax: {fault}; trying again in {wait:.0f} s", file=sys.stderr)
                sleep(wait)
        os.replace(partial, path)
        sync_folder(path.parent)


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_scheme(url: str, remote: Remote, how: str) -> None:
    scheme = url.partition(":")[0].lower()
    if scheme != "https" and not (scheme == "http" and remote.sha256 is not None):
        what = "https" if remote.sha256 is None else "https or http"
        raise DataError(f"{remote.url}{how}{f' {url}' if how else ''}: expected {what}")


def _attempt(remote: Remote, partial: Path, timeout: float) -> None:
    """Fetch what is missing from a partial file, and check the whole."""
    done = partial.stat().st_size if partial.exists() and remote.sha256 is not None else 0
    if remote.size is None or done != remote.size:
        done = _request(remote, partial, done if done < _limit(remote) else 0, timeout)
    size = partial.stat().st_size
    if remote.size is not None and size < remote.size:
        raise _Passing(f"{remote.url} broke off after {size} of {remote.size} bytes")
    if remote.sha256 is not None and file_sha256(partial) != remote.sha256:
        partial.unlink()
        message = f"{remote.url} is not the file it should be: its SHA-256 differs from {remote.sha256[:12]}..."
        raise _Passing(f"{message} (begun at an earlier attempt)", wait=0) if done else DataError(message)


def _request(remote: Remote, partial: Path, done: int, timeout: float) -> int:
    """One request, into the partial file from byte `done` on; the byte from which the server sent."""
    opener = urllib.request.build_opener(_NoDowngrade(remote))
    try:
        request = urllib.request.Request(remote.url, headers={"Range": f"bytes={done}-"} if done else {})
        with opener.open(request, timeout=timeout) as response:
            start = _start(response, done)
            _receive(remote, response, partial, start, timeout)
            return start
    except urllib.error.HTTPError as error:
        error.close()
        message = " ".join(f"{remote.url} answers {error.code} {error.reason}".split())
        if error.code == 416:  # the partial file is no part of what is there now
            partial.unlink(missing_ok=True)
            raise _Passing(message, wait=0) from error
        if error.code not in PASSING:
            partial.unlink(missing_ok=True)
            raise DataError(message) from error
        wait = _asked_wait(error.headers.get("Retry-After"))
        if wait is not None and wait > LONGEST_WAIT:
            raise DataError(f"{message}, and asks to wait {wait:.0f} s") from error
        raise _Passing(message, wait) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        message = " ".join(f"{remote.url} cannot be fetched: {reason or type(error).__name__}".split())
        if isinstance(reason, LASTING) or getattr(reason, "errno", None) in DISK_ERRORS:
            raise DataError(message) from error
        raise _Passing(message) from error


def _start(response, done: int) -> int:
    """The byte from which the server sends."""
    if response.status != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not found or int(found[1]) != done:
        raise OSError("the server sends another part than was asked for")
    return done


def _receive(remote: Remote, response, partial: Path, start: int, timeout: float) -> None:
    from tqdm import tqdm

    expected, limit = response.length, _limit(remote)
    _check_size(remote, partial, start + (expected or 0))
    with (
        partial.open("ab" if start else "wb") as file,
        tqdm(desc=partial.stem, initial=start, total=remote.size, unit="B", unit_scale=True, leave=False) as bar,
    ):
        received, since, at_since = start, time.monotonic(), start
        while chunk := response.read1(CHUNK):
            received += len(chunk)
            if received > limit:
                break
            file.write(chunk)
            bar.update(len(chunk))
            if (now := time.monotonic()) - since > timeout:
                if received - at_since < SLOWEST * timeout:
                    raise OSError(f"less than {SLOWEST} bytes a second came")
                since, at_since = now, received
        file.flush()
        os.fsync(file.fileno())
    _check_size(remote, partial, received)
    if expected is not None and received - start < expected:
        raise OSError(f"the connection broke off after {received - start} of {expected} bytes")


def _limit(remote: Remote) -> int:
    return LARGEST if remote.size is None else remote.size


def _check_size(remote: Remote, partial: Path, size: int) -> None:
    if size > _limit(remote):
        partial.unlink(missing_ok=True)
        raise DataError(f"{remote.url} is not the file it should be: it has more than {_limit(remote)} bytes")


def _asked_wait(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number, or a date."""
    if value is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        if value.strip().isdigit():
            return float(value)
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


@contextlib.contextmanager
def _folder_of(path: Path) -> Iterator[None]:
    """Makes the folder of a file, and takes away what it made where that is empty after an error."""
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path.parent} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # a partial file is in it
            for folder in made:
                folder.rmdir()
        raise


def _check_space(remote: Remote, path: Path) -> None:
    free = shutil.disk_usage(path.parent).free
    if remote.size is not None and free < 2 * remote.size:
        raise DataError(f"{path.parent} has {free >> 20} MiB free; {path.name} needs {2 * remote.size >> 20} MiB")
