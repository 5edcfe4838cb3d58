"""Sites are units: the mean over them, its interval, and the worst, against references and simulation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from headstart.errors import ArgumentError
from headstart.files import strict
from headstart.judge.metrics import Metric, wilson
from headstart.judge.sites import AtSites, Sites, judge_sites, over_sites, to_json


def answered(
    rates: NDArray[np.float64], images: int, seed: int = 0
) -> tuple[list[str], NDArray[np.float64], NDArray[np.int64]]:
    """Sites of so many images each, right with these probabilities."""
    rng = np.random.default_rng(seed)
    names = [f"s{k}" for k in range(len(rates)) for _ in range(images)]
    right = rng.random(len(names)) < np.repeat(rates, images)
    labels = np.arange(len(names)) % 2
    said = np.where(right, labels, 1 - labels)
    p = np.full((len(names), 2), 0.2)
    p[np.arange(len(names)), said] = 0.8
    return names, p, labels


def judged(
    rates: NDArray[np.float64], images: int, seed: int = 0, metric: str = "accuracy"
) -> Sites:
    names, p, labels = answered(rates, images, seed)
    return judge_sites("site", AtSites(names, p, labels, np.arange(len(names))), metric, "toy")


def score(value: float, half: float = 0.0) -> Metric:
    return Metric("accuracy", value, value - half, value + half, 50, "")


def test_the_mean_has_students_interval_over_sites() -> None:
    values = [0.62, 0.71, 0.55, 0.80, 0.66]
    loss, _ = over_sites("log_loss", [replace(score(v), name="log_loss") for v in values])
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert (loss.value, loss.low, loss.high) == pytest.approx((np.mean(values), low, high))
    # A share: the same on the logit scale, where 250 images and four more give the slope.
    mean, new = over_sites("accuracy", [score(v) for v in values])
    inner = (np.mean(values) * 250 + 2) / 254
    se = stats.sem(values) / (inner * (1 - inner))
    ends = expit(stats.t.interval(0.95, 4, logit(inner), se))
    assert (mean.value, mean.low, mean.high) == pytest.approx((np.mean(values), *ends))
    reach = stats.t.ppf(0.975, 4) * np.std(values, ddof=1) * (1 + 1 / 5) ** 0.5
    assert (new.low, new.high) == pytest.approx((np.mean(values) - reach, np.mean(values) + reach))
    assert "4 degrees of freedom" in mean.method


def test_sites_that_happen_to_agree_are_no_proof_that_all_do() -> None:
    alike = [replace(score(0.9, 0.06), name="log_loss")] * 4
    mean, _ = over_sites("log_loss", alike)
    half = stats.t.ppf(0.975, 3) * 0.06 / 1.959964 / 2
    assert (mean.low, mean.high) == pytest.approx((0.9 - half, 0.9 + half))
    perfect = judged(np.ones(5), 20).mean
    assert perfect.value == perfect.high == 1.0
    assert perfect.low is not None and 0.5 < perfect.low < 0.95


def test_intervals_cover_what_new_sites_score_on_average() -> None:
    """Sites drawn from a population, whose mean is known; few sites of 40 images each."""
    rng = np.random.default_rng(0)
    for spread in (0.0, 1.0):
        truth = float(expit(1.2 + spread * rng.normal(size=200_000)).mean())
        for sites in (3, 6):
            held = 0
            for _ in range(400):
                hits = rng.binomial(40, expit(1.2 + spread * rng.normal(size=sites)))
                scores = [Metric("accuracy", h / 40, *wilson(h, 40), 40, "") for h in hits.tolist()]
                mean, _ = over_sites("accuracy", scores)
                assert mean.low is not None and mean.high is not None
                held += mean.low <= truth <= mean.high
            assert held / 400 > 0.93, (spread, sites, held)


def test_a_new_site_lies_in_its_interval() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        hits = rng.binomial(60, expit(1.0 + 0.8 * rng.normal(size=6)))
        scores = [Metric("accuracy", h / 60, *wilson(h, 60), 60, "") for h in hits[:5].tolist()]
        _, new = over_sites("accuracy", scores)
        assert new.low is not None and new.high is not None
        held += new.low <= hits[5] / 60 <= new.high
    assert held / 400 > 0.92


def test_the_worst_is_named_and_a_sentence_says_what_was_done() -> None:
    found = judged(np.array([0.9, 0.5, 0.85]), 60)
    assert found.worst == "s1"
    assert [site.site for site in found.sites] == ["s0", "s1", "s2"]
    assert [site.n for site in found.sites] == [60] * 3
    assert found.sentence.startswith("Every site was held out in turn: accuracy is ")
    assert "lowest for s1" in found.sentence and "speaks of new ones like these" in found.sentence
    loss = judged(np.array([0.9, 0.5, 0.85]), 60, metric="log_loss")
    assert loss.worst == "s1" and "highest for s1" in loss.sentence
    assert loss.mean.high is not None and loss.mean.high > 0


def test_large_sites_weigh_no_more_than_small_ones() -> None:
    names = ["big"] * 300 + ["small"] * 30
    labels = np.zeros(330, dtype=np.int64)
    p = np.full((330, 2), [0.9, 0.1])
    p[300:] = [0.1, 0.9]
    found = judge_sites("site", AtSites(names, p, labels, np.arange(330)), "accuracy", "toy")
    assert found.mean.value == 0.5


def test_the_finished_models_own_answers_are_surer_than_those_of_a_stand_in() -> None:
    names, p, labels = answered(np.array([0.8, 0.8]), 50)
    found = judge_sites(
        "site", AtSites(names, p, labels, np.arange(100), ["s0"]), "accuracy", "toy"
    )
    one, two = (site.metrics[0] for site in found.sites)
    assert "as wide" not in one.method and "1.30 times as wide" in two.method


def test_pictures_that_are_there_ten_times_count_once() -> None:
    names, p, labels = answered(np.array([0.7, 0.8]), 20)
    again = np.repeat(np.arange(40), 10)
    many = [names[i] for i in again]
    wide = judge_sites("site", AtSites(many, p[again], labels[again], again), "accuracy", "toy")
    plain = judge_sites(
        "site", AtSites(many, p[again], labels[again], np.arange(400)), "accuracy", "toy"
    )
    for one, two in zip(wide.sites, plain.sites, strict=True):
        a, b = one.metrics[0], two.metrics[0]
        assert a.low is not None and a.high is not None and b.low is not None and b.high is not None
        assert a.high - a.low > 2 * (b.high - b.low)


def test_one_site_and_sites_of_one_class_say_that_they_say_nothing() -> None:
    alone = judged(np.array([0.8]), 30)
    assert alone.worst is None and alone.mean.low is None and "too few" in alone.sentence
    names = ["a"] * 30 + ["b"] * 30 + ["c"] * 30
    labels = np.array([0, 1] * 30 + [0] * 30)
    p = np.full((90, 2), [0.6, 0.4])
    found = judge_sites("site", AtSites(names, p, labels, np.arange(90)), "auc", "toy", of=5)
    assert "1 had no AUC" in found.sentence and found.worst != "c"
    assert found.sentence.startswith("3 of 5 values of site were held out")


def test_json_is_strict() -> None:
    found = judged(np.array([0.9, 0.5]), 20)
    read = json.loads(json.dumps(strict(to_json(found)), allow_nan=False))
    assert {"column", "metric", "sites", "mean", "worst", "sentence", "protocol"} <= set(read)
    assert {"value", "low", "high", "method"} <= set(read["mean"])
    assert read["sites"][0]["metrics"][0]["name"] == "accuracy"


def test_refuses_what_does_not_fit() -> None:
    names, p, labels = answered(np.array([0.9, 0.5]), 20)
    with pytest.raises(ArgumentError, match="one name per image"):
        judge_sites("site", AtSites(names[1:], p, labels, np.arange(40)), "accuracy", "toy")
    with pytest.raises(ArgumentError, match="Metrics"):
        judge_sites("site", AtSites(names, p, labels, np.arange(40)), "beauty", "toy")
