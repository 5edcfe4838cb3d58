"""Thumbnails of what the data gate found, so that a person can judge it by eye.

A bounded number of pairs: the same picture under two labels first, then on both sides of the given
split, then near-duplicates, then plain copies. Only formats; every pair was found by `data.check`
or by `gate`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.data.check import Findings
from headstart.data.images import ImageRefused, decode, read_bytes, thumbnail
from headstart.data.sources import Dataset, Sample
from headstart.gate import Gate

MOST_PAIRS = 24
LEAST_EACH = 3
"""pairs that every kind of finding may show, however many there are of a graver kind"""
LISTED = 6
"""further names of one group; the rest is counted"""
THUMBNAIL_PX = 160
FINDINGS = ("conflict", "leak", "near", "copy")
"""from the gravest on: two labels, both sides of the given split, nearly the same file, the same"""


@dataclass(frozen=True, slots=True)
class _Found:
    """Files that show one picture; `score` is None for equal contents."""

    finding: str
    kind: str
    score: float | None
    conflict: bool
    leak: bool
    samples: tuple[Sample, ...]


def findings_gallery(dataset: Dataset, findings: Findings, gate: Gate) -> dict[str, Any]:
    """findings.json: the pairs to look at, with thumbnails.

    Keys: pairs [{finding, kind, score, conflict, leak, images [two of {path, class, split,
    thumbnail}], others [path], more}], counts and more {finding: how many there are, how many of
    them are not among the pairs}. `finding` is the gravest of conflict, leak, near, copy; `kind` is
    "same content" or what happened to the picture; a thumbnail is WebP in base64, or None when the
    file has vanished; `others` and `more` are the rest of a group of more than two files.
    """
    found = _everything(dataset, findings, gate)
    shown = _choose(found)
    counts = {name: sum(f.finding == name for f in found) for name in FINDINGS}
    return {
        "pairs": [_pair(dataset, f) for f in shown],
        "counts": counts,
        "more": {name: n - sum(f.finding == name for f in shown) for name, n in counts.items()},
    }


def _everything(dataset: Dataset, findings: Findings, gate: Gate) -> list[_Found]:
    """All pairs and groups, each once, under the gravest thing that is wrong with it."""
    by_path = {sample.path: sample for sample in dataset.samples}
    conflicts, leaks = set(findings.label_conflicts), set(findings.leaks)
    found = []
    for group in findings.duplicates:
        samples = tuple(by_path[path] for path in group)
        conflict, leak = group in conflicts, group in leaks
        finding = "conflict" if conflict else "leak" if leak else "copy"
        found.append(_Found(finding, "same content", None, conflict, leak, samples))
    for pair in gate.near:
        samples = tuple(by_path[path] for path in pair.paths)
        finding = "conflict" if pair.conflict else "leak" if pair.leak else "near"
        found.append(_Found(finding, pair.kind, pair.score, pair.conflict, pair.leak, samples))
    return found


def _choose(found: Sequence[_Found]) -> list[_Found]:
    """At most MOST_PAIRS, the gravest first, a few of every kind.

    Conflicts and leaks begin with the surest; near-duplicates with the least sure, which are the
    ones that a person should look at.
    """
    ranked = {name: [f for f in found if f.finding == name] for name in FINDINGS}
    for name, rows in ranked.items():
        sign = 1 if name == "near" else -1
        rows.sort(key=lambda f: sign * (1.0 if f.score is None else f.score))
    places = {name: min(LEAST_EACH, len(rows)) for name, rows in ranked.items()}
    for name, rows in ranked.items():
        places[name] += min(len(rows) - places[name], MOST_PAIRS - sum(places.values()))
    return [f for name, rows in ranked.items() for f in rows[: places[name]]]


def _pair(dataset: Dataset, found: _Found) -> dict[str, Any]:
    first, second = _two(found)
    rest = [s.path for s in found.samples if s is not first and s is not second]
    return {
        "finding": found.finding,
        "kind": found.kind,
        "score": None if found.score is None else round(found.score, 4),
        "conflict": found.conflict,
        "leak": found.leak,
        "images": [_image(dataset, sample) for sample in (first, second)],
        "others": rest[:LISTED],
        "more": len(rest[LISTED:]),
    }


def _two(found: _Found) -> tuple[Sample, Sample]:
    """Two files of a group that show what is wrong with it."""
    first, *rest = found.samples
    for second in rest:
        if found.finding == "conflict" and second.label != first.label:
            return first, second
        if found.finding == "leak" and (second.split == "test") != (first.split == "test"):
            return first, second
    return first, rest[0]


def _image(dataset: Dataset, sample: Sample) -> dict[str, Any]:
    return {
        "path": sample.path,
        "class": dataset.classes[sample.label],
        "split": sample.split,
        "thumbnail": _thumbnail(dataset.locate(sample)),
    }


def _thumbnail(path: Path) -> str | None:
    try:
        image = decode(read_bytes(path), min_side_px=THUMBNAIL_PX, where=path)
    except ImageRefused:
        return None  # it vanished since it was checked; its name is still worth showing
    return base64.b64encode(thumbnail(image, THUMBNAIL_PX)).decode()
