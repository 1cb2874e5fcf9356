"""Freed memory stays with the process on glibc; elsewhere nothing is called."""

import subprocess
import sys

import pytest

from sot_nlp.training.speed import malloc

# Faults of pages for allocating, filling and freeing 20 MiB again, in a process of its own.
FAULTS = """
import ctypes, resource, sys
from sot_nlp.training.speed.malloc import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
if sys.argv[1] == "kept":
    keep_freed_memory()
size = 20 << 20
def once():
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's setting")
def test_what_was_freed_is_taken_again_without_the_system() -> None:
    import ctypes

    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, check=True).stdout)
        for how in ("given back", "kept")
    )
    if given_back < 500:  # 5,120 pages of 4 KiB, unless the system has larger ones
        pytest.skip("this system maps memory in large pages")
    assert kept < 50


def test_elsewhere_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: pytest.fail("called"))
    malloc.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: object())  # a C library without mallopt
    malloc.keep_freed_memory()
