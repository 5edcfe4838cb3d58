"""The split: nothing lies on two sides, every class on both, and the same draw every time."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart.data.check import Findings, Refused, check
from headstart.data.images import ImageInfo
from headstart.data.sources import Dataset, Sample, read
from headstart.data.split import FOLDS, Split, assign_folds, find_sites, split
from headstart.errors import DataError
from headstart.results import split_csv

# one image: (class, content; None is a broken file, the user's own split, group)
Toy = tuple[int, str | None, str | None, str | None]


@pytest.fixture(autouse=True)
def _hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys are small; here they are split as large sets are."""
    monkeypatch.setattr("headstart.data.split.NESTED_BELOW", 0)


def build(images: list[Toy], classes: int) -> tuple[Dataset, Findings]:
    """A data set and what the look at its files found, without any file."""
    samples, infos, refused = [], [], []
    for i, (label, content, part, group) in enumerate(images):
        samples.append(Sample(f"c{label}/{i:05}.png", label, part, group))
        infos.append(content and ImageInfo(8, 8, "PNG", "RGB", 99, content))
        if content is None:
            refused.append(Refused(samples[-1].path, "corrupt", "toy"))
    names = tuple(f"c{c}" for c in range(classes))
    dataset = Dataset(Path("toy"), names, tuple(samples), ())
    return dataset, Findings(tuple(infos), (None,) * len(infos), tuple(refused), (), (), ())


def plain(counts: list[int]) -> list[Toy]:
    """So many different images of each class."""
    return [(c, f"{c}-{i}", None, None) for c, n in enumerate(counts) for i in range(n)]


def draw(images: list[Toy], seed: int = 0) -> Split:
    return split(*build(images, 1 + max(image[0] for image in images)), seed)


def tied(images: list[Toy]) -> dict[int, int]:
    """The smallest index of everything that hangs together with an image."""
    name = list(range(len(images)))
    changed = True
    while changed:
        changed = False
        for facet in (1, 3):
            smallest: dict[object, int] = {}
            for i, image in enumerate(images):
                if image[1] is not None and image[facet] is not None:
                    smallest[image[facet]] = min(smallest.get(image[facet], i), name[i])
            for i, image in enumerate(images):
                if image[1] is not None and image[facet] is not None:
                    changed |= smallest[image[facet]] != name[i]
                    name[i] = smallest[image[facet]]
    return dict(enumerate(name))


def sides(parts: Split) -> dict[int, str]:
    """Where each usable image went."""
    places = {int(i): f"fold {f}" for i, f in zip(parts.train, parts.fold, strict=True)}
    return places | {int(i): "test" for i in parts.test}


def assert_sound(images: list[Toy], parts: Split) -> None:
    train, test = parts.train.tolist(), parts.test.tolist()
    assert Counter([*train, *test, *parts.left_out]) == Counter(range(len(images)))
    assert {i for i, image in enumerate(images) if image[1] is None} <= set(parts.left_out)
    whole, places = tied(images), defaultdict(set)
    for i, place in sides(parts).items():
        places[whole[i]].add(place)
    assert all(len(where) == 1 for where in places.values())
    for a, b in zip(parts.train, parts.group, strict=True):
        assert [whole[int(i)] == whole[int(a)] for i in parts.train] == [
            g == b for g in parts.group.tolist()
        ]
    folds_of = defaultdict(set)
    for i, fold in zip(train, parts.fold.tolist(), strict=True):
        folds_of[images[i][0]].add(fold)
    assert set(folds_of) == {image[0] for image in images if image[1] is not None}
    assert min(map(len, folds_of.values())) > 1  # training without any fold still has each class
    assert set(parts.fold.tolist()) == set(range(parts.folds))


# -- properties ----------------------------------------------------------------------------------

LABELS = st.integers(0, 2)
SOME = settings(max_examples=60, deadline=None)


@SOME
@given(st.lists(st.integers(3, 40), min_size=2, max_size=5), st.integers(0, 2**31 - 1))
def test_a_fifth_of_every_class_is_held_out_and_every_class_is_on_both_sides(
    counts: list[int], seed: int
) -> None:
    images = plain(counts)
    parts = draw(images, seed)
    assert_sound(images, parts)
    held_out = Counter(images[i][0] for i in parts.test)
    for c, n in enumerate(counts):
        assert held_out[c] == max(1, round(n / 5))
    assert parts.folds == min(FOLDS, len(parts.train))
    sizes = np.bincount(parts.fold)
    assert sizes.max() - sizes.min() <= len(counts)


@SOME
@given(
    st.lists(
        st.tuples(
            LABELS,
            st.none() | st.integers(0, 25).map(str),
            st.none(),
            st.none() | st.integers(0, 8).map(str),
        ),
        min_size=10,
        max_size=60,
    ),
    st.integers(0, 5),
)
def test_copies_and_groups_stay_on_one_side_even_across_classes(
    images: list[Toy], seed: int
) -> None:
    images = images + [(c, f"own {c} {i}", None, None) for c in range(3) for i in range(4)]
    parts = draw(images, seed)
    assert_sound(images, parts)
    assert {images[i][0] for i in parts.test} == {0, 1, 2}


@SOME
@given(
    st.lists(
        st.tuples(
            LABELS,
            st.none() | st.integers(0, 40).map(str),
            st.sampled_from(["train", "val", "test"]),
            st.none() | st.integers(0, 30).map(str),
        ),
        min_size=5,
        max_size=40,
    ),
    st.integers(0, 5),
)
def test_a_given_test_part_is_kept_whole_and_what_hangs_on_it_leaves_training(
    images: list[Toy], seed: int
) -> None:
    images = images + [(c, f"own {c} {i}", "train", None) for c in range(3) for i in range(3)]
    readable = [i for i, image in enumerate(images) if image[1] is not None]
    test = [i for i in readable if images[i][2] == "test"]
    assume(test)
    parts = draw(images, seed)
    assert_sound(images, parts)
    assert parts.test.tolist() == test
    whole = tied(images)
    in_test, contents = {whole[i] for i in test}, {images[i][1] for i in test}
    for i in readable:
        if images[i][2] != "test":
            hangs = whole[i] in in_test
            assert (i in parts.left_out) == hangs
            copy = images[i][1] in contents
            reason = "copy of a test image" if copy else "in one group with a test image"
            assert parts.left_out.get(i) == (reason if hangs else None)


@SOME
@given(
    st.lists(st.integers(1, 12), min_size=6, max_size=30),
    st.integers(2, 5),
    st.integers(0, 99),
)
def test_folds_keep_groups_whole_and_classes_spread(
    sizes: list[int], folds: int, seed: int
) -> None:
    labels = np.array([g % 2 for g, size in enumerate(sizes) for _ in range(size)])
    groups = np.array([100 - g for g, size in enumerate(sizes) for _ in range(size)])
    fold = assign_folds(labels, groups, folds, seed)
    assert fold.min() >= 0
    assert fold.max() < folds
    for group in np.unique(groups):
        assert len(set(fold[groups == group].tolist())) == 1
    for c in (0, 1):
        of_class = len(np.unique(groups[labels == c]))
        assert len(set(fold[labels == c].tolist())) == min(folds, of_class)


def test_classes_that_share_groups_are_spread_over_two_folds_all_the_same() -> None:
    groups = {
        0: {2: 10, 1: 1, 3: 2},
        1: {1: 2, 2: 1, 0: 2},
        2: {2: 1, 3: 1},
        3: {2: 1},
        4: {1: 1, 0: 2, 3: 1, 2: 2},
    }
    rows = [(c, g) for g, holds in groups.items() for c, n in holds.items() for _ in range(n)]
    labels, names = np.array(rows).T
    drawn = [assign_folds(labels, names, 2, seed) for seed in range(5)]
    assert any(all(len(set(fold[labels == c])) == 2 for c in range(4)) for fold in drawn)


# -- the draw ------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_and_another_seed_another() -> None:
    images = plain([30, 25, 40])
    first, again, other = draw(images, 3), draw(images, 3), draw(images, 4)
    for name in ("train", "test", "fold", "group"):
        assert getattr(first, name).tolist() == getattr(again, name).tolist()
    assert first.test.tolist() != other.test.tolist()
    assert first.fold.tolist() != other.fold.tolist()


def test_neither_names_nor_the_order_of_files_change_the_test_part() -> None:
    images = plain([30, 25])
    order = np.random.default_rng(0).permutation(len(images))
    shuffled = [images[i] for i in order]
    want = {images[i][1] for i in draw(images).test}
    assert {shuffled[i][1] for i in draw(shuffled).test} == want


@given(st.integers(0, 80), st.integers(0, 2))
def test_a_broken_file_more_changes_nothing_else(place: int, label: int) -> None:
    images = plain([30, 25, 26])
    before = draw(images)
    after = draw([*images[:place], (label, None, None, "group"), *images[place:]])
    old = [i if i < place else i + 1 for i in range(len(images))]
    assert [old[i] for i in before.train] == after.train.tolist()
    assert [old[i] for i in before.test] == after.test.tolist()
    assert before.fold.tolist() == after.fold.tolist()
    assert before.group.tolist() == after.group.tolist()
    assert after.left_out == {place: "unreadable"}


@given(st.integers(0, 1), st.text(max_size=5))
def test_one_image_more_moves_at_most_one_other_image_of_its_class(
    label: int, content: str
) -> None:
    images = plain([30, 27])
    before, after = ({i: s == "test" for i, s in sides(draw(x)).items()} for x in (
        images, [*images, (label, f"new {content}", None, None)]
    ))  # fmt: skip
    moved = [i for i in before if before[i] != after[i]]
    assert len(moved) <= 1
    assert all(images[i][0] == label for i in moved)


def test_a_moved_folder_of_real_files_is_split_the_same(photos: Path) -> None:
    def places(root: Path) -> list[object]:
        dataset = read(root)
        return split_csv(dataset, split(dataset, check(dataset, 2, 32), seed=1))

    before = places(photos)
    assert places(photos.rename(photos.parent / "elsewhere")) == before


def test_one_huge_group_does_not_become_the_test_part() -> None:
    huge = [(0, f"h{i}", None, "one patient") for i in range(98)]
    images = huge + [(0, f"a{i}", None, None) for i in range(3)] + plain([0, 50])
    parts = draw(images)
    assert_sound(images, parts)
    assert 1 <= sum(images[i][0] == 0 for i in parts.test) <= 3
    assert sum(images[i][0] == 1 for i in parts.test) == 10


def test_a_hundred_to_one_loses_no_class() -> None:
    images = plain([600, 6])
    parts = draw(images)
    assert_sound(images, parts)
    assert Counter(images[i][0] for i in parts.test) == {0: 120, 1: 1}


def test_many_images_with_one_pair_of_copies_are_split_fast() -> None:
    import time

    images = plain([2_000] * 10)
    images[1] = images[0]
    dataset, findings = build(images, 10)
    began = time.process_time()
    parts = split(dataset, findings, seed=0)
    assert time.process_time() - began < 2.5
    assert len(parts.test) == 4_000


# -- too little ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (plain([10, 2]), r"in the data: at least 3.*c1 \(2\).*Add images"),
        (plain([10, 0, 9]), r"c1 \(0\)"),
        (plain([10]) + [(1, "same", None, None)] * 5, r"copies count once.*c1 \(1\)"),
        (plain([10]) + [(1, None, None, None)] * 5 + [(1, "x", None, None)], r"c1 \(1\)"),
        (plain([10]) + [(1, f"p{i}", None, "patient") for i in range(9)], r"c1 \(1\)"),
        (plain([1] * 1_000), r"c0 \(1\), c1 \(1\), .* and 995 more"),
        ([(c, "same", None, None) for c in (0, 1) for _ in range(50)], r"c0 \(1\), c1 \(1\)"),
    ],
)
def test_a_class_that_is_too_small_is_named_with_what_to_do(images: list[Toy], words: str) -> None:
    with pytest.raises(DataError, match=words) as refused:
        draw(images)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ([(1, "x", "train", None)], r"in the training part: at least 2.*c1 \(1\)"),
        ([(1, "x", "train", None)] * 3, r"c1 \(1\)"),  # three copies are one image
        ([(1, "in test", "train", None), (1, "x", "val", None)], r"c1 \(1\)"),
        ([], r"c1 \(0\)"),
    ],
)
def test_too_little_training_beside_a_given_test_part_is_named(
    train: list[Toy], words: str
) -> None:
    others = [(0, f"a{i}", "train", None) for i in range(5)]
    with pytest.raises(DataError, match=words):
        draw([*others, *train, (1, "in test", "test", None)])


def test_a_given_test_part_without_a_readable_image_is_an_error() -> None:
    images: list[Toy] = [(c, f"{c}{i}", "train", None) for c in (0, 1) for i in range(5)]
    with pytest.raises(DataError, match="No image of the test part"):
        draw([*images, (0, None, "test", None)])


def test_classes_that_hang_together_entirely_are_an_error_and_no_crash() -> None:
    lines = [(0, 1, 2), (0, 3, 4), (0, 5, 6), (1, 3, 5), (1, 4, 6), (2, 3, 6), (2, 4, 5)]
    images = [(c, f"point {p}", None, None) for c, line in enumerate(lines) for p in line]
    with pytest.raises(DataError, match="label conflicts that headstart check lists"):
        draw(images)  # seven classes of three images, any two of which share one


# -- sites ---------------------------------------------------------------------------------------


def sited(images: list[Toy], nested: bool = True) -> Split:
    """Split a toy whose groups are sites."""
    dataset, findings = build(images, 1 + max(image[0] for image in images))
    return split(replace(dataset, group_name="site"), findings, 0, nested=nested)


def at(sites: dict[str, tuple[int, int]]) -> list[Toy]:
    """So many images of both classes at each site."""
    return [
        (c, f"{name}{c}{i}", None, name)
        for name, counts in sites.items()
        for c, n in enumerate(counts)
        for i in range(n)
    ]


def test_few_groups_that_hold_enough_images_are_sites() -> None:
    parts = sited(at({f"s{k}": (10, 10) for k in (1, 2, 10)}))
    assert parts.sites == ("s1", "s2", "s10") and parts.no_sites == ""
    assert parts.few_groups
    assert parts.protocol == "hold-out of 1/5, stratified"
    many = sited(at({f"s{k}": (5, 5) for k in range(21)}))
    assert many.sites == () and not many.few_groups
    assert draw(at({f"s{k}": (10, 10) for k in range(3)})).sites == ()  # no name: no user's groups


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (at({"a": (9, 9), "b": (9, 9), "c": (5, 4)}), "site c has 9 images"),
        ([*at({"a": (9, 9), "b": (9, 9)}), (0, "n", None, None)], "1 image has no site"),
        (at({"a": (9, 9), "b": (12, 1), "c": (12, 0)}), "without site a, hardly an image of c1"),
    ],
)
def test_why_sites_are_not_held_out_is_said(images: list[Toy], words: str) -> None:
    dataset, _ = build(images, 2)
    dataset, every = replace(dataset, group_name="site"), np.arange(len(images))
    labels = np.array([image[0] for image in images])
    sites, why = find_sites(dataset, every, labels, every)
    assert sites == () and words in why


def test_two_sites_spare_none_for_a_test_part() -> None:
    parts = sited(at({"a": (30, 30), "b": (30, 30)}))
    assert len(parts.test) == 0 and parts.protocol == "nested cross-validation"
    assert parts.sites == ("a", "b")
    with pytest.raises(DataError, match="too few"):
        sited(at({"a": (30, 30), "b": (30, 30)}), nested=False)


def test_copies_are_tied_across_sites_and_sites_are_no_ties() -> None:
    images = at({name: (20, 20) for name in "abcd"})
    images[0] = (0, "same", None, "a")
    images[45] = (0, "same", None, "b")
    parts = sited(images)
    tie = dict(zip([*parts.train, *parts.test], [*parts.tie, *parts.test_tie], strict=True))
    assert tie[0] == tie[45]
    assert len(set(tie.values())) == len(tie) - 1
    group = dict(zip([*parts.train, *parts.test], [*parts.group, *parts.test_group], strict=True))
    assert len(set(group.values())) == 3  # the copy ties a and b


# -- split.csv -----------------------------------------------------------------------------------


def test_every_sample_has_one_row_that_says_where_it_went() -> None:
    images: list[Toy] = [
        *[(c, f"{c}{i}", "train", None) for c in (0, 1) for i in range(5)],
        (0, None, "train", None),
        (1, "leak", "train", None),
        (1, "leak", "test", None),
        (0, "t", "test", None),
    ]
    dataset, findings = build(images, 2)
    parts = split(dataset, findings, 0)
    table = list(csv.reader(split_csv(dataset, parts).splitlines()))[1:]
    assert [row[0] for row in table] == [sample.path for sample in dataset.samples]
    assert [row[2] for row in table] == ["train"] * 10 + ["left out"] * 2 + ["test"] * 2
    assert [int(row[4]) for row in table[:10]] == parts.fold.tolist()
    assert [int(row[3]) for row in table[-2:]] == parts.test_group.tolist()
    assert parts.protocol == "given test part"


def test_real_refused_files_never_reach_training_or_test(tmp_path: Path) -> None:
    for c in "ab":
        (tmp_path / c).mkdir()
        for i in range(6):
            noise = np.random.default_rng(ord(c) * 10 + i).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / c / f"{i}.png")
            (tmp_path / c / f"{i}_broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(i))
    dataset = read(tmp_path)
    parts = split(dataset, check(dataset, 2, 32), seed=0)
    used = {dataset.samples[i].path for i in [*parts.train, *parts.test]}
    assert used == {f"{c}/{i}.png" for c in "ab" for i in range(6)}
    assert set(parts.left_out.values()) == {"unreadable"}
    assert len(parts.left_out) == 12


# -- what cannot be split ------------------------------------------------------------------------


def test_a_training_part_that_is_the_test_part_is_called_that() -> None:
    images: list[Toy] = [
        (c, f"{c}{i}", part, None) for part in ("train", "test") for c in (0, 1) for i in range(5)
    ]
    dataset, findings = build(images, 2)
    with pytest.raises(DataError, match="10 of its 10 images show what the test part shows"):
        split(dataset, findings, 0)


def test_where_it_is_no_demand_a_class_of_one_image_is_told_and_not_raised() -> None:
    dataset, findings = build([*plain([8]), (1, "only", None, None)], 2)
    parts = split(dataset, findings, 0, demand=False)
    assert len(parts.train) == 9 and len(parts.test) == 0
    assert "(1)" in parts.refused and "at least 3 are needed" in parts.refused
    with pytest.raises(DataError):
        split(dataset, findings, 0)
