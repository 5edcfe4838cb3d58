"""A surgery as stored in the run folder, and back, so that its drawing can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headstart.explain.surgery_diagram import WORDS, Block, Surgery


def surgery_json(surgery: Surgery) -> dict[str, Any]:
    """surgery.json: title, input_px, blocks, head, head_widths, spread; see `Surgery`."""
    return asdict(surgery)


def surgery_of_json(stored: Mapping[str, Any]) -> Surgery | None:
    """The surgery that was stored, or None when the file is not one."""
    try:
        head = stored["head"]
        return Surgery(
            title=str(stored["title"]),
            input_px=int(stored["input_px"]),
            blocks=tuple(_block(block) for block in stored["blocks"]),
            head=None if head is None else _block(head),
            head_widths=tuple(int(width) for width in stored["head_widths"]),
            spread=bool(stored["spread"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _block(stored: Mapping[str, Any]) -> Block:
    state = stored["state"]
    if state not in WORDS:
        raise ValueError(state)
    return Block(
        name=str(stored["name"]),
        side_px=int(stored["side_px"]),
        width=int(stored["width"]),
        parameters=int(stored["parameters"]),
        state=state,
        tapped=bool(stored["tapped"]),
        group=str(stored["group"]),
    )
