from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from headstart.backbone import device
from headstart.backbone.device import detect_device
from headstart.errors import MachineError


class Driver:
    """A stand-in for NVIDIA's library: what its two functions answer."""

    def __init__(self, init: int, devices: int) -> None:
        self.init, self.devices = init, devices

    def cuInit(self, _flags: int) -> int:
        return self.init

    def cuDeviceGetCount(self, count: object) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = self.devices  # type: ignore[arg-type]
        return 0


def no_driver(_name: str) -> Driver:
    raise OSError("libcuda.so.1: cannot open shared object file")


def test_without_a_driver_auto_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.ctypes, "CDLL", no_driver)
    assert detect_device("auto") == "cpu"
    assert detect_device("cpu") == "cpu"


@pytest.mark.parametrize("driver", [Driver(100, 0), Driver(0, 0)])
def test_a_driver_without_a_gpu_is_no_gpu(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.ctypes, "CDLL", lambda _name: driver)
    assert detect_device("auto") == "cpu"


def test_asking_for_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.ctypes, "CDLL", no_driver)
    with pytest.raises(MachineError, match=r"--device cuda.*--device cpu"):
        detect_device("cuda")


def test_a_gpu_that_torch_cannot_use_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(device.ctypes, "CDLL", lambda _name: Driver(0, 1))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert detect_device("auto") == "cpu"
    with pytest.raises(MachineError):
        detect_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert detect_device("auto") == detect_device("cuda") == "cuda"
    assert detect_device("cpu") == "cpu"


def test_looking_for_a_gpu_starts_no_process_and_imports_no_torch() -> None:
    code = (
        "import subprocess, sys\n"
        "def refuse(*a, **k): raise AssertionError('a process')\n"
        "subprocess.Popen.__init__ = refuse\n"
        "from headstart.backbone.device import _cuda_devices\n"
        "assert _cuda_devices() >= 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
