"""Draw what is done to a network: kept and frozen, kept and trained, removed, new, random.

`surgery_of` turns a network's stages and a strategy into a `Surgery`, plain data with true shapes
and counts; `draw_surgery` turns that into one SVG: text, no script, no font or file from
elsewhere. States differ by pattern and words, not by colour alone. `draw_quadrants` draws the
table of the four cases.

C classes, D width of a stage's features, S stages, H W px.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

from headstart.backbone.graph import SPREAD, StageInfo, TapGraph
from headstart.errors import ArgumentError, nearest
from headstart.explain.diagram_parts import (
    FILLS,
    INK,
    LINE,
    MUTED,
    Place,
    cuboid,
    cut_line,
    defs,
    legend,
    line,
    svg,
    text,
)
from headstart.plan.decide import Strategy

State = Literal["pretrained", "frozen", "trained", "removed", "random", "new"]

WORDS: dict[str, str] = {
    "pretrained": "pre-trained",
    "frozen": "kept, frozen",
    "trained": "kept, trained",
    "removed": "removed",
    "random": "random weights, trained",
    "new": "new, random weights, trained",
}
TITLES: dict[str, str] = {
    "head_top": "Only the new head learns; the whole network is frozen",
    "head_cut": "Cut after {cut}; only the new head on the early stages learns",
    "all_stages": "Only the new head learns; it reads every stage of the frozen network",
    "partial": "Frozen up to {cut}; the later stages and the new head learn",
    "finetune": "The new head and every stage learn, from the pre-trained weights",
    "scratch": "The new head and every stage learn, from random weights",
}

# Geometry in units of the drawing. A column is one block; the axis is where the signal flows.
COLUMN, MARGIN, TALLEST, SHORTEST, SLANT = 84, 28, 118, 14, 0.2
ROW_GROUPS, ROW_NAMES, AXIS, ROW_WIRES, ROW_HEAD = 82, 114, 258, 342, 376
ROW_LEGEND = ROW_HEAD + 92


@dataclass(frozen=True, slots=True)
class Block:
    """One box of the drawing."""

    name: str
    side_px: int
    """H (= W) of what it yields; 1 for a vector"""
    width: int
    """D: channels, or the length of a vector"""
    parameters: int
    """learnable numbers of this block alone"""
    state: State
    tapped: bool = False
    """the new head reads its features"""
    group: str = ""
    """words above it and its equal neighbours; empty: those of the state"""

    @property
    def shape(self) -> str:
        """What it yields: height x width x channels, or the length alone."""
        side = self.side_px
        return f"{self.width:,}" if side == 1 else f"{side} × {side} × {self.width:,}"


@dataclass(frozen=True, slots=True)
class Surgery:
    """A network with what is done to it; all that the drawing needs."""

    title: str
    input_px: int
    blocks: tuple[Block, ...]
    """in order; the last one is the pre-trained classifier where there is one"""
    head: Block | None
    """the new fully connected layer, its width the number of classes; None: nothing is done"""
    head_widths: tuple[int, ...]
    """of the new head from its input to its output: D, C, and a hidden layer between the two"""
    spread: bool = False
    """the new head reads standard deviations over positions beside the means"""

    @property
    def trained_parameters(self) -> int:
        """How many numbers learn."""
        learning = [b for b in self.blocks if b.state in ("trained", "random")]
        return sum(b.parameters for b in (*learning, *([self.head] if self.head else [])))

    @property
    def kept_parameters(self) -> int:
        """How many numbers the resulting network has."""
        kept = [b for b in self.blocks if b.state != "removed"]
        return sum(b.parameters for b in (*kept, *([self.head] if self.head else [])))


def surgery_of(
    graph: TapGraph,
    strategy: Strategy,
    cut: str | None,
    classes: int,
    *,
    reads: Sequence[str] | None = None,
    hidden: int = 0,
) -> Surgery:
    """What a strategy does to an exported network; see `plan_surgery`."""
    return plan_surgery(
        graph.stages,
        strategy,
        cut,
        classes,
        input_px=graph.preprocess.size_px,
        classifier=(graph.source_classes, classifier_parameters(graph)),
        reads=reads,
        hidden=hidden,
    )


def classifier_parameters(graph: TapGraph) -> int:
    """Learnable numbers of the pre-trained classifier, from the headers of the stored weights."""
    from math import prod

    from safetensors import safe_open

    with safe_open(graph.weights, framework="numpy") as weights:
        return sum(
            prod(weights.get_slice(name).get_shape())
            for name in weights.keys()
            if name.rpartition(".")[0] == graph.classifier
        )


def plan_surgery(
    stages: Sequence[StageInfo],
    strategy: Strategy,
    cut: str | None,
    classes: int,
    *,
    input_px: int,
    classifier: tuple[int, int],
    reads: Sequence[str] | None = None,
    hidden: int = 0,
) -> Surgery:
    """What a strategy does to a network.

    Args:
        stages: in order, the last one is the head: the features that the classifier reads.
        strategy: head_top (case 1), head_cut (case 2), finetune (3), scratch (4), all_stages, partial.
        cut: the last stage that is kept (head_cut), or that is frozen (partial); else None.
        classes: C of the new data.
        input_px: side of the input.
        classifier: classes and parameters of the pre-trained classifier; (0, 0): there is none.
        reads: outputs that the new head reads, as in `TapGraph.names` (`b3`, `b3/std`); default: the
            means of what the strategy leaves.
        hidden: width of a hidden layer in the new head; 0: none.

    Raises:
        ArgumentError: an unknown strategy or stage, a cut that the strategy lacks or cannot use.
    """
    names = [stage.name for stage in stages]
    _check(strategy, cut, names)
    last = len(stages) - 1 if cut is None else names.index(cut)
    states, taps = _states(strategy, last, len(stages))
    if reads is None:
        reads = [name for name, tapped in zip(names, taps, strict=True) if tapped]
    read_stages = [name.removesuffix(SPREAD) for name in reads]
    if unknown := set(read_stages) - {
        n for n, s in zip(names, states, strict=True) if s != "removed"
    }:
        raise ArgumentError("The new head cannot read this stage", received=min(unknown))
    before = [0, *(stage.parameters for stage in stages[:-1])]
    blocks = [
        Block(s.name, s.side_px, s.width, s.parameters - b, state, s.name in read_stages)
        for s, b, state in zip(stages, before, states, strict=True)
    ]
    inputs = sum(stages[names.index(name)].width for name in read_stages)
    widths = (inputs, hidden, classes) if hidden else (inputs, classes)
    if classifier[0]:
        blocks.append(Block("classifier", 1, classifier[0], classifier[1], "removed"))
    # A fully connected layer has a weight for every pair, and a bias for every output.
    weights = sum(a * b + b for a, b in pairwise(widths))
    head = Block("new head", 1, classes, weights, "new")
    spread = any(name.endswith(SPREAD) for name in reads)
    return Surgery(TITLES[strategy].format(cut=cut), input_px, tuple(blocks), head, widths, spread)


def overview(
    stages: Sequence[StageInfo],
    *,
    input_px: int,
    classifier: tuple[int, int],
    groups: Sequence[str],
    title: str,
) -> Surgery:
    """A network as it was pre-trained; `groups` says of every stage what it sees."""
    before = [0, *(stage.parameters for stage in stages[:-1])]
    blocks = [
        Block(s.name, s.side_px, s.width, s.parameters - b, "pretrained", group=group)
        for s, b, group in zip(stages, before, groups, strict=True)
    ]
    if classifier[0]:
        blocks.append(Block("classifier", 1, *classifier, "pretrained", group="decides"))
    return Surgery(title, input_px, tuple(blocks), None, ())


def _check(strategy: str, cut: str | None, names: Sequence[str]) -> None:
    if strategy not in TITLES:
        raise ArgumentError(
            "There is no strategy of this name",
            received=strategy,
            do=nearest(strategy, TITLES) or f"Strategies: {', '.join(TITLES)}.",
        )
    cuts = strategy in ("head_cut", "partial")
    if cuts != (cut is not None):
        what = "needs a stage to cut at" if cuts else "cuts at no stage"
        raise ArgumentError(f"The strategy {strategy} {what}", received=f"cut {cut}")
    if cut is not None and cut not in names[:-1]:
        raise ArgumentError(
            "There is no such stage to cut at",
            received=cut,
            do=f"Stages in order: {', '.join(names[:-1])}.",
        )


def _states(strategy: Strategy, last: int, count: int) -> tuple[list[State], list[bool]]:
    """State of each stage, and whether the new head reads it; `last` is the cut, or the last stage."""
    if strategy == "head_cut":
        kept: list[State] = ["frozen" if i <= last else "removed" for i in range(count)]
        return kept, [i == last for i in range(count)]
    top = [strategy == "all_stages" or i == count - 1 for i in range(count)]
    if strategy == "partial":
        return ["frozen" if i <= last else "trained" for i in range(count)], top
    whole: dict[str, State] = {"finetune": "trained", "scratch": "random"}
    return [whole.get(strategy, "frozen")] * count, top


# -- drawing -------------------------------------------------------------------------------------


def draw_surgery(surgery: Surgery) -> str:
    """The drawing as one SVG element; it may stand inline in a page, or in a file of its own."""
    key = "s" + hashlib.blake2b(repr(surgery).encode(), digest_size=5).hexdigest()
    picture = Block("image", surgery.input_px, 3, 0, "pretrained")
    row = (picture, *surgery.blocks)
    kept = sum(block.state != "removed" for block in row)
    places = [_place(block, i, surgery.input_px) for i, block in enumerate(row)]
    columns = max(len(row), kept + 1) if surgery.head else len(row)
    width = 2 * MARGIN + COLUMN * columns
    signs, legend_height = legend(_meanings(surgery), MARGIN, width, key)
    top = ROW_LEGEND if surgery.head else ROW_WIRES
    parts = [
        defs(key),
        f'<rect width="{width}" height="{top + legend_height}" rx="8" fill="#ffffff"/>',
        text(MARGIN, 30, surgery.title, 15.5, INK, "start", bold=True),
        text(MARGIN, 51, _learning(surgery), 13, MUTED, "start"),
        *_groups(surgery.blocks),
        *_flow(row, places),
        *(cuboid(b.state, p, key) for b, p in zip(row, places, strict=True)),
        *(_labels(b, i) for i, b in enumerate(row)),
    ]
    if surgery.head is not None:
        if kept < len(row):
            parts.append(cut_line(MARGIN + COLUMN * kept, ROW_NAMES - 10, ROW_WIRES - 26))
        parts += _new_head(surgery, surgery.head, places[1:], kept, key)
    parts.append(f'<g transform="translate(0 {top})">{signs}</g>')
    return svg(key, width, top + legend_height, surgery.title, description(surgery), parts)


def description(surgery: Surgery) -> str:
    """The drawing in words, for those who cannot see it."""
    said = [f"Input {surgery.input_px} by {surgery.input_px} pixels."]
    for block in surgery.blocks:
        words = block.group or WORDS[block.state]
        said.append(f"{block.name}: {block.shape}, {block.parameters:,} parameters, {words}.")
    if surgery.head is not None:
        taps = ", ".join(block.name for block in surgery.blocks if block.tapped)
        said.append(
            f"New head: reads {surgery.head_widths[0]:,} features of {taps}, tells "
            f"{surgery.head.width:,} classes apart, {surgery.head.parameters:,} parameters."
        )
    said.append(f"{_learning(surgery)}.")
    return " ".join(said)


def _learning(surgery: Surgery) -> str:
    if surgery.head is None:
        return f"{surgery.kept_parameters:,} parameters"
    return f"{surgery.trained_parameters:,} of {surgery.kept_parameters:,} parameters learn"


def _place(block: Block, column: int, input_px: int) -> Place:
    """Height by the root of the side, width by a root of the channels: both spans stay visible."""
    high = max(SHORTEST, TALLEST * min(1.0, (block.side_px / input_px) ** 0.5))
    back = SLANT * high
    wide = min(COLUMN - 26 - back, max(9.0, 4.4 * block.width**0.4))
    left = MARGIN + COLUMN * column + (COLUMN - wide - back) / 2
    return Place(left, AXIS - high / 2, wide, high, back)


def _labels(block: Block, column: int) -> str:
    """Name, shape and parameters above a block, in rows that all blocks share."""
    x = MARGIN + COLUMN * (column + 0.5)
    colour = MUTED if block.state == "removed" else INK
    name = block.name if len(block.name) <= 11 else f"…{block.name[-10:]}"
    side = "vector" if block.side_px == 1 else f"{block.side_px} × {block.side_px}"
    count = f"{block.parameters:,}" if block.parameters else "no weights"
    return (
        text(x, ROW_NAMES, name, 13.5, colour, bold=True)
        + text(x, ROW_NAMES + 18, side, 12.5, colour)
        + text(x, ROW_NAMES + 34, f"× {block.width:,}", 12.5, colour)
        + text(x, ROW_NAMES + 52, "pixels" if column == 0 else count, 12, MUTED)
    )


def _groups(blocks: Sequence[Block]) -> list[str]:
    """A bracket with words over neighbours that share their fate."""
    parts, column = [], 1
    for words, some in groupby(blocks, key=lambda block: block.group or WORDS[block.state]):
        members = list(some)
        edge = FILLS[members[0].state][3]
        left, right = MARGIN + COLUMN * column + 5, MARGIN + COLUMN * (column + len(members)) - 5
        column += len(members)
        path = f"M{left} {ROW_GROUPS + 12}v-5h{right - left}v5"
        parts.append(f'<path d="{path}" stroke="{edge}" stroke-width="1.5" fill="none"/>')
        parts.append(text((left + right) / 2, ROW_GROUPS, words, 12, edge, bold=True))
    return parts


def _flow(row: Sequence[Block], places: Sequence[Place]) -> list[str]:
    """Arrows from each block to the next; into what is removed nothing flows any more."""
    parts = []
    for block, here, there in zip(row[1:], places, places[1:], strict=False):
        if block.state == "removed":
            continue
        parts.append(line(f"M{here.right + 3:.1f} {AXIS}H{there.x - 8:.1f}"))
        parts.append(f'<path d="M{there.x - 9:.1f} {AXIS - 4}l7 4l-7 4z" fill="{LINE}"/>')
    return parts


def _new_head(
    surgery: Surgery, head: Block, places: Sequence[Place], column: int, key: str
) -> list[str]:
    """The new layer below the place of what it replaces, with a wire from every stage it reads."""
    middle = MARGIN + COLUMN * (column + 0.5)
    wide = min(COLUMN - 26.0, max(18.0, 4.4 * head.width**0.4))
    at = Place(middle - wide / 2 - 3, ROW_HEAD, wide, 30, 6)
    parts = []
    for block, place in zip(surgery.blocks, places, strict=True):
        if not block.tapped:
            continue
        start, low = place.y + place.h, ROW_WIRES
        parts.append(
            line(
                f"M{place.middle:.1f} {start:.1f}V{low - 8}q0 8 8 8H{at.middle - 8:.1f}q8 0 8 8"
                f"V{ROW_HEAD - 14}"
            )
        )
        parts.append(f'<circle cx="{place.middle:.1f}" cy="{start:.1f}" r="3.2" fill="{INK}"/>')
    arrow = f"M{at.middle - 4:.1f} {ROW_HEAD - 15}l4 8l4 -8z"
    across = " → ".join(f"{width:,}" for width in surgery.head_widths)
    parts += [
        f'<path d="{arrow}" fill="{LINE}"/>',
        cuboid("new", at, key),
        text(middle, ROW_HEAD + 49, head.name, 13, INK, bold=True),
        text(middle, ROW_HEAD + 66, across, 12.5, INK),
        text(middle, ROW_HEAD + 82, f"{head.parameters:,}", 12, MUTED),
    ]
    return parts


def _meanings(surgery: Surgery) -> list[tuple[str, str]]:
    """Entries of the legend: what a sign means, and which sign."""
    present = {block.state for block in surgery.blocks} - {"pretrained"}
    found = [(words, str(state)) for state, words in WORDS.items() if state in present]
    if surgery.head is not None:
        pooled = "mean and standard deviation" if surgery.spread else "mean"
        found.append((WORDS["new"], "new"))
        found.append((f"read by the new head: {pooled} over height and width", "tap"))
    return [*found, ("numbers: shape of what a block yields, then its parameters", "")]
