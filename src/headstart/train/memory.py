"""Keep the memory of one training step for the next one.

A step frees its activations and asks for them again a moment later. glibc gives large blocks back
to the system at once, which hands them out anew page by page, filled with zeros: a quarter of the
time of a step on a virtual machine with two cores (docs/log.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST = 2**31 - 1
AFTER_MMAP, AFTER_TRIM = 32 * 2**20, 64 * 2**20
"""bytes: where glibc's own thresholds end, which grow with what a process frees"""


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """For a while freed memory stays with the process; after that all of it goes back.

    Does nothing where the C library is not glibc.
    """
    libc = None
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL("libc.so.6")
            libc.malloc_trim.argtypes = [ctypes.c_size_t]
    if libc is None or not (
        libc.mallopt(MMAP_THRESHOLD, LARGEST) and libc.mallopt(TRIM_THRESHOLD, LARGEST)
    ):
        yield
        return
    try:
        yield
    finally:
        libc.mallopt(MMAP_THRESHOLD, AFTER_MMAP)
        libc.mallopt(TRIM_THRESHOLD, AFTER_TRIM)
        libc.malloc_trim(0)
