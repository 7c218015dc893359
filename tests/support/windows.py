"""What Windows lacks and refuses, emulated on Linux for the rest of a process; macOS lacks less.

Modules and functions of other systems are absent. No folder can be opened, no file that is open can be removed or
replaced, nothing that is open for reading alone can be synced, and a name may not contain a colon. Third parties must
still run on Linux, so `os.name` and what NumPy and JAX call on import are as they were.
"""

import builtins
import ctypes
import errno
import fcntl
import io
import os
import shutil
import signal
import sys

MODULES = "fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"
OF_OS = "fork", "forkpty", "geteuid", "getgid", "getpgid", "getuid", "killpg", "mkfifo", "posix_fallocate"
OF_OS += "sched_getaffinity", "setsid", "statvfs", "sync", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW"
OF_SIGNAL = "SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGUSR1", "SIGUSR2", "pthread_kill"

_F_GETFL, _fcntl = fcntl.F_GETFL, fcntl.fcntl
_real = {name: getattr(os, name) for name in ("open", "fsync", "unlink", "replace", "rename", "mkdir")}
_readlink, _listdir, _realpath, _isdir, _read = os.readlink, os.listdir, os.path.realpath, os.path.isdir, io.open


def _refuse(path, number=errno.EACCES):
    raise OSError(number, os.strerror(number), str(path))


def _check_name(path):
    if isinstance(path, str | os.PathLike) and ":" in str(path) and not str(path).startswith(("/proc/", "/sys/")):
        _refuse(path, errno.EINVAL)


def _check_closed(path):
    """Refuse a file that this process has open, or a folder that holds one."""
    path = _realpath(path)
    for descriptor in _listdir("/proc/self/fd"):
        try:
            target = _readlink(f"/proc/self/fd/{descriptor}")
        except OSError:  # that of the list itself
            continue
        if target == path or target.startswith(path + os.sep):
            _refuse(path)


def _open(path, flags, *args, **options):
    _check_name(path)
    if _isdir(path):
        _refuse(path)
    return _real["open"](path, flags, *args, **options)


def _io_open(file, *args, **options):
    _check_name(file)
    return _read(file, *args, **options)


def _fsync(descriptor):
    if _fcntl(descriptor, _F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        _refuse(descriptor, errno.EBADF)
    _real["fsync"](descriptor)


def _unlink(path, **options):
    _check_closed(path)
    _real["unlink"](path, **options)


def _moving(name):
    def move(source, target, **options):
        _check_name(target)
        _check_closed(source)
        if os.path.lexists(target):
            _check_closed(target)
            if name == "rename":
                _refuse(target, errno.EEXIST)
        _real[name](source, target, **options)

    return move


def _mkdir(path, *args, **options):
    _check_name(path)
    _real["mkdir"](path, *args, **options)


def _cdll(name, *args, _load=ctypes.CDLL, **options):
    if name is None:
        raise TypeError("LoadLibrary() argument 1 must be str, not None")
    return _load(name, *args, **options)


def emulate():
    """Take away and forbid all of it. Call this before calibrax is imported."""
    for name in MODULES:
        sys.modules[name] = None
    for name in OF_OS:
        delattr(os, name)
    for name in OF_SIGNAL:
        delattr(signal, name)
    os.process_cpu_count = os.cpu_count  # from Python 3.13; that of Linux asks for the affinity
    shutil._use_fd_functions = False
    os.open, os.fsync, os.unlink, os.remove, os.mkdir = _open, _fsync, _unlink, _unlink, _mkdir
    os.replace, os.rename = _moving("replace"), _moving("rename")
    builtins.open = io.open = _io_open
    ctypes.CDLL = _cdll
