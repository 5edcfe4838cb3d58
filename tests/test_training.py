"""Heads that training starts from: chosen on their images alone, the same one after a stop."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart import training
from headstart.errors import RunFolderError
from headstart.plan.criterion import Criterion
from headstart.plan.measure import Development
from headstart.settings import fit_settings


def start_of(folder: Path, groups: np.ndarray, folds: np.ndarray) -> Any:
    """The parts of a Start that heads need: two classes that two of eight features tell apart."""
    n = len(groups)
    labels = np.arange(n) % 2
    x = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    x[:, :2] += 1.5 * labels[:, None]
    development = Development(
        np.arange(n), labels, groups, folds, tuple(map(str, range(n))), ("a", "b")
    )
    prepared = SimpleNamespace(
        development=development,
        criterion=Criterion("accuracy", "accuracy"),
        split=SimpleNamespace(tie=np.arange(n)),
    )
    graph = SimpleNamespace(preprocess=SimpleNamespace(size_px=32))
    return SimpleNamespace(
        prepared=prepared, settings=fit_settings({"data": "x"}), folder=folder, graph=graph, x=x
    )


def test_one_of_two_sites_is_enough_to_choose_a_head_with(tmp_path: Path) -> None:
    site = np.arange(60) // 30
    start = start_of(tmp_path, site, site)
    head = training.head_from(start, np.flatnonzero(site == 0), "without-1")
    other = np.flatnonzero(site == 1)
    right = head.logits(start.x[other]).argmax(1) == start.prepared.development.labels[other]
    assert right.mean() > 0.8


def test_a_head_is_chosen_once_for_all_ways_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each = np.arange(60)
    start = start_of(tmp_path, each, each % 5)
    some = np.flatnonzero(each % 5 > 0)
    first = training.head_from(start, some, "without-0")
    monkeypatch.setattr(training, "search_head", lambda *_: pytest.fail("it was searched again"))
    again = training.head_from(start, some, "without-0")
    np.testing.assert_array_equal(again.weight, first.weight)
    np.testing.assert_array_equal(again.bias, first.bias)


def test_a_training_goes_on_with_its_threads_and_on_its_hardware_only(tmp_path: Path) -> None:
    def fabric(device: str, precision: str) -> Any:
        return SimpleNamespace(
            device=SimpleNamespace(type=device), _precision=SimpleNamespace(precision=precision)
        )

    first = training.machine_of(fabric("cpu", "bf16-mixed"), tmp_path)
    assert first.precision == "bf16-mixed"
    assert training.machine_of(fabric("cpu", "bf16-mixed"), tmp_path) == first
    for other in (("cuda", "bf16-mixed"), ("cpu", "32-true")):
        with pytest.raises(RunFolderError, match=r"other hardware.*it was cpu, bf16-mixed"):
            training.machine_of(fabric(*other), tmp_path)
