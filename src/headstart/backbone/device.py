"""Which device the network runs on, told without importing torch where there is no GPU."""

from __future__ import annotations

import ctypes
import sys

from headstart.errors import MachineError


def detect_device(asked: str) -> str:
    """cpu or cuda for `--device`; looks for a GPU's driver without importing torch.

    Raises:
        MachineError: cuda was asked for and none is usable.
    """
    if asked == "cpu":
        return "cpu"
    found = _cuda_devices() > 0
    if found:
        import torch

        found = torch.cuda.is_available()
    if asked == "cuda" and not found:
        raise MachineError("--device cuda: no usable GPU was found", do="Use --device cpu.")
    return "cuda" if found else "cpu"


def _cuda_devices() -> int:
    """How many GPUs the driver offers this process; 0 without a driver."""
    try:
        # By its name: looking for it would start a linker and a compiler.
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int()
        if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return 0
        return count.value
    except (OSError, AttributeError):
        return 0
