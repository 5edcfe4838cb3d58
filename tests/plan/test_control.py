"""The control says what the architecture alone knows, on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.plan.control import control
from headstart.plan.criterion import Criterion
from headstart.plan.measure import Development

LABELS = np.arange(120) % 3


@dataclass(frozen=True)
class Table:
    """As much of the features as the control looks at."""

    table: dict[str, np.ndarray]

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(self.table)

    def stage(self, name: str, images: np.ndarray | None = None) -> np.ndarray:
        return self.table[name] if images is None else self.table[name][images]


def compared(learned: float, metric: str = "accuracy"):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(0)

    def features(signal: float) -> np.ndarray:
        return (rng.normal(size=(120, 8)) + signal * np.eye(8)[LABELS]).astype(np.float32)

    some = np.arange(0, 120, 2)
    pretrained = Table({"stem": features(0), "head": features(learned)})
    twin = Table({"stem": features(0.3)[some], "head": features(0)[some]})
    n = np.arange(120)
    development = Development(n, LABELS, n, n % 5, tuple("x" * 120), ("a", "b", "c"))
    criterion = Criterion(metric, metric)
    return control(twin, pretrained, some, development, criterion, 1)  # type: ignore[arg-type]


def test_a_trained_network_is_worth_its_lead() -> None:
    found = compared(4.0)
    assert [row.stage for row in found.depth] == ["stem", "head"]
    assert found.n == 60
    assert "pre-training is worth" in found.sentence and "60 images" in found.sentence


def test_no_lead_is_said_to_be_none() -> None:
    assert "adds nothing that these images can show" in compared(0.3).sentence


def test_log_loss_is_told_in_its_own_unit() -> None:
    assert "log loss of" in compared(4.0, "log_loss").sentence
    assert "nats" in compared(4.0, "log_loss").sentence
