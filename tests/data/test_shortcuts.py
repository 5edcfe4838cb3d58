"""Shortcuts: what tells the classes apart without looking at the picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headstart.data.check import check
from headstart.data.images import ImageInfo
from headstart.data.shortcuts import find_shortcuts
from headstart.data.sources import read


def infos(n: int, seed: int = 0) -> list[ImageInfo]:
    rng = np.random.default_rng(seed)
    sides = rng.integers(200, 400, (n, 2))
    return [
        ImageInfo(int(w), int(h), "JPEG", "RGB", 9_000, str(i)) for i, (w, h) in enumerate(sides)
    ]


def found(rows: list[ImageInfo], labels: np.ndarray) -> set[str]:
    names = [str(c) for c in range(int(labels.max()) + 1)]
    return {s.property for s in find_shortcuts(rows, labels, np.arange(len(labels)), names)}


def change(info: ImageInfo, width: int | None = None, kind: str | None = None) -> ImageInfo:
    return ImageInfo(
        width or info.width,
        info.height,
        kind or info.format,
        info.mode,
        info.bytes,
        info.content_hash,
    )


def test_ordinary_files_have_no_shortcut() -> None:
    assert found(infos(300), np.arange(300) % 3) == set()


def test_one_class_saved_by_another_program_is_found() -> None:
    labels = np.arange(300) % 3
    rows = [change(i, kind="PNG") if c == 1 else i for i, c in zip(infos(300), labels, strict=True)]
    assert "file format" in found(rows, labels)


def test_one_class_ten_percent_larger_is_found() -> None:
    labels = np.arange(300) % 3
    rows = [ImageInfo(200, 200, "JPEG", "RGB", 9_000, str(i)) for i in range(300)]
    rows = [change(i, width=220) if c == 1 else i for i, c in zip(rows, labels, strict=True)]
    assert {"image size", "shape (width to height)"} <= found(rows, labels)


def test_permuted_labels_raise_no_alarm() -> None:
    rng = np.random.default_rng(0)
    alarms = sum(bool(found(infos(120, k), rng.permutation(np.arange(120) % 4))) for k in range(40))
    assert alarms <= 1


def test_copies_do_not_vouch_for_each_other() -> None:
    rows = infos(20) * 6
    labels = np.tile(np.arange(20) % 2, 6)
    groups = np.tile(np.arange(20), 6)
    assert find_shortcuts(rows, labels, groups, ["a", "b"]) == ()


@pytest.mark.parametrize(
    ("name", "expected"), [("dogs_wolves", "image size"), ("chest_xray_covid", "colour mode")]
)
def test_known_shortcuts_of_real_data_are_found(
    dataset: Callable[[str], Path], name: str, expected: str
) -> None:
    data = read(dataset(name))
    findings = check(data, 2, 224)
    usable = [(i, s.label) for i, s in zip(findings.infos, data.samples, strict=True) if i]
    labels = np.array([label for _, label in usable])
    rows = [info for info, _ in usable]
    properties = [
        s.property for s in find_shortcuts(rows, labels, np.arange(len(rows)), data.classes)
    ]
    assert expected in properties
