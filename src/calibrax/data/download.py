"""Downloads with limits on silence, slowness and size, checked by a checksum; the file appears only when complete."""

import contextlib
import email.utils
import errno
import hashlib
import http.client
import os
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from calibrax._files import sync_folder
from calibrax._terminal import progress_bar
from calibrax.data.types import DataError

CHUNK = 1 << 20
LARGEST = 1 << 28  # bytes, for a file whose size is not published
SLOWEST = 1 << 10  # bytes per second
WAITS = (1.0, 4.0, 16.0)  # seconds before each further attempt
LONGEST_WAIT = 60.0  # seconds that a server may ask to wait
PERMANENT = str, socket.gaierror, ConnectionRefusedError, PermissionError, ssl.SSLCertVerificationError, ValueError
DISK_ERRORS = errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)  # worth another attempt


class Remote(NamedTuple):
    """A file on the internet; size and SHA-256 are None if they are not published."""

    url: str
    size: int | None = None  # bytes
    sha256: str | None = None


class _TransientError(Exception):
    """An error that another attempt may not meet."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait  # seconds, if the server names them


class _NoDowngrade(urllib.request.HTTPRedirectHandler):
    """Follows redirections only to addresses that `_check_scheme` allows."""

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
    """Download a file to `path`, which appears only when it is complete and checked.

    After a transient error (a connection that breaks off or falls silent, a busy server) there are three further
    attempts, after 1, 4 and 16 seconds or when the server says. If the SHA-256 is known, a partial file stays beside
    `path` as `NAME.part`, and the next attempt or call continues it if the server supports that. Certificates are
    verified. A file whose SHA-256 is not known is fetched only by https, redirections included. The folder of `path` is
    created when the server answers. An attempt ends after `timeout` seconds of silence, or of under 1 KiB each.

    Raises:
      DataError: if the server cannot be reached, keeps breaking off, or sends another file.
    """
    _check_scheme(remote.url, remote, "")
    free = free_space(path.parent)
    if remote.size is not None and free < 2 * remote.size:
        raise DataError(f"{path.parent} has {free >> 20} MiB free; {path.name} needs {2 * remote.size >> 20} MiB")
    partial = path.with_name(path.name + ".part")
    for wait in (*WAITS, None):
        try:
            _attempt(remote, partial, timeout)
            break
        except _TransientError as error:
            if wait is None:
                raise DataError(f"{error}; gave up after {len(WAITS) + 1} attempts") from error
            wait = wait if error.wait is None else error.wait
            print(f"calibrax: {error}; trying again in {wait:.0f} s", file=sys.stderr)
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
    """Fetch the bytes that the partial file lacks, and check the whole."""
    done = partial.stat().st_size if partial.exists() and remote.sha256 is not None else 0
    if remote.size is None or done != remote.size:
        done = _request(remote, partial, done if done < _limit(remote) else 0, timeout)
    size = partial.stat().st_size
    if remote.size is not None and size < remote.size:
        raise _TransientError(f"{remote.url} broke off after {size} of {remote.size} bytes")
    if remote.sha256 is not None and file_sha256(partial) != remote.sha256:
        partial.unlink()
        message = f"{remote.url} is not the file it should be: its SHA-256 differs from {remote.sha256[:12]}..."
        raise _TransientError(f"{message} (begun at an earlier attempt)", wait=0) if done else DataError(message)


def _request(remote: Remote, partial: Path, done: int, timeout: float) -> int:
    """Request the file from byte `done` on; return the byte at which the server began."""
    opener = urllib.request.build_opener(_NoDowngrade(remote))
    try:
        request = urllib.request.Request(remote.url, headers={"Range": f"bytes={done}-"} if done else {})
        with opener.open(request, timeout=timeout) as response:
            start = done if response.status == 206 else 0  # if it sends other bytes, the checksum differs
            _receive(remote, response, partial, start, timeout)
            return start
    except urllib.error.HTTPError as error:
        error.close()
        message = " ".join(f"{remote.url} answers {error.code} {error.reason}".split())
        if error.code == 416:  # the partial file is not a part of the file that is there now
            partial.unlink(missing_ok=True)
            raise _TransientError(message, wait=0) from error
        if error.code not in TRANSIENT_STATUS:
            partial.unlink(missing_ok=True)
            raise DataError(message) from error
        wait = _asked_wait(error.headers.get("Retry-After"))
        if wait is not None and wait > LONGEST_WAIT:
            raise DataError(f"{message}, and asks to wait {wait:.0f} s") from error
        raise _TransientError(message, wait) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        message = " ".join(f"{remote.url} cannot be fetched: {reason or type(error).__name__}".split())
        if isinstance(reason, PERMANENT) or getattr(reason, "errno", None) in DISK_ERRORS:
            raise DataError(message) from error
        raise _TransientError(message) from error


def _receive(remote: Remote, response, partial: Path, start: int, timeout: float) -> None:
    expected, limit = response.length, _limit(remote)
    _check_size(remote, partial, start + (expected or 0))
    partial.parent.mkdir(parents=True, exist_ok=True)
    with (
        partial.open("ab" if start else "wb") as file,
        progress_bar(desc=partial.stem, initial=start, total=remote.size, unit="B", leave=False) as bar,
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
    """Seconds to wait according to a Retry-After header, which holds a number or a date; None if it holds neither."""
    if value is not None and value.strip().isdecimal():
        return float(value)
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, email.utils.parsedate_to_datetime(value or "").timestamp() - time.time())
    return None


def free_space(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(there).free
