"""The part of a picture that one position of a stage's map sees.

h w positions of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.backbone.graph import HEAD

Box = tuple[int, int, int, int]
"""left, top, right, bottom in px; what lies outside the picture is the network's own padding"""


@dataclass(frozen=True, slots=True)
class Field:
    """The receptive fields of one stage on a square input."""

    stage: str
    input_px: int
    positions: int
    """h (= w) of the stage's map; 1 for a vector"""
    whole_px: int
    """side of the whole field; `input_px` when it covers the picture"""
    effective_px: int
    """side of the effective field, at most the whole one"""
    stride_px: float
    """how far the fields of neighbours lie apart"""
    first_px: float
    """where the middle of position 0's field lies, as a coordinate between pixels"""

    @property
    def covers(self) -> bool:
        """Whether one position can see the whole picture, or nearly."""
        return self.whole_px >= 0.95 * self.input_px

    def middle(self, position: int) -> float:
        """Where the middle of a position's field lies on one axis, in px."""
        return self.first_px + self.stride_px * position

    def box(self, row: int, column: int, side_px: int | None = None) -> Box:
        """The square of a side around a position's middle; default: the whole field."""
        side = self.whole_px if side_px is None else side_px
        top, left = (int(np.floor(self.middle(at) - side / 2 + 0.5)) for at in (row, column))
        return left, top, left + side, top + side


def field_words(field: Field, width: int, cut: bool) -> str:
    """What a person should know about a stage before looking at it."""
    size = field.input_px
    if field.positions == 1:
        what = "numbers that the classifier reads" if field.stage == HEAD else "numbers"
        return f"{width:,} {what}, each of the whole picture."
    lay = f"{width:,} units on {field.positions} × {field.positions} positions. "
    if field.covers:
        sees = f"A position can see the whole picture ({size} px)"
    else:
        sees = f"A position sees {field.whole_px} × {field.whole_px} of the picture's {size} px"
    if field.effective_px < field.whole_px:
        sees += f", and listens mostly to {field.effective_px} × {field.effective_px} in its middle"
    sees += "."
    if cut and 2 * field.whole_px > size:
        sees += " The patches are cut to those."
    return lay + sees
