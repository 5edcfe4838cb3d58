"""What the diagrams share: colours, boxes with depth, labels, wires, and the finished SVG.

Text only: no script, no font or file from elsewhere; every string is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from headstart.errors import show

INK, MUTED, LINE, RULE = "#1d2a35", "#55636f", "#75828d", "#d5dbe0"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
FILLS: dict[str, tuple[str, str, str, str]] = {  # front, top, side, edge
    "pretrained": ("#e6ebef", "#f4f6f8", "#ccd5dc", "#5d6b77"),
    "frozen": ("#cfe6f5", "#e9f4fb", "#a9cfe8", "#0b6aa2"),
    "trained": ("#fbd9bd", "#fdeee2", "#f0bb93", "#b34700"),
    "removed": ("#ffffff", "#ffffff", "#ffffff", "#8a949e"),
    "random": ("#e6d9f2", "#f4eefa", "#cdb6e2", "#6b3fa0"),
    "new": ("#c9ecd2", "#e6f7ea", "#9bd3ab", "#1c7a3a"),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block's front face stands, and how far its top and side reach back."""

    x: float
    y: float
    w: float
    h: float
    back: float

    @property
    def middle(self) -> float:
        """Middle of the front face, across."""
        return self.x + self.w / 2

    @property
    def right(self) -> float:
        """Where the box ends on the right, its depth included."""
        return self.x + self.w + self.back


def svg(key: str, width: float, height: float, title: str, words: str, parts: Sequence[str]) -> str:
    """One SVG element; `words` are read to those who cannot see it."""
    names = f'role="img" aria-labelledby="{key}-title {key}-desc"'
    size = f'width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {names} font-family="{FONT}">'
        f'<title id="{key}-title">{safe(title)}</title><desc id="{key}-desc">{safe(words)}</desc>'
        f"{''.join(parts)}</svg>"
    )


def defs(key: str) -> str:
    """Patterns: stripes where weights are trained on, dots where they begin at random."""
    stripes, dots = FILLS["trained"][3], FILLS["random"][3]
    return (
        f'<defs><pattern id="{key}-trained" width="7" height="7" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><path d="M0 0V7" stroke="{stripes}" stroke-opacity=".5" '
        f'stroke-width="2.4"/></pattern><pattern id="{key}-random" width="8" height="8" '
        f'patternUnits="userSpaceOnUse"><circle cx="2" cy="2" r="1.3" fill="{dots}" stroke="none"/>'
        f'<circle cx="6" cy="6" r="1.3" fill="{dots}" stroke="none"/></pattern></defs>'
    )


def text(
    x: float,
    y: float,
    words: str,
    size: float,
    colour: str,
    anchor: str = "middle",
    bold: bool = False,
) -> str:
    """A line of text at (x, y), its baseline's start, middle or end."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'text-anchor="{anchor}"{weight}>{safe(words)}</text>'
    )


def line(path: str) -> str:
    """A thin wire along a path."""
    return f'<path d="{path}" stroke="{LINE}" stroke-width="1.4" fill="none"/>'


def safe(words: object) -> str:
    """Text for the inside of an element: one line, nothing that could be markup."""
    return escape(show(words))


def cuboid(state: str, at: Place, key: str) -> str:
    """Front, top and side; what is removed is an empty dashed outline."""
    front, top, side, edge = FILLS[state]
    x, y, w, h, b = at.x, at.y, at.w, at.h, at.back
    dashed = ' stroke-dasharray="4 3"' if state == "removed" else ""
    shapes = [
        f'<path d="M{x:.1f} {y:.1f}l{b:.1f} {-b:.1f}h{w:.1f}l{-b:.1f} {b:.1f}z" fill="{top}"/>',
        f'<path d="M{x + w:.1f} {y:.1f}l{b:.1f} {-b:.1f}v{h:.1f}l{-b:.1f} {b:.1f}z" fill="{side}"/>',
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{front}"/>',
    ]
    if state in ("trained", "random"):
        face = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}"'
        shapes.append(f'<rect {face} fill="url(#{key}-{state})"/>')
    group = f'<g stroke="{edge}" stroke-width="1.2" stroke-linejoin="round"{dashed}>'
    return f"{group}{''.join(shapes)}</g>{mark(state, at)}"


def mark(state: str, at: Place) -> str:
    """A snow crystal on what is frozen, a plus on what is new."""
    x, y, edge = at.middle, at.y + at.h / 2, FILLS[state][3]
    size = min(6.0, at.w / 2 - 2.5, at.h / 2 - 2.5)
    if state == "frozen":
        a, b = 0.87 * size, 0.5 * size
        arms = f"M{x:.1f} {y - size:.1f}v{2 * size:.1f}"
        arms += f"M{x - a:.1f} {y - b:.1f}l{2 * a:.1f} {2 * b:.1f}"
        arms += f"M{x - a:.1f} {y + b:.1f}l{2 * a:.1f} {-2 * b:.1f}"
    elif state == "new":
        arms = f"M{x:.1f} {y - size:.1f}v{2 * size:.1f}M{x - size:.1f} {y:.1f}h{2 * size:.1f}"
    else:
        return ""
    return (
        f'<path d="{arms}" stroke="{edge}" stroke-width="1.6" stroke-linecap="round" fill="none"/>'
    )


def cut_line(x: float, top: float, low: float) -> str:
    """A dashed line down to a pair of scissors: here the network is cut."""
    dark = FILLS["trained"][3]
    handles = '<circle cx="-4.6" cy="11" r="3.2"/><circle cx="4.6" cy="11" r="3.2"/>'
    blades = '<path d="M-3.2 8.1L4 -6M3.2 8.1L-4 -6"/>'
    return (
        f'<path d="M{x} {top}V{low - 8}" stroke="{dark}" stroke-width="1.5" '
        f'stroke-dasharray="6 4" fill="none"/><g transform="translate({x} {low})" stroke="{INK}" '
        f'stroke-width="1.5" fill="none" stroke-linecap="round">{handles}{blades}</g>'
    )


def legend(
    entries: Sequence[tuple[str, str]], margin: float, width: float, key: str
) -> tuple[str, float]:
    """Signs with their words, in lines as the width allows, and the height that they take.

    Args:
        entries: (words, sign): a state of `FILLS`, "tap", or "" for words alone.
    """
    parts, x, y = [f'<path d="M{margin} 8H{width - margin}" stroke="{RULE}"/>'], margin, 34.0
    for words, sign in entries:
        indent = 30 if sign else 0
        reach = indent + 6.6 * len(words)
        if x > margin and x + reach > width - margin:
            x, y = margin, y + 24
        parts.append(_sign(sign, x, y, key) + text(x + indent, y + 4, words, 12, MUTED, "start"))
        x += reach + 22
    return "".join(parts), y + 22


def _sign(sign: str, x: float, y: float, key: str) -> str:
    if sign == "tap":
        return line(f"M{x + 5} {y}h17") + f'<circle cx="{x + 5}" cy="{y}" r="3.2" fill="{INK}"/>'
    return cuboid(sign, Place(x, y - 5, 18, 13, 3), key) if sign else ""
