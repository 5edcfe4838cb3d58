"""How good is the model at a site that it has not seen: a clinic, a camera, a year?

N images, C classes, K sites. Every site was held out whole, and judged by a model that had learned
from the others. The mean over sites counts each site once: its interval (Student's t with K - 1
degrees of freedom over the sites' scores) speaks of new sites like these, not of new images of these.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri, stdtrit

from headstart.data.sources import natural_key
from headstart.errors import ArgumentError
from headstart.judge.calibration import check_inputs
from headstart.judge.grouped import CROSS_VALIDATED
from headstart.judge.metrics import LEVEL, Metric
from headstart.judge.subgroups import SCORES, part_scores
from headstart.judge.words import named, percent, score

ONE_SITE = "undefined: fewer than two sites"
ADDED = 2.0
"""right answers and wrong ones that keep the slope of the logit finite where all are right"""


@dataclass(frozen=True, slots=True)
class Site:
    """One site that was held out, and the scores of its `n` images."""

    site: str
    n: int
    metrics: tuple[Metric, ...]


@dataclass(frozen=True, slots=True)
class Sites:
    """Every site in natural order, the mean over them, and what one new site may score.

    `mean` and `new_site` are of the score `metric`; `new_site` has the same value and a wider
    interval, that of a single site yet to come. `worst` is None below two sites with that score.
    """

    column: str
    metric: str
    sites: tuple[Site, ...]
    mean: Metric
    new_site: Metric
    worst: str | None
    sentence: str
    protocol: str


@dataclass(frozen=True, slots=True)
class AtSites:
    """Answers at sites that the answering models had not seen.

    names: the site of each image [N]. probabilities: floats [N, C]. labels: integers [N].
    ties: [N] equal numbers show the same picture, and count as one draw.
    by_itself: sites that the finished model answered for; intervals of the others are
    `grouped.CROSS_VALIDATED` times as wide, for another model stood in for it.
    """

    names: Sequence[str]
    probabilities: ArrayLike
    labels: ArrayLike
    ties: NDArray[np.int64]
    by_itself: Collection[str] = ()


def judge_sites(
    column: str, answers: AtSites, metric: str, protocol: str, of: int | None = None
) -> Sites:
    """Score every site, and the mean over sites.

    Args:
        column: what the sites are called, in one word ("site", "camera").
        metric: accuracy, balanced_accuracy, macro_f1, log_loss or auc: the one of the mean.
        protocol: how the answers were made, in words.
        of: how many sites there are, where not all of them were held out.

    Raises:
        ArgumentError: see `calibration.check_inputs`; names that do not fit; no such metric.

    >>> p, truth = np.full((60, 2), [0.7, 0.3]), [0] * 30 + [1] * 30
    >>> told = AtSites(["a", "b"] * 30, p, truth, np.arange(60))
    >>> found = judge_sites("site", told, "accuracy", "toy")
    >>> found.mean.value, found.worst
    (0.5, 'a')
    """
    names, ties = answers.names, answers.ties
    truth, p = check_inputs(answers.labels, answers.probabilities)
    if len(names) != len(truth) or metric not in SCORES:
        raise ArgumentError(
            "Sites need one name per image, and a metric that there is",
            received=f"{len(names)} names, {len(truth)} images, {metric}",
            do=f"Metrics: {', '.join(SCORES)}.",
        )
    each = np.array(names, dtype=object)
    found = []
    for name in sorted(set(names), key=natural_key):
        rows = each == name
        wider_by = 1.0 if name in answers.by_itself else CROSS_VALIDATED
        scores = part_scores(p[rows], truth[rows], ties[rows], wider_by)
        found.append(Site(name, int(rows.sum()), scores))
    known = {site.site: m for site in found if (m := _of(site, metric)).value is not None}
    mean, new_site = over_sites(metric, list(known.values()))
    sign = -1.0 if metric == "log_loss" else 1.0
    worst = min(known, key=lambda name: sign * _value(known[name])) if len(known) > 1 else None
    sentence = _sentence(column, found, known, mean, new_site, worst, of or len(found))
    return Sites(column, metric, tuple(found), mean, new_site, worst, sentence, protocol)


def over_sites(name: str, scores: Sequence[Metric]) -> tuple[Metric, Metric]:
    """The mean m of the sites' scores, and the score of one new site; both with 95 % intervals.

    m ± t s / √K, for a share on the logit scale (delta method; two right answers and two wrong ones
    more keep its slope finite), and m ± t s √(1 + 1/K) for one site more; s is the spread over sites and
    t Student's quantile of K - 1 degrees of freedom. s is at least what the images alone would bring,
    from the sites' own intervals: a few sites that happen to agree are no proof that all sites do.

    Simulated for 3 to 10 sites of 40 images, true shares of .77 and .95, sites that differ by 0 to 2 on
    the logit scale: the mean is covered .97 on average, .90 at worst (without the logit scale .95 and
    .80), a new site .96 and .91.

    >>> scores = [Metric("accuracy", x, x - 0.05, x + 0.05, 100, "") for x in (0.7, 0.8, 0.9)]
    >>> mean, new = over_sites("accuracy", scores)
    >>> round(mean.value, 3), round(mean.low, 3), round(mean.high, 3), round(new.low, 3)
    (0.8, 0.458, 0.947, 0.303)
    """
    k, n = len(scores), sum(score.n for score in scores)
    if k < 2:
        value = scores[0].value if scores else None
        empty = Metric(name, value, None, None, n, ONE_SITE)
        return empty, empty
    values = np.array([_value(score) for score in scores])
    spread = max(float(values.std(ddof=1)), _from_images(scores))
    reach, centre = float(stdtrit(k - 1, (1 + LEVEL) / 2)) * spread, float(values.mean())
    words = f"t interval with {k - 1} degree{'s' if k > 2 else ''} of freedom"
    if name == "log_loss":
        low, high, top = centre - reach / k**0.5, centre + reach / k**0.5, np.inf
        scale = ""
    else:
        inner = (centre * n + ADDED) / (n + 2 * ADDED)
        half, top = reach / k**0.5 / (inner * (1 - inner)), 1.0
        low, high = float(expit(logit(inner) - half)), float(expit(logit(inner) + half))
        scale = ", logit scale"
    ends = max(0.0, min(low, centre)), max(high, centre)
    mean = Metric(name, centre, *ends, n, f"{words} over {k} sites{scale}")
    reach *= (1 + 1 / k) ** 0.5
    ends = max(0.0, centre - reach), min(float(top), centre + reach)
    return mean, Metric(name, centre, *ends, n, f"{words} for one site more")


def _from_images(scores: Sequence[Metric]) -> float:
    """The spread that sites of one and the same score would show, by the luck of their images."""
    widths = [s.high - s.low for s in scores if s.low is not None and s.high is not None]
    if not widths:
        return 0.0
    errors = np.array(widths) / (2 * float(ndtri((1 + LEVEL) / 2)))
    return float(np.sqrt((errors**2).mean()))


def _of(site: Site, metric: str) -> Metric:
    return next(m for m in site.metrics if m.name == metric)


def _value(metric: Metric) -> float:
    assert metric.value is not None
    return metric.value


def _sentence(
    column: str,
    found: Sequence[Site],
    known: dict[str, Metric],
    mean: Metric,
    new_site: Metric,
    worst: str | None,
    of: int,
) -> str:
    if len(found) == of:
        text = f"Every {column} was held out in turn"
    else:
        text = f"{len(found)} of {of} values of {column} were held out"
    if worst is None:
        return f"{text}: too few to say how much they differ."
    end = "highest" if mean.name == "log_loss" else "lowest"
    text += (
        f": {named(mean.name)} is {score(mean)} on average over {len(known)} of them, each counted "
        f"once, which speaks of new ones like these; {end} for {worst}, {score(known[worst])} on "
        f"{known[worst].n:,} images. A single new one may lie anywhere from {_plain(new_site.low, mean.name)} "
        f"to {_plain(new_site.high, mean.name)}."
    )
    missing = len(found) - len(known)
    if missing:
        text += f" {missing} had no {named(mean.name)}, for want of a class."
    return text


def _plain(value: float | None, metric: str) -> str:
    assert value is not None
    return f"{value:.3f}" if metric == "log_loss" else percent(value)


def to_json(found: Sites) -> dict[str, Any]:
    """Every field under its name."""
    return asdict(found)
