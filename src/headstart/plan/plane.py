"""The plane of size and shift as text: the four cases, their borders, and where a data set lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

WIDE, HIGH = 58, 13
"""characters and lines of the plane of the four cases"""
NAMES = {1: "new head", 2: "early stages", 3: "fine-tune", 4: "from scratch"}


@dataclass(frozen=True, slots=True)
class _Plane:
    """Where sizes and shifts lie on a plane of WIDE characters and HIGH lines."""

    left: float
    right: float
    top: float
    limits: tuple[float, ...]
    """similar below, different from; empty where they are not known"""

    def column(self, images: float) -> int:
        return round((WIDE - 1) * log(images / self.left) / log(self.right / self.left))

    def row(self, shift: float) -> int:
        """A narrow band between the limits would not show, so every zone has lines of its own."""
        zone = HIGH // 2 - 2
        if not self.limits:
            return round((HIGH - 1) * (1 - min(max(shift, 0) / self.top, 1)))
        similar, different = self.limits
        if shift >= different:
            return round(zone * (1 - min((shift - different) / (self.top - different), 1)))
        return HIGH // 2 if shift >= similar else HIGH - 1 - round(zone * max(shift, 0) / similar)

    @property
    def borders(self) -> dict[int, float]:
        """The limits by their lines."""
        return dict(zip((HIGH // 2 + 1, HIGH // 2 - 1), self.limits, strict=False))


def plane_lines(plan: dict[str, Any]) -> list[str]:
    """The plane of size and shift: the four cases, the thresholds, this data set and its interval."""
    size, similarity = plan["size"], plan["similarity"]
    n, shift = size["n"], similarity["bn_shift"]
    small, large = max(2, size["small_below"]), max(3, size["large_above"])
    limits = tuple(sorted((similarity["thresholds"] or {}).values()))
    highest = similarity["high"] or shift or 0
    plane = _Plane(
        left=min(10, small / 10, n / 2),
        right=max(large * 100, n * 5),
        top=max(1.0, 1.25 * highest, 1.5 * max(limits, default=0)),
        limits=limits,
    )
    lines = _drawn(plane, small, large, plan["case_prior"])
    if shift is None:
        first, last = 0, HIGH - 1
    else:
        low = shift if similarity["low"] is None else similarity["low"]
        first, last = plane.row(highest), plane.row(low)
    for at in range(first, last + 1):
        lines[at][plane.column(n)] = "┃"
    if shift is not None:
        lines[plane.row(shift)][plane.column(n)] = "●"
    marks = {
        at: f"{value:.2f}" for at, value in {0: plane.top, HIGH - 1: 0, **plane.borders}.items()
    }
    return [
        "  BatchNorm shift ↑, images to learn from →",
        *(f"  {marks.get(at, ''):>4} │{''.join(line)}".rstrip() for at, line in enumerate(lines)),
        *_axis(plane),
        _point_text(plan),
    ]


def _drawn(plane: _Plane, small: int, large: int, prior: Sequence[int]) -> list[list[str]]:
    """The plane without the data set: borders, and the names of the cases; the rule's own marked."""
    lines = [[" "] * WIDE for _ in range(HIGH)]
    for at in plane.borders:
        lines[at] = ["┈"] * WIDE
    middle, right = plane.column(small), plane.column(large)
    for line in lines:
        line[middle] = line[right] = "┊"
    places = {2: (0, 0), 4: (0, right + 1), 1: (HIGH - 1, 0), 3: (HIGH - 1, right + 1)}
    for case, (at, start) in places.items():
        _write(lines[at], start, f"{'▶' if case in prior else ' '} {case} {NAMES[case]}")
    _write(lines[0], middle + 1, " medium")
    if plane.borders:
        _write(lines[HIGH // 2], WIDE - 8, "unclear")
    return lines


def _axis(plane: _Plane) -> list[str]:
    """The axis of sizes with its powers of ten."""
    axis, labels = ["─"] * WIDE, [" "] * (WIDE + 2)
    for power in range(10):
        if plane.left <= 10**power <= plane.right:
            axis[plane.column(10**power)] = "┴"
            _write(labels, plane.column(10**power), _short(10**power))
    return [f"       └{''.join(axis)}", f"        {''.join(labels)}".rstrip()]


def _point_text(plan: dict[str, Any]) -> str:
    """This data set's place in words."""
    size, similarity = plan["size"], plan["similarity"]
    text = f"{size['n']:,} images to learn from ({size['verdict']}), shift "
    if similarity["bn_shift"] is None:
        return f"  ┃ your images: {text}not measured"
    text += f"{similarity['bn_shift']:.2f}"
    if similarity["low"] is not None and similarity["high"] is not None:
        text += f" [{similarity['low']:.2f}, {similarity['high']:.2f}]"
    return f"  ● your images: {text} ({similarity['verdict']})"


def _write(line: list[str], start: int, text: str) -> None:
    """Put text into a line of the plane, as far as it reaches."""
    for k, character in enumerate(text, start):
        if 0 <= k < len(line):
            line[k] = character


def _short(number: int) -> str:
    """1k for a thousand, 1M for a million."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (1000, "k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)
