"""Which augmentations suit the images: asked for, tested, and found once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from headstart import suiting
from headstart.settings import fit_settings
from headstart.train.suit import Suited


def start_in(folder: Path, augment: str = "auto") -> Any:
    graph = SimpleNamespace(preprocess=SimpleNamespace(size_px=32))
    settings = fit_settings({"data": "x", "case": 3, "augment": augment})
    return SimpleNamespace(folder=folder, graph=graph, settings=settings)


def test_what_was_found_is_not_tested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = (Suited("crop", 0.0, 0.0, True), Suited("flip", -0.0625, 0.03, False))
    monkeypatch.setattr(suiting, "_suiting", lambda _: found)
    assert suiting.choose_augmentations(start_in(tmp_path)) == found
    monkeypatch.setattr(suiting, "_suiting", lambda _: pytest.fail("it was tested again"))
    assert suiting.choose_augmentations(start_in(tmp_path)) == found


def test_what_the_user_asks_for_is_not_tested(tmp_path: Path) -> None:
    found = suiting.choose_augmentations(start_in(tmp_path, "flip,rotate"))
    assert [(row.operation, row.used) for row in found] == [("flip", True), ("rotate", True)]
    assert not list(tmp_path.iterdir())
