"""Draw the table of the four cases; one of them may be the chosen one."""

from __future__ import annotations

from headstart.errors import ArgumentError
from headstart.explain.diagram_parts import FILLS, INK, MUTED, RULE, svg, text

CASES: dict[int, tuple[str, str]] = {
    1: ("new head on the", "frozen network"),
    2: ("new head on the frozen", "early stages"),
    3: ("new head, then fine-tune", "the whole network"),
    4: ("train from scratch,", "or as case 3"),
}


def draw_quadrants(case: int | None = None) -> str:
    """The table of the four cases as one SVG element; one case may be the chosen one.

    Raises:
        ArgumentError: no such case.
    """
    if case is not None and case not in CASES:
        raise ArgumentError("There are four cases", received=case, do="Use 1, 2, 3 or 4.")
    key = f"q{case or 0}"
    left, top, wide, high, gap = 96, 52, 236, 92, 10
    parts = ['<rect width="596" height="262" rx="8" fill="#ffffff"/>']
    for i, words in enumerate(("similar to the source", "different from the source")):
        parts.append(text(left + i * (wide + gap) + wide / 2, 34, words, 13, MUTED, bold=True))
    for i, words in enumerate(("small", "large")):
        parts.append(
            text(left - 16, top + i * (high + gap) + high / 2 + 4, words, 13, MUTED, "end", True)
        )
    for number, lines in CASES.items():
        x = left + (number + 1) % 2 * (wide + gap)
        y = top + (number > 2) * (high + gap)
        chosen = number == case
        fill, _, _, edge = FILLS["frozen"] if chosen else ("#f6f8f9", "", "", RULE)
        border = f'stroke="{edge}" stroke-width="{2.5 if chosen else 1}"'
        parts.append(
            f'<rect x="{x}" y="{y}" width="{wide}" height="{high}" rx="8" fill="{fill}" {border}/>'
        )
        ink = INK if chosen or case is None else MUTED
        parts.append(text(x + 26, y + high / 2 + 10, str(number), 30, ink, bold=True))
        parts.append(text(x + 49, y + high / 2 - 3, lines[0], 13, ink, "start", chosen))
        parts.append(text(x + 49, y + high / 2 + 15, lines[1], 13, ink, "start", chosen))
    said = [f"Case {n}: {' '.join(lines)}." for n, lines in CASES.items()]
    title = "The four cases" if case is None else f"The four cases, with case {case} chosen"
    return svg(key, 596, 262, title, " ".join(said), parts)
