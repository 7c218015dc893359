"""Freed memory is kept for the next step, where glibc would give it back."""

import platform
import subprocess
import sys

import pytest

from calibrax.allocator import MANY_CPUS, give_back_free_memory, keep_freed_memory, num_cpus

GLIBC = platform.libc_ver()[0] == "glibc"
PROGRAM = """
import resource, threading
from calibrax.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if {call}:
    assert keep_freed_memory() is {expected}
for turn in range(4):
    before = faults()
    block = b"x" * (100 * 2**20)
    del block
print(faults() - before)
"""


def run(call, expected, **environment):
    program = PROGRAM.format(call=call, expected=expected)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not GLIBC or num_cpus() >= MANY_CPUS, reason="glibc on few CPUs alone has this")
def test_a_freed_block_is_used_again_without_touching_new_pages():
    kept, given_back = run(call=True, expected=True), run(call=False, expected=None)
    assert given_back >= 50  # huge pages; 25,600 of 4 KiB
    assert kept < given_back / 10


@pytest.mark.skipif(not GLIBC, reason="of glibc alone")
def test_what_lies_free_between_what_is_used_is_given_back():
    program = """
import os
from calibrax.allocator import give_back_free_memory

def mebibytes():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

blocks = [b"x" * 100_000 for _ in range(1000)]
blocks = blocks[::20]  # what is left keeps the heap from shrinking
before = mebibytes()
assert give_back_free_memory()
print(before - mebibytes())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 50


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "4"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")])
def test_what_the_environment_sets_stays(name, value):
    run(call=True, expected=False, **{name: value})


def test_many_cpus_keep_their_arenas(monkeypatch):
    monkeypatch.setattr("calibrax.allocator.num_cpus", lambda: MANY_CPUS)
    assert keep_freed_memory() is False


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("calibrax.allocator.num_cpus", lambda: 1)
    for name in ("GLIBC_TUNABLES", "MALLOC_ARENA_MAX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("calibrax.allocator.ctypes.CDLL", lambda name: object())
    assert keep_freed_memory() is False
    assert give_back_free_memory() is False
