"""Freed memory is kept for the next step, where glibc would give it back."""

import functools
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from calibrax._malloc import ARENA_MAX, MANY_CPUS, give_back_free_memory, keep_freed_memory, num_cpus

GLIBC = platform.libc_ver()[0] == "glibc"
PROGRAM = """
import resource, threading
from calibrax._malloc import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    held = b"x" * (30 * 2**20)
    for turn in range(4):
        before = faults()
        block = b"x" * ({mebibytes} * 2**20)
        del block
    print(faults() - before)

if {keep}:
    assert keep_freed_memory()
if {in_thread}:  # which has the second arena
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def run(program):
    """What a program prints in a process of its own, whose environment is empty."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={})
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(not GLIBC or num_cpus() >= MANY_CPUS, reason="glibc on few CPUs alone has this")
@pytest.mark.parametrize(("mebibytes", "in_thread"), [(100, False), (50, True)])
def test_a_freed_block_is_used_again_without_touching_new_pages(mebibytes, in_thread):
    program = functools.partial(PROGRAM.format, mebibytes=mebibytes, in_thread=in_thread)
    kept, given_back = run(program(keep=True)), run(program(keep=False))
    assert given_back >= mebibytes / 2  # huge pages; 25,600 of 4 KiB
    assert kept < given_back / 10


@pytest.mark.skipif(not GLIBC, reason="of glibc alone")
def test_what_lies_free_between_what_is_used_is_given_back():
    program = """
from benchmarks.soak import resident
from calibrax._malloc import give_back_free_memory

blocks = [b"x" * 100_000 for _ in range(1000)]
blocks = blocks[::20]  # what is left keeps the heap from shrinking
before = resident()
assert give_back_free_memory()
print(before - resident())
"""
    assert run(program) > 50


@pytest.fixture
def few_cpus(monkeypatch):
    """One CPU, glibc, and an environment that says nothing; what would be set is listed and not set."""
    monkeypatch.setattr("calibrax._malloc.num_cpus", lambda: 1)
    for name in [name for name in os.environ if name.startswith(("GLIBC_TUNABLES", "MALLOC_"))]:
        monkeypatch.delenv(name)
    settings = []
    glibc = SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda *setting: settings.append(setting) or 1)
    monkeypatch.setattr("calibrax._malloc.ctypes.CDLL", lambda name: glibc)
    return settings


def test_few_cpus_share_two_arenas(few_cpus):
    assert keep_freed_memory() is True
    assert (ARENA_MAX, 2) in few_cpus


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "4"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")])
def test_what_the_environment_sets_stays(name, value, few_cpus, monkeypatch):
    monkeypatch.setenv(name, value)
    assert keep_freed_memory() is False
    assert few_cpus == []


def test_many_cpus_keep_their_arenas(few_cpus, monkeypatch):
    monkeypatch.setattr("calibrax._malloc.num_cpus", lambda: MANY_CPUS)
    assert keep_freed_memory() is False
    assert few_cpus == []


def test_another_c_library_is_left_alone(few_cpus, monkeypatch):
    other = SimpleNamespace(mallopt=lambda *setting: few_cpus.append(setting) or 1, malloc_trim=lambda pad: 1)
    monkeypatch.setattr("calibrax._malloc.ctypes.CDLL", lambda name: other)
    assert keep_freed_memory() is False
    assert give_back_free_memory() is False
    assert few_cpus == []
