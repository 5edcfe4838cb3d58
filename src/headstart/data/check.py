"""Look at every file once, before anything is trained on it.

Every image is decoded whole, so that a broken one is named now and not in the middle of a night of
training; its bytes are hashed, so that copies are known before the split is drawn.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from headstart.data.crew import look, look_at_many
from headstart.data.images import ImageInfo
from headstart.data.near import Fingerprint
from headstart.data.sources import Dataset, Sample
from headstart.errors import DataError, show
from headstart.parallel import ordered_map, progress

CREW_FROM = 5_000
"""files from which processes of their own, which take a second to start, are worth it"""
REFUSED_SHARE_LIMIT = 0.5
"""With more refused files than this share, the folder is probably not what the user thinks."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A file that cannot be used, and why (a closed list of reasons)."""

    path: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Findings:
    """What is in the folder. `infos[i]` describes `dataset.samples[i]`; None when it is refused."""

    infos: tuple[ImageInfo | None, ...]
    prints: tuple[Fingerprint | None, ...]
    """what a picture is recognised by, one per sample"""
    refused: tuple[Refused, ...]
    duplicates: tuple[tuple[str, ...], ...]
    """Paths with the same content, one tuple per content."""
    label_conflicts: tuple[tuple[str, ...], ...]
    """Those among them that lie under more than one class."""
    leaks: tuple[tuple[str, ...], ...]
    """Those among them that lie on both sides of the user's own split."""


def check(dataset: Dataset, workers: int, min_side_px: int) -> Findings:
    """Decode and hash every sample in parallel; find the broken ones and exact duplicates.

    Args:
        min_side_px: the shorter side that later steps need; JPEGs are decoded no larger than needed.

    Raises:
        DataError: no file, or less than half of the files, can be read.
    """

    samples = dataset.samples
    paths = [dataset.locate(sample) for sample in samples]
    if len(samples) >= CREW_FROM and workers > 1:
        found = look_at_many(paths, min_side_px, workers)
    else:
        # Small files cost little more than handing them to a thread; still every thread gets its share.
        chunk = max(1, min(64, len(samples) // (8 * workers)))
        found = ordered_map(partial(look, min_side_px=min_side_px), paths, workers, chunk)
    looked = list(progress(found, len(samples), "checking"))
    infos = tuple(info if isinstance(info, ImageInfo) else None for info, _ in looked)
    prints = tuple(found if isinstance(found, Fingerprint) else None for _, found in looked)
    refused = tuple(
        Refused(sample.path, reason, detail)
        for sample, (reason, detail) in zip(samples, looked, strict=True)
        if isinstance(reason, str) and isinstance(detail, str)
    )
    if len(refused) > REFUSED_SHARE_LIMIT * len(samples):
        raise DataError(
            f"{len(refused)} of {len(samples)} files cannot be read as images",
            where=dataset.root,
            received=_examples(refused),
            do="Check that this is the folder you meant, and that the files were copied whole.",
        )
    copies = _copies(samples, infos)
    return Findings(
        infos=infos,
        prints=prints,
        refused=refused,
        duplicates=_paths(copies),
        label_conflicts=_paths(c for c in copies if len({s.label for s in c}) > 1),
        leaks=_paths(c for c in copies if len({s.split == "test" for s in c}) > 1),
    )


def _copies(
    samples: tuple[Sample, ...], infos: tuple[ImageInfo | None, ...]
) -> list[tuple[Sample, ...]]:
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample, info in zip(samples, infos, strict=True):
        if info is not None:
            by_content[info.content_hash].append(sample)
    return [tuple(group) for group in by_content.values() if len(group) > 1]


def _paths(groups: Iterable[tuple[Sample, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(sample.path for sample in group) for group in groups)


def _examples(refused: tuple[Refused, ...]) -> str:
    counts = Counter(item.reason for item in refused)
    reasons = ", ".join(f"{n} x {reason}" for reason, n in counts.most_common())
    some = ", ".join(f"{item.path} ({item.detail})" for item in refused[:3])
    return f"{reasons}; for example {some}"


def to_json(dataset: Dataset, findings: Findings, parts: Callable[[int], str]) -> dict[str, Any]:
    """data.json. `parts(i)` tells where sample i went: train, test, or the reason it was left out."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in dataset.classes}
    for i, sample in enumerate(dataset.samples):
        counts[dataset.classes[sample.label]][parts(i)] += 1
    known = [info for info in findings.infos if info is not None]
    return {
        "root": show(dataset.root.resolve().name),
        "n": len(known),
        "classes": list(dataset.classes),
        "counts": [
            {
                "class": name,
                "total": counts[name]["train"] + counts[name]["test"],
                "train": counts[name]["train"],
                "test": counts[name]["test"],
            }
            for name in dataset.classes
        ],
        "unreadable": [
            {"path": item.path, "reason": item.reason, "detail": item.detail}
            for item in findings.refused
        ],
        "ignored": [{"path": path, "reason": reason} for path, reason in dataset.ignored],
        "duplicates": [list(group) for group in findings.duplicates],
        "label_conflicts": [list(group) for group in findings.label_conflicts],
        "leaks": [list(group) for group in findings.leaks],
        "formats": dict(Counter(info.format for info in known).most_common()),
        "width_px": _spread([info.width for info in known]),
        "height_px": _spread([info.height for info in known]),
    }


def _spread(values: list[int]) -> dict[str, float] | None:
    if not values:
        return None
    return {"min": min(values), "median": median(values), "max": max(values)}


NAMED, MOST_INNER = 12, 50
"""classes that are named in a sentence; sub-folders that may be classes"""


def named_classes(counts: Mapping[str, int]) -> str:
    """How many classes, and how many images each of them has.

    >>> named_classes({"ants": 123, "bees": 98})
    '2 classes: ants (123), bees (98)'
    """
    some = [f"{show(name)} ({n:,})" for name, n in list(counts.items())[:NAMED]]
    more = f" and {len(counts) - NAMED:,} more" if len(counts) > NAMED else ""
    return f"{len(counts):,} classes: {', '.join(some)}{more}"


def inner_classes(dataset: Dataset) -> str:
    """A warning, where the same sub-folders lie in every class: perhaps they are the classes."""
    inside: dict[int, set[str]] = defaultdict(set)
    for sample in dataset.samples:
        _, found, rest = f"/{sample.path}".partition(f"/{dataset.classes[sample.label]}/")
        inside[sample.label].add(rest.partition("/")[0] if found and "/" in rest else "")
    names = inside[0]
    if not 2 <= len(names) <= MOST_INNER or "" in names or any(v != names for v in inside.values()):
        return ""
    listed = ", ".join(map(show, sorted(names)[:NAMED]))
    return (
        f"Every class folder holds the same sub-folders ({listed}). If these are the classes, give a "
        "folder that holds them and nothing else, or a table (--table)."
    )


def content_digest(root: Path, contents: Iterable[str]) -> str:
    """One digest for a set of images by content alone: names, order and folder do not matter."""
    digest = hashlib.blake2b(digest_size=16)
    for content in sorted(contents):
        digest.update(content.encode())
    return digest.hexdigest()
