"""Shares, differences and their intervals in the words of the sentences that people read."""

from __future__ import annotations

from headstart.judge.metrics import Metric


def percent(share: float) -> str:
    """A share, with as many digits as keep it apart from nothing and from all.

    >>> percent(0.71), percent(0.995), percent(0.9997), percent(1.0)
    ('71 %', '99.5 %', '99.97 %', '100 %')
    """
    return f"{_digits(100 * share)} %"


def interval(metric: Metric) -> str:
    """The interval of a share.

    >>> interval(Metric("sensitivity", 0.95, 0.861, 0.999, 60, "Wilson"))
    '95 % interval 86 to 99.9 %'
    """
    assert metric.low is not None and metric.high is not None
    return f"95 % interval {_digits(100 * metric.low)} to {percent(metric.high)}"


def score(metric: Metric) -> str:
    """A score with its interval: in per cent, the log loss in nats.

    >>> score(Metric("accuracy", 0.9, 0.84, 0.94, 100, "Wilson"))
    '90 % (95 % interval 84 to 94 %)'
    """
    if metric.value is None:
        return metric.method
    if metric.low is None or metric.high is None:
        return percent(metric.value)
    if metric.name == "log_loss":
        return f"{metric.value:.3f} (95 % interval {metric.low:.3f} to {metric.high:.3f})"
    return f"{percent(metric.value)} ({interval(metric)})"


def gap(metric: Metric, in_nats: bool = False) -> str:
    """A difference of two scores with its interval: in points of a hundred, the log loss in nats.

    >>> gap(Metric("difference", -0.042, -0.081, 0.003, 100, "Tango"))
    '-4.2 points (95 % interval -8.1 to +0.3)'
    """
    assert metric.value is not None and metric.low is not None and metric.high is not None
    if in_nats:
        return f"{metric.value:+.3f} (95 % interval {metric.low:+.3f} to {metric.high:+.3f})"
    value, low, high = (100 * x for x in (metric.value, metric.low, metric.high))
    return f"{value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"


def listed(names: list[str], most: int = 5) -> str:
    """Names in a row; of many only the first, and how many more there are.

    >>> listed(["a", "b", "c"]), listed(["a", "b", "c", "d"], most=2)
    ('a, b and c', 'a, b and 2 more')
    """
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def named(metric: str) -> str:
    """The name of a score as people write it.

    >>> named("balanced_accuracy"), named("auc")
    ('balanced accuracy', 'AUC')
    """
    return "AUC" if metric == "auc" else metric.replace("_", " ")


def _digits(points: float) -> str:
    for digits in range(4):
        text = f"{points:.{digits}f}"
        blurred = float(text) in (0.0, 100.0) and points not in (0.0, 100.0)
        if not blurred and (digits or abs(points % 1 - 0.5) > 1e-9):
            return text
    return text


def counted(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "image"), counted(1200, "image"), counted(2, "copy", "copies")
    ('1 image', '1,200 images', '2 copies')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
