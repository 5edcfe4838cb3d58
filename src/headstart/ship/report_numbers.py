"""Numbers and names as people read them: the filters of the templates."""

from __future__ import annotations

import json

from headstart.ship.chart_parts import is_share, number

MISSING = "–"


def count(value: object) -> str:
    """A whole number with thousands separated."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (
        f"{value:,}" if isinstance(value, int | float) else MISSING if value is None else str(value)
    )


def score(value: object, metric: object = "accuracy") -> str:
    """A score: shares in per cent, all others with three decimals.

    Where candidates are compared a log loss is stored negated, so that more is better; the sign
    is not shown.
    """
    if not isinstance(value, int | float):
        return MISSING
    value = abs(value) if metric == "log_loss" else value
    return f"{value:.1%}".replace("%", "\u00a0%") if is_share(metric) else f"{value:.3f}"


def percent(value: object) -> str:
    """A share without a needless digit: 95 %, 97.5 %."""
    return score(value).replace(".0\u00a0", "\u00a0")


def interval(metric: object, name: object = None) -> str:
    """The two ends of a metric's interval, or a dash when there is none."""
    row = metric if isinstance(metric, dict) else {}
    low, high = row.get("low"), row.get("high")
    if low is None or high is None:
        return MISSING
    called = name or row.get("name")
    start = f"{100 * low:.1f}" if is_share(called) else score(low, called)
    return f"{start} to {score(high, called)}"


def spread(value: object, metric: object = "accuracy") -> str:
    """A standard error behind its score: shares in points of a hundred, without the unit."""
    if not isinstance(value, int | float):
        return ""
    return f"±\u00a0{points(value, metric)}"


def points(value: object, metric: object = "accuracy") -> str:
    """A difference of scores: shares in points of a hundred, all others with three decimals."""
    if not isinstance(value, int | float):
        return MISSING
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.3f}"


def signed(value: object, metric: object = "accuracy") -> str:
    """A gain, with its sign."""
    if not isinstance(value, int | float):
        return MISSING
    text = f"{100 * value:+.1f}" if is_share(metric) else f"{value:+.3f}"
    return text.replace("-", "\u2212")


def duration(seconds: object) -> str:
    """Seconds as people say them."""
    value = number(seconds)
    if value is None or value < 0:
        return MISSING
    if value < 90:
        return f"{value:.0f} s"
    return f"{value / 60:.1f} min" if value < 5_400 else f"{value / 3_600:.1f} h"


def words(name: object) -> str:
    """A stored name as words: balanced_accuracy becomes balanced accuracy."""
    if not name:
        return MISSING
    said = str(name).replace("_", " ")
    return {"auc": "AUC", "macro f1": "macro F1"}.get(said, said)


def plain(value: object) -> str:
    """A setting's value as text."""
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def begun(text: object) -> str:
    """A text as a sentence begins; the rest of it stays as it is.

    >>> begun("mean AUC")
    'Mean AUC'
    """
    said = str(text or "")
    return said[:1].upper() + said[1:]
