"""Parts of the images: which columns compare them, and how good the model is at a site it has not seen.

N images, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.sources import Dataset
from headstart.errors import show
from headstart.judge.sites import AtSites, judge_sites
from headstart.judge.sites import to_json as sites_to_json
from headstart.judge.subgroups import LEAST, MOST_VALUES
from headstart.learning import Learned, Prepared, answer, out_of_fold, train
from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.measure import stratified
from headstart.settings import threads

MOST_COLUMNS = 6
"""compared without being asked for; every further one is one more chance to be struck by luck"""
MOST_LEARNED = 20_000
"""images that a head learns from when a site is held out of a large set"""
FROZEN, RETRAINED = "frozen", "re-trained"
BEFORE = "Of the frozen network, before it was re-trained: "


def compared_columns(
    dataset: Dataset, who: NDArray[np.int64], by: Sequence[str] | None
) -> tuple[dict[str, list[str | None]], tuple[str, ...]]:
    """The columns that part some images, with one value per image, and notes on what was left out.

    Asked for: just those. Else, at most six, the groups first: columns of 2 to 20 different values, of
    which at least two have 20 images, and such values half of all images; and which are not the class
    by another name. (Numbers of many values are cut at their quartiles, but only when asked for.)

    Args:
        who: images [N] among the samples.
    """
    if by:
        return {name: _cells(dataset, name, who) for name in by}, ()
    groups = () if dataset.group_name is None else (dataset.group_name,)
    labels = [dataset.samples[i].label for i in who]
    fit = {
        name: cells
        for name in dict.fromkeys((*groups, *dataset.columns))
        if _parts(cells := _cells(dataset, name, who), labels)
    }
    kept, rest = list(fit)[:MOST_COLUMNS], list(fit)[MOST_COLUMNS:]
    notes = (f"Not compared, ask for them by --by: {', '.join(map(show, rest))}.",) if rest else ()
    return {name: fit[name] for name in kept}, notes


def _cells(dataset: Dataset, name: str, who: NDArray[np.int64]) -> list[str | None]:
    cells = dataset.column(name)
    return [cells[i] for i in who]


def _parts(cells: Sequence[str | None], labels: Sequence[int]) -> bool:
    """Whether a column has few values, most of them of enough images, and is not the class itself."""
    counts = Counter(cells)
    large = [n for n in counts.values() if n >= LEAST]
    if len(counts) > MOST_VALUES or len(large) < 2 or 2 * sum(large) < len(cells):
        return False
    return not len(set(zip(cells, labels, strict=True))) == len(counts) == len(set(labels))


def held_out_sites(
    prepared: Prepared,
    learned: Learned,
    asked: tuple[NDArray[np.int64], NDArray[np.float64]],
    metric: str,
    seed: int,
    first: bool,
    before: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """`sites` of evaluation.json; None where the images have no few groups.

    Without a test part the estimate's folds are the sites already. With one, a head is learned again
    without each site of the images to learn from, at the strength that was found, and the sites of the
    test part are the finished model's own. A network that was itself trained cannot be trained again
    without each: the frozen result's sites are kept, else those of its verifying folds are told.

    Args:
        asked: the images [N] that judge the model, and its answers [N, C].
        metric: the score of the mean over sites.
        first: something better may follow: the test part is left alone.
        before: what an earlier look at this run stored.
    """
    parts = prepared.split
    if not parts.few_groups:
        return None
    column = str(show(prepared.dataset.group_name))
    if not parts.sites:
        return _none(column, metric, f"No {column} was held out in turn: {parts.no_sites}")
    tuned, tested = learned.held_out is not None, len(parts.test) > 0
    if tuned and before is not None and before.get("network") == FROZEN:
        sentence = str(before["sentence"])
        return {**before, "sentence": BEFORE + sentence.removeprefix(BEFORE)}
    pieces = []
    if tuned:
        held = out_of_fold(prepared, learned)
        pieces.append((parts.train[held.positions], held.probabilities))
        protocol = f"each {column} of a verifying fold was held out while the network was trained"
    elif tested:
        pieces.append(_without_each(prepared, learned, seed))
        protocol = (
            f"a head on the frozen network was learned again without each {column} of the images to "
            "learn from; selection not nested, so by the luck of the choice a little too good"
        )
    else:
        pieces.append(asked)
        protocol = (
            f"every {column} was held out in turn, and every choice made again without it; the model "
            "itself learned from all of them"
        )
    by_itself: tuple[str, ...] = ()
    if tested and first:
        protocol += "; the test part is not looked at"
    elif tested:
        pieces.append(asked)
        by_itself = tuple({str(prepared.dataset.samples[i].group) for i in parts.test})
        protocol += f"; for each {column} of the test part, the model itself answered"
    who, answers = (np.concatenate(some) for some in zip(*pieces, strict=True))
    if not len(who):
        return _none(column, metric, f"No {column} could be held out.")
    samples = [prepared.dataset.samples[i] for i in who]
    found = judge_sites(
        column,
        AtSites(
            [str(sample.group) for sample in samples],
            answers,
            np.array([sample.label for sample in samples]),
            _ties(prepared, who),
            by_itself,
        ),
        metric,
        protocol,
        len(parts.sites),
    )
    return {**sites_to_json(found), "network": RETRAINED if tuned else FROZEN}


def _none(column: str, metric: str, sentence: str) -> dict[str, Any]:
    """No site was held out, and why, in the form of the others."""
    empty = {"value": None, "low": None, "high": None, "method": "undefined: not held out"}
    return {
        "column": column,
        "metric": metric,
        "sites": [],
        "mean": empty,
        "new_site": empty,
        "worst": None,
        "sentence": sentence,
        "protocol": "",
        "network": None,
    }


def _without_each(
    prepared: Prepared, learned: Learned, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Images [n] to learn from, and what the chosen head says of each when it has learned without its
    site; a site without which some class would be missing is left out."""
    dev, parts = prepared.development, prepared.split
    own = np.array([prepared.dataset.samples[i].group for i in parts.train], dtype=object)
    classes = len(np.unique(dev.labels))

    def one(name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        held = own == name
        others = np.flatnonzero(~held & ~np.isin(parts.tie, parts.tie[held]))
        if len(np.unique(dev.labels[others])) < classes:
            return parts.train[:0], np.empty((0, len(dev.classes)))
        others = others[stratified(dev.labels[others], MOST_LEARNED, seed)]
        head = train(prepared, learned.verified, dev.rows[others], dev.labels[others], seed)
        return parts.train[held], answer(prepared, replace(learned, head=head), dev.rows[held])

    names = [name for name in parts.sites if (own == name).any()]
    with one_blas_thread():
        found = list(ordered_map(one, names, threads()))
    who, answers = zip(*found, strict=True)
    return np.concatenate(who), np.concatenate(answers)


def _ties(prepared: Prepared, who: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] equal numbers show the same picture."""
    parts = prepared.split
    tie = dict(zip(parts.train.tolist(), parts.tie.tolist(), strict=True))
    tie |= dict(zip(parts.test.tolist(), parts.test_tie.tolist(), strict=True))
    return np.array([tie[i] for i in who.tolist()], dtype=np.int64)


def units(prepared: Prepared, who: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """[n] what counts as one draw when parts of the images are compared: with few groups each of them
    is a part itself, and only pictures that are there twice lean on each other. None: the groups."""
    return _ties(prepared, who) if prepared.split.few_groups else None
