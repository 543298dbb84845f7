"""The heap of the C library gives back what was freed."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from edgekit.drivers import heap

IS_GLIBC = platform.libc_ver()[0] == "glibc"
PROBE = """
from edgekit.drivers import heap

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

blocks = [bytes([1]) * 100_000 for _ in range(1000)]
last = bytes([1]) * 100_000  # Behind them, so that the heap does not shrink by itself.
del blocks
before = resident_mb()
assert heap.trim()
print(before - resident_mb())
"""


def test_only_glibc_is_asked():
    assert heap.trim() is IS_GLIBC


@pytest.mark.skipif(not IS_GLIBC or not sys.platform.startswith("linux"), reason="needs glibc on Linux")
def test_freed_memory_is_returned():
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert float(result.stdout) > 60
