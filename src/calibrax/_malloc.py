"""What the C library does with memory that was freed.

XLA on a CPU asks for a step's temporaries anew at each step, some 100 MiB for the SVHN network. glibc gives a block of
that size back to the kernel as soon as it is freed, so each step touches 30,000 pages for the first time: a tenth of
its time on two cores.
"""

import ctypes
import os
from typing import Any

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # glibc's <malloc.h>
KEPT = 2**30  # bytes, of one block and at the end of the heap
HEAP = 64 * 2**20  # bytes, of which glibc makes the arenas after the first
NUM_ARENAS = 2
MANY_CPUS = 5  # from which on threads would wait for one another at so few arenas


def keep_freed_memory() -> bool:
    """Let this process keep freed blocks of up to 1 GiB for their next use.

    The command line does so; call it in a program of your own before anything is computed. Only the first of glibc's
    arenas has blocks of more than 64 MiB, so there are to be two for all threads; the other gives back each 64 MiB that
    are free, unless it is told to keep so much in store. Without effect where the C library is another one, on five
    CPUs or more, and where the environment sets glibc's allocator already (GLIBC_TUNABLES, MALLOC_...).

    Returns:
      Whether it took effect.
    """
    glibc = _glibc()
    if glibc is None or num_cpus() >= MANY_CPUS:
        return False
    if any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ):
        return False
    settings = ((ARENA_MAX, NUM_ARENAS), (TOP_PAD, HEAP), (TRIM_THRESHOLD, KEPT), (MMAP_THRESHOLD, KEPT))
    return all(glibc.mallopt(name, value) == 1 for name, value in settings)


def give_back_free_memory() -> bool:
    """Hand all freed memory back to the kernel, once: after a compilation, which leaves a hundred MiB of it.

    Returns:
      Whether there was some, and the C library is glibc.
    """
    glibc = _glibc()
    return glibc is not None and glibc.malloc_trim(0) == 1


def _glibc() -> Any:
    """The C library of this process, or None if it is another one."""
    try:
        library: Any = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - another's functions, where it has them, mean other things
    except (AttributeError, OSError, TypeError):
        return None
    return library


def num_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
