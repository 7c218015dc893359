"""keep_freed_memory: freed memory stays in the process for the next step, where glibc would return it to the kernel."""

import functools
import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from calibrax import _malloc
from calibrax._malloc import ARENA_MAX, MANY_CPUS, give_back_free_memory, keep_freed_memory, num_cpus

GLIBC = platform.libc_ver()[0] == "glibc"
LOAD = f"import runpy\nglobals().update(runpy.run_path({_malloc.__file__!r}))"  # without importing JAX
PROGRAM = """
import resource, threading
{load}

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
if {in_thread}:  # a thread uses the second arena
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
"""


def run(program):
    """The number that a program prints when run in a new process with an empty environment."""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={})
    assert result.returncode == 0, result.stderr
    return float(result.stdout)


@pytest.mark.skipif(not GLIBC or num_cpus() >= MANY_CPUS, reason="needs glibc and few CPUs")
@pytest.mark.parametrize(("mebibytes", "in_thread"), [(100, False), (50, True)])
def test_a_freed_block_is_reused_without_new_page_faults(mebibytes, in_thread):
    program = functools.partial(PROGRAM.format, load=LOAD, mebibytes=mebibytes, in_thread=in_thread)
    kept, given_back = run(program(keep=True)), run(program(keep=False))
    assert given_back >= mebibytes / 2  # huge pages; 25,600 of 4 KiB
    assert kept < given_back / 10


@pytest.mark.skipif(not GLIBC, reason="needs glibc")
def test_free_memory_between_used_blocks_is_returned():
    program = f"""
import resource
{LOAD}

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 2**20

blocks = [b"x" * 100_000 for _ in range(1000)]
blocks = blocks[::20]  # the remaining blocks keep the heap from shrinking
before = resident()
assert give_back_free_memory()
print(before - resident())
"""
    assert run(program) > 50


@pytest.fixture
def few_cpus(monkeypatch):
    """One CPU, glibc and an environment without settings. Calls of mallopt are recorded, not made."""
    monkeypatch.setattr("calibrax._malloc.num_cpus", lambda: 1)
    for name in [name for name in os.environ if name.startswith(("GLIBC_TUNABLES", "MALLOC_"))]:
        monkeypatch.delenv(name)
    settings = []
    glibc = SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda *setting: settings.append(setting) or 1)
    monkeypatch.setattr("calibrax._malloc.ctypes.CDLL", lambda name: glibc)
    return settings


def test_with_few_cpus_all_threads_share_two_arenas(few_cpus):
    assert keep_freed_memory() is True
    assert (ARENA_MAX, 2) in few_cpus


@pytest.mark.parametrize(("name", "value"), [("MALLOC_ARENA_MAX", "4"), ("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")])
def test_settings_in_the_environment_are_not_overridden(name, value, few_cpus, monkeypatch):
    monkeypatch.setenv(name, value)
    assert keep_freed_memory() is False
    assert few_cpus == []


def test_with_many_cpus_nothing_is_changed(few_cpus, monkeypatch):
    monkeypatch.setattr("calibrax._malloc.num_cpus", lambda: MANY_CPUS)
    assert keep_freed_memory() is False
    assert few_cpus == []


def test_another_c_library_is_not_touched(few_cpus, monkeypatch):
    other = SimpleNamespace(mallopt=lambda *setting: few_cpus.append(setting) or 1, malloc_trim=lambda pad: 1)
    monkeypatch.setattr("calibrax._malloc.ctypes.CDLL", lambda name: other)
    assert keep_freed_memory() is False
    assert give_back_free_memory() is False
    assert few_cpus == []
