"""What the report shows of pictures.json: mistakes with heat maps, doubtful labels, filters, the map.

A picture is shown when it is WebP or PNG and nothing else; whatever is damaged is left out.
"""

from __future__ import annotations

from typing import Any

from headstart.ship.chart_parts import Record, number, record, records
from headstart.ship.page import picture, texts

MOST_SIDE_PX = 4096
"""of a picture that is shown; larger ones are not of our making"""


def pictures(stored: Record) -> dict[str, Any]:
    """All that the templates need, every picture as a data address or None."""
    points, classes = placed(record(stored.get("map")))
    mapped = record(stored.get("map"))
    return {
        "mistakes": [_answer(row) for row in records(stored.get("mistakes"))],
        "right": [_answer(row) for row in records(stored.get("right"))],
        "heat": _heat(record(stored.get("heat"))),
        "suggestions": [_suggestion(row) for row in records(stored.get("suggestions"))],
        "filters": _filters(record(stored.get("filters"))),
        "map": {
            "caption": mapped.get("caption"),
            "n": len(points),
            "of": number(mapped.get("of")),
            "kept": number(mapped.get("neighbours_kept")),
            "wrong": sum(row["wrong"] for row in points),
            "classes": len(classes),
            "card": _card(points, classes),
        },
        "notes": texts(stored.get("notes")),
    }


# -- answers ---------------------------------------------------------------------------------------


def _answer(row: Record) -> Record:
    """One image: what it was labelled, what was answered, and where the network looked."""
    width, height = _size(row)
    heats = [
        {"class": row.get(key), "source": source, "kind": kind}
        for key, kind in (("predicted", "heat_predicted"), ("label", "heat_label"))
        if (source := picture(row.get(kind))) is not None
    ]
    same = row.get("predicted") == row.get("label")  # then both maps are one
    return {
        **{key: row.get(key) for key in ("path", "label", "predicted", "stage")},
        "confidence": number(row.get("confidence")),
        "source": picture(row.get("picture")),
        "width": width,
        "height": height,
        "probabilities": _probabilities(row),
        "heats": heats[:1] if same else heats,
    }


def _probabilities(row: Record) -> list[Record]:
    """Classes with their probabilities, largest first; label and prediction are marked."""
    stored = row.get("probabilities")
    pairs = [
        (pair[0], share)
        for pair in (stored if isinstance(stored, list) else [])
        if isinstance(pair, list) and len(pair) == 2 and (share := number(pair[1])) is not None
    ]
    return [
        {
            "class": name,
            "share": share,
            "bar": round(100 * min(1.0, max(0.0, share)), 2),
            "labelled": name == row.get("label"),
            "predicted": name == row.get("predicted"),
        }
        for name, share in pairs
    ]


def _size(row: Record) -> tuple[int | None, int | None]:
    """Width and height in px, so that the page does not jump; None where they make no sense."""
    sides = [number(row.get(side)) for side in ("width", "height")]
    if any(side is None or not 0 < side <= MOST_SIDE_PX for side in sides):
        return None, None
    return int(sides[0] or 0), int(sides[1] or 0)


def _heat(stored: Record) -> Record:
    """How the heat maps were made and tested."""
    kept = {key: stored.get(key) for key in ("method", "stage", "sentence")}
    return kept if any(kept.values()) else {}


def _suggestion(row: Record) -> Record:
    """One image whose label, or which itself, is in doubt; what the caption says is no reason more."""
    width, height = _size(row)
    reasons = str(row.get("reason") or "").split("; ")
    return {
        **{key: row.get(key) for key in ("path", "label", "suggested")},
        "reason": "; ".join(one for one in reasons if not one.startswith("held-out answer: ")),
        "given": number(row.get("probability_given")),
        "source": picture(row.get("picture")),
        "width": width,
        "height": height,
    }


# -- filters ---------------------------------------------------------------------------------------


def _filters(stored: Record) -> Record:
    """The kernels of the first layer, and for each stage the patches that excite some of its units."""
    first = _sources(stored.get("first"))
    stages = []
    for row in records(stored.get("stages")):
        units = [
            {"unit": unit.get("unit"), "mostly": unit.get("mostly"), "patches": sources}
            for unit in records(row.get("units"))
            if (sources := _sources(unit.get("patches")))
        ]
        if units:
            kept = {key: row.get(key) for key in ("stage", "sentence")}
            stages.append({**kept, "sees_px": number(row.get("sees_px")), "units": units})
    if not first and not stages:
        return {}
    said = {key: stored.get(key) for key in ("sentence", "first_sentence")}
    return {**said, "first": first, "stages": stages}


def _sources(value: Any) -> list[str]:
    found = [picture(encoded) for encoded in value] if isinstance(value, list) else []
    return [source for source in found if source is not None]


# -- the map ---------------------------------------------------------------------------------------


def placed(stored: Record) -> tuple[list[Record], list[str]]:
    """The points of a stored map that have a place and a class, and the names of the classes.

    Args:
        stored: what `explain.map.map_json` made.
    """
    classes = stored.get("classes")
    names = [str(name) for name in classes] if isinstance(classes, list) else []
    points = []
    for row in records(stored.get("points")):
        x, y, label, predicted = (number(row.get(k)) for k in ("x", "y", "label", "predicted"))
        if x is None or y is None or not _is_class(label, names) or not _is_class(predicted, names):
            continue
        answers = {"label": int(label or 0), "predicted": int(predicted or 0)}
        points.append({**row, **answers, "x": x, "y": y, "wrong": row.get("wrong") is True})
    return points, names


def _is_class(value: float | None, classes: list[str]) -> bool:
    return value is not None and float(value).is_integer() and 0 <= value < len(classes)


def _card(points: list[Record], classes: list[str]) -> Record:
    """What the page shows when a point is touched, kept small: there are up to 2,000 of them."""
    rows = []
    for row in points:
        source, split = picture(row.get("thumbnail")), row.get("split")
        rows.append(
            [
                row["x"],
                row["y"],
                str(row.get("path")),
                row["label"],
                row["predicted"],
                int(row["wrong"]),
                source,
                split if isinstance(split, str) else None,
            ]
        )
    return {"classes": classes, "points": rows}
