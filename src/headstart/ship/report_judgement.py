"""What the report shows of evaluation.json beyond the scores: rows for its tables, as they are stored.

Curves, thresholds, people, parts of the images, prediction sets, images unlike the training's, and
the learning curve. Whatever is not stored, or damaged, is left out.
"""

from __future__ import annotations

from typing import Any

from headstart.judge.operating import told
from headstart.ship.chart_parts import Record, number, record, records
from headstart.ship.page import texts
from headstart.ship.report_numbers import words

FIRST_AIM = ("sensitivity", 0.95)
"""the aim whose table is open; the others are folded"""
MOST_COLOURED = 8
"""classes whose curves can be told apart by colour"""


def facts(evaluation: Record, plan: Record) -> dict[str, Any]:
    """All that the templates of the judgement need."""
    sets, unlike = record(evaluation.get("sets")), record(evaluation.get("unlike"))
    return {
        "curves": _areas(evaluation),
        "front": front(evaluation),
        "operating": operating(evaluation),
        "readers": readers(evaluation),
        "parts": parts(evaluation),
        "sites": sites(evaluation),
        "sets": _sets(sets),
        "unlike": _unlike(unlike),
        "curve": _learning(evaluation, plan),
        "judge_notes": texts(evaluation.get("notes")),
        "before_relabel": record(evaluation.get("before_relabel")).get("sentence"),
        "listed": number(record(evaluation.get("suggestions")).get("listed")) or 0,
    }


def metric(value: Any) -> Record:
    """A stored figure with its interval; empty where there is no number."""
    row = record(value)
    return row if number(row.get("value")) is not None else {}


def _areas(evaluation: Record) -> list[Record]:
    """The areas under the curves of every class."""
    return [
        {
            "name": row.get("name"),
            "positives": row.get("positives"),
            "auc": metric(row.get("auc")),
            "precision": metric(row.get("average_precision")),
        }
        for row in records(evaluation.get("curves"))
    ]


def front(evaluation: Record) -> int:
    """The class whose curve is brought forward at first: none (-1), or of many the one with the
    smallest area."""
    areas = [row["auc"].get("value", 2.0) for row in _areas(evaluation)]
    return areas.index(min(areas)) if len(areas) > MOST_COLOURED else -1


def operating(evaluation: Record) -> list[Record]:
    """Thresholds by what they aim at, the most asked for first: aim, other rate, rows, refused."""
    by_aim: dict[tuple[str, float], list[Record]] = {}
    for row in records(evaluation.get("operating")):
        aim = record(row.get("target"))
        rate, value = aim.get("rate"), number(aim.get("value"))
        if rate in ("sensitivity", "specificity") and value is not None:
            by_aim.setdefault((str(rate), value), []).append(row)
    order = sorted(by_aim, key=lambda aim: aim != FIRST_AIM)
    return [_aim(rate, value, by_aim[rate, value]) for rate, value in order]


def _aim(rate: str, value: float, rows: list[Record]) -> Record:
    made = [_point(row) for row in rows if row.get("refused") is not True]
    refused = [row for row in rows if row.get("refused") is True]
    sources = [str(row["chosen_on"]) for row in made if row.get("chosen_on")]
    return {
        "rate": rate,
        "other": "specificity" if rate == "sensitivity" else "sensitivity",
        "value": value,
        "rows": made,
        "few": [row for row in refused if _too_few(row)],
        "refused": [row for row in refused if not _too_few(row)],
        "predictive": any(row["ppv"] for row in made),
        "chosen_on": max(dict.fromkeys(sources), key=sources.count) if sources else "",
        "unsure": [row for row in made if row["confirmable"] is False],
    }


def _too_few(row: Record) -> bool:
    """Whether more images of the side that counts would have been enough."""
    at_hand, needed = number(row.get("at_hand")), number(row.get("needed"))
    return at_hand is not None and needed is not None and at_hand < needed


def _point(row: Record) -> Record:
    """One threshold, every figure a record or empty."""
    figures = {key: metric(row.get(key)) for key in ("sensitivity", "specificity", "ppv", "npv")}
    plain = {key: number(row.get(key)) for key in ("threshold", "prevalence", "needed")}
    kept = {key: row.get(key) for key in ("name", "chosen_on", "confirmable")}
    threshold = plain["threshold"]
    return {**kept, **plain, **figures, "told": None if threshold is None else told(threshold)}


def readers(evaluation: Record) -> list[Record]:
    """Studies of people beside the model: each reader's row, the mean last; or why there is none."""
    found: list[Record] = []
    for study in records(evaluation.get("readers")):
        if study.get("refused") is True:
            found.append({"refused": True, "sentence": study.get("sentence")})
            continue
        rows = [_reader(row) for row in records(study.get("readers"))]
        mean = record(study.get("mean"))
        found.append(
            {
                "name": study.get("name"),
                "sentence": study.get("sentence"),
                "threshold": number(study.get("threshold")),
                "chart": f"readers_{len(found)}",
                "rows": rows + ([_reader(mean) | {"mean": True}] if mean else []),
            }
        )
    return found


def _reader(row: Record) -> Record:
    keys = ("sensitivity", "specificity", "ahead_sensitivity", "ahead_specificity")
    return {"name": row.get("name"), **{key: metric(row.get(key)) for key in keys}}


def parts(evaluation: Record) -> list[Record]:
    """Columns whose values are compared: rows, the worst first, and the sentence on the worst."""
    found = []
    for k, column in enumerate(records(evaluation.get("subgroups"))):
        name = str(column.get("metric") or "accuracy")
        worst, small = column.get("worst"), texts(column.get("too_small"))
        rows = [
            {
                "value": row.get("value"),
                "n": row.get("n"),
                "score": metric(_named(row.get("metrics"), name)),
                "difference": metric(row.get("difference")),
                "real": row.get("real"),
                "small": row.get("value") in small,
                "worst": worst is not None and row.get("value") == worst,
            }
            for row in records(column.get("subgroups"))
        ]
        rows.sort(key=lambda row: (not row["worst"], row["small"], -(number(row["n"]) or 0)))
        found.append(
            {
                "column": column.get("column"),
                "metric": name,
                "metric_words": words(name),
                "sentence": column.get("sentence"),
                "chart": f"parts_{k}",
                "rows": rows,
            }
        )
    return found


def sites(evaluation: Record) -> Record:
    """How good models were at sites that they had not seen, the worst first; only the sentence where
    none could be held out, nothing where there are none."""
    stored = record(evaluation.get("sites"))
    if not stored:
        return {}
    name = str(stored.get("metric") or "accuracy")
    rows = [
        {
            "value": row.get("site"),
            "n": row.get("n"),
            "score": metric(_named(row.get("metrics"), name)),
            "worst": stored.get("worst") is not None and row.get("site") == stored.get("worst"),
            "small": False,
        }
        for row in records(stored.get("sites"))
    ]
    rows.sort(key=lambda row: (not row["worst"], -(number(row["n"]) or 0)))
    return {
        "column": stored.get("column"),
        "metric": name,
        "metric_words": words(name),
        "sentence": stored.get("sentence"),
        "protocol": stored.get("protocol"),
        "chart": "sites",
        "mean": metric(stored.get("mean")),
        "new_site": metric(stored.get("new_site")),
        "rows": rows,
    }


def _named(metrics: Any, name: str) -> Record:
    return next((row for row in records(metrics) if row.get("name") == name), {})


def _sets(stored: Record) -> Record:
    """Prediction sets: what is promised and what was seen; empty where nothing is stored."""
    if not stored:
        return {}
    seen = record(stored.get("seen"))
    return {
        "sentence": stored.get("sentence"),
        "promised": number(stored.get("coverage")),
        "per_class": stored.get("per_class"),
        "coverage": metric(seen.get("coverage")),
        "size": number(seen.get("size")),
        "single": number(seen.get("single")),
        "of_class": [
            {"name": row.get("class"), "n": row.get("n"), "share": metric(row)}
            for row in records(seen.get("of_class"))
        ],
    }


def _unlike(stored: Record) -> Record:
    """How often images like the training's are called unlike it."""
    if not stored:
        return {}
    return {
        "sentence": stored.get("sentence"),
        "rate": number(stored.get("rate")),
        "found": metric(stored.get("false_alarms")) or metric(stored.get("flagged")),
    }


def _learning(evaluation: Record, plan: Record) -> Record:
    """What twice the images would gain, and how the curve was tested on what is known."""
    stored = record(evaluation.get("learning_curve"))
    test = record(stored.get("back_test"))
    known = all(number(test.get(key)) is not None for key in ("n", "low", "high", "seen"))
    return {
        "sentence": stored.get("sentence"),
        "metric": plan.get("metric") or stored.get("criterion"),
        "test": test if known else {},
    }
