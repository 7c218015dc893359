"""Control what glibc does with freed memory.

On a CPU, XLA allocates the temporaries of a step anew at every step, some 100 MiB for the SVHN network. By default,
glibc returns a block of that size to the kernel as soon as it is freed. Each step then page-faults 30,000 times, which
takes a tenth of its time on two cores.
"""

import ctypes
import os
from typing import Any

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8  # glibc's <malloc.h>
KEPT = 2**30  # bytes: the largest block that is kept, and the most that is kept at the end of the heap
HEAP = 64 * 2**20  # bytes: the size of the heaps that make up every arena but the first
NUM_ARENAS = 2
MANY_CPUS = 5  # with this many CPUs or more, threads would wait for one another at two arenas


def keep_freed_memory() -> bool:
    """Make this process keep freed blocks of up to 1 GiB for reuse.

    The command line calls this. In a program of your own, call it before anything is computed. Only the first of
    glibc's arenas has blocks of more than 64 MiB, so all threads share two arenas. The second would return every free
    heap of 64 MiB; a top pad of that size prevents it. This has no effect with another C library, on five CPUs or
    more, or if the environment already configures glibc's allocator (GLIBC_TUNABLES, MALLOC_...).

    Returns:
      True if it took effect.
    """
    glibc = _glibc()
    if glibc is None or num_cpus() >= MANY_CPUS:
        return False
    if any(name.startswith(("GLIBC_TUNABLES", "MALLOC_")) for name in os.environ):
        return False
    settings = ((ARENA_MAX, NUM_ARENAS), (TOP_PAD, HEAP), (TRIM_THRESHOLD, KEPT), (MMAP_THRESHOLD, KEPT))
    return all(glibc.mallopt(name, value) == 1 for name, value in settings)


def give_back_free_memory() -> bool:
    """Return all freed memory to the kernel once; a compilation leaves some 100 MiB. True if glibc returned any."""
    glibc = _glibc()
    return glibc is not None and glibc.malloc_trim(0) == 1


def _glibc() -> Any:
    """The C library of this process, or None if it is not glibc."""
    try:
        library: Any = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - raises unless this is glibc, whose mallopt is meant
    except (AttributeError, OSError, TypeError):
        return None
    return library


def num_cpus() -> int:
    """The number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
