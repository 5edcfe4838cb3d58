"""What a notebook shows of results, models and answers: small tables without any script.

Everything that can be shown passes `_safe`, the one place where names of files and classes, which may
hold anything, become text of a page.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headstart.errors import show

MOST_ROWS = 12
MOST_NAMES = 20
MISSING = "–"
Record = Mapping[str, Any]


def _safe(value: object) -> str:
    """Text for between two tags: no markup, no control characters, no marks that reverse the line."""
    return html.escape(show(value), quote=True)


def sentence(text: object) -> str:
    """A paragraph; nothing for an empty one.

    >>> sentence("<b>"), sentence("")
    ('<p>&lt;b&gt;</p>', '')
    """
    return f"<p>{_safe(text)}</p>" if text else ""


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table of plain text; of many rows the first.

    >>> table(["class"], [["<a>"]])
    '<table><thead><tr><th>class</th></tr></thead><tbody><tr><td>&lt;a&gt;</td></tr></tbody></table>'
    """
    rows = list(rows)
    body = "".join(
        "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    head = "".join(f"<th>{_safe(cell)}</th>" for cell in header)
    made = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    rest = len(rows) - MOST_ROWS
    return made + (sentence(f"and {rest:,} more") if rest > 0 else "")


def scores_html(evaluation: Record) -> str:
    """Every score with its interval, and what is said of sites and parts of the images."""
    rows = [
        (_words(row.get("name")), _number(row.get("value")), _ends(row), row.get("n", MISSING))
        for row in _records(evaluation.get("metrics"))
    ]
    if not rows:
        return sentence("No scores are stored.")
    said = [_record(evaluation.get("sites")).get("sentence")]
    said += [row.get("sentence") for row in _records(evaluation.get("subgroups"))]
    return table(("score", "value", "95 % interval", "images"), rows) + "".join(map(sentence, said))


def plan_html(plan: Record) -> str:
    """The decision: which case, what was chosen, the candidates, why."""
    case, prior = plan.get("case"), plan.get("case_prior")
    text = "Rule of thumb: case " + (" or ".join(map(str, prior or [])) or MISSING)
    if plan.get("chosen") is not None:
        text += f"; chosen: {plan['chosen']}" + (f", case {case}" if case is not None else "")
    metric = plan.get("metric")
    rows = [
        (row.get("name"), row.get("case") or MISSING, _number(row.get("score"), metric))
        for row in _records(plan.get("candidates"))
    ]
    made = sentence(f"{text}.")
    if rows:
        made += table(("candidate", "case", f"cross-validated {_words(metric)}"), rows)
    reasons = plan.get("reasons")
    return made + "".join(map(sentence, (reasons if isinstance(reasons, list) else [])[:2]))


def compared_html(stored: Record) -> str:
    """All strategies on the same images, and which differences are real."""
    metric = stored.get("metric")
    rows = [
        (
            row.get("name"),
            row.get("case") or MISSING,
            _number(row.get("score"), metric),
            _ends(row, metric),
            f"{_number(row.get('seconds'), digits=1)} s",
        )
        for row in _records(stored.get("rows"))
    ]
    header = ("strategy", "case", _words(metric), "95 % interval", "time")
    return sentence(stored.get("sentence")) + table(header, rows)


def model_html(classes: Sequence[str], network: object, size_px: object, licence: object) -> str:
    """A model that is ready to answer."""
    named = ", ".join(classes[:MOST_NAMES])
    named += f" and {len(classes) - MOST_NAMES:,} more" if len(classes) > MOST_NAMES else ""
    return table(
        ("a model made by headstart", ""),
        [
            ("classes", f"{len(classes):,}: {named}"),
            ("network", network),
            ("input", f"{size_px} x {size_px} px"),
            ("licence of the weights", licence),
        ],
    )


def answer_html(
    path: str,
    predicted: str | None,
    confidence: float | None,
    error: str | None,
    possible: Sequence[str] | None,
    unlike: bool | None,
) -> str:
    """The answer for one file, or why there is none."""
    if error is not None:
        return table(("file", "error"), [(path, error)])
    header, row = ["file", "predicted", "confidence"], [path, predicted, _number(confidence)]
    if possible is not None:
        header.append("may be")
        row.append(", ".join(possible) or "none of the classes")
    if unlike is not None:
        header.append("unlike the training images")
        row.append("yes" if unlike else "no")
    return table(header, [row])


def _number(value: object, metric: object = None, digits: int = 3) -> str:
    """Where candidates are compared a log loss is stored negated; nobody wants to read the sign."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return MISSING
    return f"{abs(value) if metric == 'log_loss' else value:.{digits}f}"


def _ends(row: Record, metric: object = None) -> str:
    ends = [_number(row.get(end), metric) for end in ("low", "high")]
    if MISSING in ends:
        return MISSING
    return " to ".join(reversed(ends) if metric == "log_loss" else ends)


def _words(name: object) -> str:
    return "AUC" if name == "auc" else str(name or "score").replace("_", " ")


def _record(value: object) -> Record:
    return value if isinstance(value, dict) else {}


def _records(value: object) -> list[Record]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
