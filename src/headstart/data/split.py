"""Draw the test part and the folds: stratified, grouped, a function of the seed and the images.

The test part is drawn by content, so neither names nor the order of files matter, and one file
more or less moves at most one other file of its class. Copies of one image (equal content) and
images of one group never lie on two sides of a split or of a fold.

N images.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headstart.data.check import Findings
from headstart.data.sources import Dataset, natural_key
from headstart.errors import DataError, show

FOLDS = 5
NESTED_BELOW = 1_000
"""fewer images than this are too few to give a fifth away for a test"""
TEST_SHARE = 5
"""One fifth of the images is the test part when the user gives none."""
MOST_SITES = 20
"""with more groups, each is one of many draws; up to so many, each is a place of its own"""
LEAST_OF_SITE = 10
"""images that a site needs to be held out alone: its accuracy is then known to about 25 points"""


@dataclass(frozen=True, slots=True)
class Split:
    """Which sample does what. Indices point into `dataset.samples`."""

    train: NDArray[np.int64]  # [N_train], the development part
    test: NDArray[np.int64]  # [N_test]
    left_out: dict[int, str]
    """sample index -> reason (refused, or tied to a test image)"""
    fold: NDArray[np.int64]  # [N_train] fold of each development image
    group: NDArray[np.int64]  # [N_train] equal numbers must stay together
    protocol: str
    test_group: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """[N_test] as `group`"""
    tie: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """[N_train] equal numbers show the same picture; as `group`, without the user's groups"""
    test_tie: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    """[N_test] as `tie`"""
    sites: tuple[str, ...] = ()
    """names of the user's groups where each can be held out in turn"""
    no_sites: str = ""
    """why not, where there are few groups all the same"""
    refused: str = ""
    """why these images cannot be learned from: only where that was no demand"""

    @property
    def few_groups(self) -> bool:
        """Whether the user's groups are few, so that each is a part of the images to be compared."""
        return bool(self.sites or self.no_sites)

    @property
    def folds(self) -> int:
        """How many folds there are."""
        return int(self.fold.max()) + 1


def split(
    dataset: Dataset,
    findings: Findings,
    seed: int,
    ties: Sequence[Sequence[int]] = (),
    nested: bool = True,
    demand: bool = True,
) -> Split:
    """Keep the user's own test part, or hold out a fifth; then fold the development part.

    Fewer than 1,000 images without a test part are all development: the estimate then comes from
    nested cross-validation (`plan.nested`), and the test part is empty. So are more images of only
    two sites: neither can be spared for a test.

    Args:
        ties: samples that show the same picture and so stay together, as copies do.
        nested: whether a small set may do without a test part; not where a network is trained, which
            cannot be repeated so often.
        demand: else images that cannot be split all stay in one part, and `refused` says why.

    Raises:
        DataError: a class is too small to be split, named with what to do.
    """
    try:
        return _split(dataset, findings, seed, ties, nested)
    except DataError as error:
        if demand:
            raise
        why = f"{error.what}. Received: {error.received}. {error.do}"
        why = f"Nothing can be learned from these images as they are. {why}"
        usable, left_out = _usable(findings)
        return Split(usable, usable[:0], left_out, 0 * usable, usable, "not split", refused=why)


def _usable(findings: Findings) -> tuple[NDArray[np.int64], dict[int, str]]:
    """Images that can be read, and why the others are left out."""
    left_out = {i: "unreadable" for i, info in enumerate(findings.infos) if info is None}
    usable = [i for i, info in enumerate(findings.infos) if info is not None]
    return np.array(usable, dtype=np.int64), left_out


def _split(
    dataset: Dataset, findings: Findings, seed: int, ties: Sequence[Sequence[int]], nested: bool
) -> Split:
    groups = _groups(dataset, findings, ties)
    own = any(sample.group is not None for sample in dataset.samples)
    tie = _groups(dataset, findings, ties, grouped=False) if own else groups
    labels = np.array([sample.label for sample in dataset.samples])
    usable, left_out = _usable(findings)
    sites, no_sites = find_sites(dataset, usable, labels[usable], tie[usable])
    if dataset.has_test:
        train, test = _given(dataset, findings, usable, groups, left_out, ties)
        gone = len(usable) - len(train) - len(test)
        also = (
            f"{gone:,} of its {gone + len(train):,} images show what the test part shows, or are "
        )
        also = (
            f"{also}tied to it: they are left out. Give a test part of other images."
            if gone
            else ""
        )
        _demand(dataset, labels[train], groups[train], least=2, where="training part", do=also)
        protocol = "given test part"
    elif nested and (len(usable) < NESTED_BELOW or len(sites) == 2):
        held_in_turn = tie if sites else groups  # every class is in two sites, which is enough
        _demand(dataset, labels[usable], held_in_turn[usable], least=3, where="data")
        train, test = usable, usable[:0]
        protocol = "nested cross-validation"
    else:
        _demand(dataset, labels[usable], groups[usable], least=3, where="data")
        contents = [info.content_hash for info in findings.infos if info is not None]
        held_out = _hold_out(labels[usable], groups[usable], contents, seed)
        train, test = usable[~held_out], usable[held_out]
        do = "Use smaller groups, or mend the label conflicts that headstart check lists."
        _demand(dataset, labels[test], groups[test], least=1, where="test part", do=do)
        protocol = f"hold-out of 1/{TEST_SHARE}, stratified"
    fold = development_folds(labels[train], groups[train], FOLDS, seed + 1)
    return Split(
        train, test, left_out, fold, groups[train], protocol, groups[test],
        tie[train], tie[test], sites, no_sites,
    )  # fmt: skip


def find_sites(
    dataset: Dataset,
    usable: NDArray[np.int64],
    labels: NDArray[np.int64],
    ties: NDArray[np.int64],
) -> tuple[tuple[str, ...], str]:
    """The user's groups, where they are few enough for each to be held out in turn; else why not.

    Two to twenty groups that hold every image, each with ten images or more, and every class at least
    twice without it. Of more groups nothing is said: each of them is one draw of many.

    Args:
        usable: images [N] that can be read; labels [N], ties [N] of the same images.
    """
    names = [dataset.samples[i].group for i in usable]
    counts = Counter(name for name in names if name is not None)
    if dataset.group_name is None or not 2 <= len(counts) <= MOST_SITES:
        return (), ""
    what = show(dataset.group_name)
    if None in names:
        alone = names.count(None)
        return (), f"{alone:,} {'image has' if alone == 1 else 'images have'} no {what}."
    few = min(counts, key=lambda name: (counts[name], name))
    if counts[few] < LEAST_OF_SITE:
        return (), (
            f"{what} {show(few)} has {counts[few]} images, and {LEAST_OF_SITE} are the least that "
            "say anything."
        )
    own = np.array(names, dtype=object)
    for name in counts:
        others = own != name
        others &= ~np.isin(ties, ties[~others])  # copies of what is held out are not learned from
        left = _groups_per_class(labels[others], ties[others])
        poor = [c for c in np.unique(labels).tolist() if left[c] < 2]
        if poor:
            return (), (
                f"without {what} {show(name)}, hardly an image of {show(dataset.classes[poor[0]])} "
                "would be left."
            )
    return tuple(sorted(counts, key=natural_key)), ""


def _given(
    dataset: Dataset,
    findings: Findings,
    usable: NDArray[np.int64],
    groups: NDArray[np.int64],
    left_out: dict[int, str],
    ties: Sequence[Sequence[int]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The user's own parts; what is tied to a test image leaves training, never the test part."""
    in_test = np.array([dataset.samples[i].split == "test" for i in usable], dtype=bool)
    test = usable[in_test]
    if not len(test):
        raise DataError("No image of the test part can be read", where=dataset.root)
    tied = ~in_test & np.isin(groups[usable], groups[test])
    tested = {findings.infos[i].content_hash for i in test}
    near = {i for group in ties for i in group}
    for i in usable[tied].tolist():
        if findings.infos[i].content_hash in tested:
            left_out[i] = "copy of a test image"
        else:
            left_out[i] = f"{'shows' if i in near else 'in one group with'} a test image"
    return usable[~in_test & ~tied], test


def development_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.int64]:
    """Fold numbers [N]; no class lies in one fold only, or training would lack it.

    A small class may be absent from some folds. (Fewer folds for its sake were worse: with three
    images of one class in 60 the other classes were learned from 40, and scored 14 points too low.)

    Args:
        folds: at most this many; fewer when there are fewer groups.

    Raises:
        DataError: groups or copies tie nearly all images of some class together.
    """
    folds = max(2, min(folds, len(np.unique(groups))))
    for attempt in range(20):
        fold = assign_folds(labels, groups, folds, seed + attempt)
        if min(_groups_per_class(labels, fold).values()) > 1:
            return fold
    raise DataError(
        "Some classes cannot be told apart fairly: copies or groups tie nearly all of their images "
        "together",
        do="Look at the label conflicts that headstart check lists, or use smaller groups.",
    )


def assign_folds(
    labels: NDArray[np.int64], groups: NDArray[np.int64], folds: int, seed: int
) -> NDArray[np.int64]:
    """A fold number per image, stratified by label, groups kept whole.

    Large groups are dealt first, each into the fold that has the smallest share of its classes.
    (scikit-learn's StratifiedGroupKFold does this with a table of groups x classes: at 20,000
    images it takes 4 s, and at 10^5 images of 1,000 classes 800 MB.)

    Args:
        labels: int [N]. groups: int [N].
        folds: how many; lowered by the caller when there are fewer groups.

    Returns:
        int [N] in 0..folds-1.

    >>> labels = np.array([0, 0, 1, 1, 0, 1])
    >>> assign_folds(labels, np.arange(6), 3, seed=0).tolist().count(0)
    2
    """
    holds = _holds(labels, groups)
    of_class = Counter(labels.tolist())
    seen: dict[int, set[int]] = defaultdict(set)  # the folds a class lies in so far
    load = [dict.fromkeys(of_class, 0) for _ in range(folds)]
    total, place = [0] * folds, {}
    names = np.random.default_rng(seed).permutation(sorted(holds)).tolist()
    for name in sorted(names, key=lambda name: -sum(holds[name].values())):
        group = holds[name]
        costs = []
        for k, inside in enumerate(load):
            alone = sum(seen[c] == {k} for c in group)
            share = sum(inside[c] / of_class[c] for c in group)
            costs.append((alone, share, total[k], k))
        place[name] = k = min(costs)[-1]
        for c, count in group.items():
            seen[c].add(k)
            load[k][c] += count
            total[k] += count
    return np.array([place[name] for name in groups.tolist()], dtype=np.int64)


def _hold_out(
    labels: NDArray[np.int64], groups: NDArray[np.int64], contents: list[str], seed: int
) -> NDArray[np.bool_]:
    """One fifth of every class, at least one group; two groups of every class stay; bool [N].

    Groups are taken in an order drawn from seed and content. One that is too large for what is
    still wanted is passed over, unless a class would be left without any.
    """
    holds = _holds(labels, groups)
    drawn: dict[int, str] = {}
    for name, content in zip(groups.tolist(), contents, strict=True):
        key = hashlib.blake2b(f"{seed} {content}".encode(), digest_size=8).hexdigest()
        drawn[name] = min(key, drawn.get(name, key))
    by_class: dict[int, list[int]] = defaultdict(list)
    for name in sorted(holds, key=drawn.__getitem__):
        for c in holds[name]:
            by_class[c].append(name)
    # Images of each class that are still wanted, and groups that training can still spare.
    wanted = {c: max(1, round(n / TEST_SHARE)) for c, n in Counter(labels.tolist()).items()}
    spare = {c: len(names) - 2 for c, names in by_class.items()}
    taken: set[int] = set()

    def take(name: int) -> None:
        taken.add(name)
        for c, count in holds[name].items():
            wanted[c] -= count
            spare[c] -= 1

    def can_go(name: int) -> bool:
        return name not in taken and all(spare[c] > 0 for c in holds[name])

    for c in sorted(by_class, key=lambda c: (len(by_class[c]), c)):  # those with least choice first
        for name in by_class[c]:
            gain = sum(abs(wanted[k]) - abs(wanted[k] - n) for k, n in holds[name].items())
            if wanted[c] > 0 and gain > 0 and can_go(name):
                take(name)
        free = [name for name in by_class[c] if can_go(name)]
        if taken.isdisjoint(by_class[c]) and free:
            take(min(free, key=lambda name: sum(holds[name].values())))
    return np.isin(groups, list(taken))


def _holds(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> dict[int, Counter[int]]:
    """How many images of which class each group holds."""
    holds: dict[int, Counter[int]] = defaultdict(Counter)
    for label, name in zip(labels.tolist(), groups.tolist(), strict=True):
        holds[name][label] += 1
    return holds


def _groups(
    dataset: Dataset,
    findings: Findings,
    ties: Sequence[Sequence[int]],
    grouped: bool = True,
) -> NDArray[np.int64]:
    """One number per sample; equal for equal content or equal group (union of both); -1: refused.

    Args:
        grouped: whether the user's groups count.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    keys = []
    for sample, info in zip(dataset.samples, findings.infos, strict=True):
        key = None if info is None else f"content:{info.content_hash}"
        if grouped and key is not None and sample.group is not None:
            parent[root(key)] = root(f"group:{sample.group}")
        keys.append(key)
    for tied in ties:
        for i in tied[1:]:
            one, other = keys[tied[0]], keys[i]
            if one is not None and other is not None:
                parent[root(other)] = root(one)
    roots = [None if key is None else root(key) for key in keys]
    numbers: dict[str | None, int] = {None: -1}
    return np.array([numbers.setdefault(key, len(numbers) - 1) for key in roots], dtype=np.int64)


def _groups_per_class(labels: NDArray[np.int64], groups: NDArray[np.int64]) -> Counter[int]:
    return Counter(label for label, _ in set(zip(labels.tolist(), groups.tolist(), strict=True)))


def _demand(
    dataset: Dataset,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    least: int,
    where: str,
    do: str = "",
) -> None:
    """Every class must have `least` different images, or groups of images; else `do` says what helps."""
    counts = _groups_per_class(labels, groups)
    poor = [(name, counts[c]) for c, name in enumerate(dataset.classes) if counts[c] < least]
    if poor:
        names = ", ".join(f"{show(name)} ({n})" for name, n in poor[:5])
        more = f" and {len(poor) - 5} more" if len(poor) > 5 else ""
        raise DataError(
            f"A class has too few readable, different images in the {where}: at least {least} "
            f"{'is' if least == 1 else 'are'} needed, and copies count once",
            where=dataset.root,
            received=names + more,
            do=do or "Add images to it, or move its folder away.",
        )
