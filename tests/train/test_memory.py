"""Freed memory stays with the process for a while, and goes back after that."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: what is free in the heap of this one depends on the tests before.
SCRIPT = """
import resource
from pathlib import Path
import numpy as np
from headstart.train.memory import kept_memory

def resident_mb():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(40_000_000, np.uint8) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = resident_mb()
with kept_memory():
    faults()
    print(faults(), resident_mb() - before)
print(resident_mb() - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="of glibc only"
)
def test_pages_are_asked_for_once_and_given_back_in_the_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=True
    )
    again, within_mb, after_mb = map(float, done.stdout.split())
    assert again < 100
    assert within_mb > 150
    assert after_mb < 50
