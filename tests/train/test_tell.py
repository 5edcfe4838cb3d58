"""The live line says where a training run stands, and floods no log."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.train import tell
from headstart.train.lesson import Moment

NOW = Moment(1, 8, 3, 80, 1.25, None, 1e-4, 30.0, 42.0)


def test_a_log_file_gets_plain_lines_now_and_then(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 16.0, 16.0, 17.0])
    monkeypatch.setattr(tell.time, "monotonic", lambda: next(clock))
    line = tell.LiveLine("finetune")
    line(NOW)  # too early
    line(NOW)
    line.close()
    shown = capsys.readouterr().err
    assert shown == "finetune: epoch 1 of 8, loss 1.250, 30 img/s, 42 s left\n"
