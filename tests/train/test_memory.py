"""Freed memory stays with the process for a while, and goes back after that."""

from __future__ import annotations

import platform
import resource
import sys

import numpy as np
import pytest

from headstart.train.memory import kept_memory


def faults() -> int:
    """Pages that were asked for while an array was made and freed forty times; it is smaller than a
    huge page, which is one fault however large."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        np.ones(1_000_000, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="of glibc only"
)
def test_pages_are_asked_for_once_and_given_back_in_the_end() -> None:
    with kept_memory():
        faults()
        again = faults()
    after = faults()
    assert again < 1_000 < after
