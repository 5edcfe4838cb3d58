from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.backbone.features import features
from headstart.backbone.graph import tap_graph
from headstart.backbone.load import EMBEDDED_SHA256
from headstart.data.images import ImageRefused, Preprocess, content_hash, load_pixels
from headstart.plan.criterion import Criterion
from headstart.plan.measure import (
    MAX_IMAGES,
    Development,
    Similarity,
    measure,
    similarity,
    similarity_verdict,
    stratified,
)
from headstart.settings import DEFAULT_BACKBONE

Array = NDArray[np.float32]
Int = NDArray[np.int64]
CHANNELS = 100
ACCURACY = Criterion("accuracy", "accuracy")


@dataclass(frozen=True)
class Graph:
    """As much of a tap graph as the measurement looks at: a source with known statistics."""

    mean: Array
    variance: Array
    has_norm: bool = True
    weights_sha256: str = EMBEDDED_SHA256
    preprocess: Preprocess = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        object.__setattr__(self, "preprocess", Preprocess(224, 256))

    def norm_statistics(self) -> tuple[Array, Array]:
        return self.mean, self.variance


@dataclass(frozen=True)
class Found:
    """As much of the features as the measurement looks at."""

    table: dict[str, Array]

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple(name for name in self.table if not name.startswith("norm_"))

    def stage(self, name: str, images: Int | None = None) -> Array:
        return self.table[name] if images is None else self.table[name][images]

    def all_stages(self, images: Int | None = None) -> Array:
        return np.concatenate([self.stage(name, images) for name in self.stages], axis=1)


def development(labels: Int, groups: Int | None = None, seed: int = 0) -> Development:
    n = len(labels)
    rng = np.random.default_rng(seed)
    hashes = tuple(rng.bytes(16).hex() for _ in range(n))
    own = np.arange(n) if groups is None else groups
    names = tuple(f"class {i}" for i in range(int(labels.max()) + 1))
    return Development(np.arange(n), labels, own, np.arange(n) % 5, hashes, names)


def source() -> Graph:
    rng = np.random.default_rng(7)
    mean = rng.normal(0, 1, CHANNELS).astype(np.float32)
    return Graph(mean, rng.uniform(0.2, 4, CHANNELS).astype(np.float32))


def drawn(
    graph: Graph, n: int, seed: int, move: float = 0.0, widen: float = 1.0, places: int = 16
) -> Found:
    """Images whose channels vary between and within images; together they have the source's
    statistics, moved and widened by known amounts (in the source's standard deviations)."""
    rng = np.random.default_rng(seed)
    sd = np.sqrt(graph.variance)
    between = rng.normal(0, np.sqrt(0.4), (n, 1, CHANNELS))
    within = rng.normal(0, np.sqrt(0.6), (n, places, CHANNELS))
    values = graph.mean + sd * (move + widen * (between + within))
    moments = {"norm_mean": values.mean(1), "norm_square": (values**2).mean(1)}
    return Found({name: array.astype(np.float32) for name, array in moments.items()})


def shift_of(graph: Graph, found: Found, seed: int = 0) -> Similarity:
    n = len(found.table["norm_mean"])
    return similarity(graph, found, development(np.zeros(n, np.int64), seed=seed), 0)  # type: ignore[arg-type]


def test_images_with_the_sources_own_statistics_have_no_shift() -> None:
    # Two groups of images, one above and one below the mean, so that all moments are exact.
    graph = Graph(np.zeros(4, np.float32), np.ones(4, np.float32))
    ones = np.ones((40, 4), np.float32)
    signs = np.where(np.arange(40) % 2, 1, -1)[:, None].astype(np.float32)
    found = shift_of(graph, Found({"norm_mean": 0.5 * signs * ones, "norm_square": ones}))
    assert found.bn_shift == pytest.approx(0, abs=0.05)
    assert found.low == 0


@pytest.mark.parametrize(
    ("move", "widen", "true"), [(0, 1, 0.0), (0.4, 1, 0.4), (0, 1.5, 0.5), (0.3, 0.6, 0.5)]
)
def test_the_shift_is_expected_to_be_the_same_for_every_number_of_images(
    move: float, widen: float, true: float
) -> None:
    graph = source()
    for n in (10, 160):
        squared = []
        for seed in range(16):
            shift = shift_of(graph, drawn(graph, n, seed, move, widen)).bn_shift
            assert shift is not None
            squared.append(shift**2)
        assert np.mean(squared) == pytest.approx(true**2, abs=0.012), n


def test_the_interval_covers_the_true_shift() -> None:
    graph = source()
    inside = 0
    for seed in range(40):
        found = shift_of(graph, drawn(graph, 60, seed, move=0.4))
        assert found.low is not None and found.bn_shift is not None and found.high is not None
        assert found.low <= found.bn_shift <= found.high
        inside += found.low <= 0.4 <= found.high
    assert inside >= 35


def test_dead_channels_say_nothing() -> None:
    graph = source()
    found = drawn(graph, 40, 0, move=0.4)
    expected = shift_of(graph, found).bn_shift
    dead = Graph(np.append(graph.mean, 5), np.append(graph.variance, 0))
    table = {name: np.c_[array, np.full(40, 3.0)] for name, array in found.table.items()}
    assert shift_of(dead, Found(table)).bn_shift == pytest.approx(expected)


def test_at_most_160_images_are_used_drawn_by_content() -> None:
    graph = source()
    found = drawn(graph, 300, 0, move=0.4)
    dev = development(np.zeros(300, np.int64))
    first = similarity(graph, found, dev, 0)  # type: ignore[arg-type]
    assert first.n == 160
    order = np.random.default_rng(1).permutation(300)
    turned = Development(
        order, dev.labels, dev.groups, dev.folds, tuple(dev.hashes[i] for i in order), dev.classes
    )
    assert similarity(graph, found, turned, 0) == first  # type: ignore[arg-type]


def test_what_was_never_calibrated_is_left_open() -> None:
    known = source()
    found = drawn(known, 40, 0)
    for graph in (
        Graph(known.mean, known.variance, weights_sha256="0" * 64),
        Graph(known.mean, known.variance, has_norm=False),
    ):
        answer = shift_of(graph, found)
        assert answer.verdict == "unclear"
        assert answer.thresholds is None
        assert "left open" in answer.sentence
        assert (answer.bn_shift is None) == (not graph.has_norm)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (0.30, 0.25, 0.35, "similar"),
        (0.49, 0.45, 0.549, "similar"),
        (0.49, 0.45, 0.55, "unclear"),
        (0.50, 0.49, 0.51, "unclear"),
        (0.549, 0.54, 0.56, "unclear"),
        (0.55, 0.50, 0.60, "different"),
        (0.56, 0.499, 0.60, "unclear"),
        (0.80, 0.75, 0.85, "different"),
    ],
)
def test_an_interval_that_reaches_the_other_side_is_unclear(
    value: float, low: float, high: float, verdict: str
) -> None:
    assert similarity_verdict(value, low, high, (0.50, 0.55)) == verdict


def test_the_depth_profile_finds_the_stage_that_knows() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    known = (np.eye(8)[labels] * 3 + rng.normal(size=(120, 8))).astype(np.float32)
    noise = rng.normal(size=(120, 8)).astype(np.float32)
    graph = source()
    table = {"stem": noise, "b0": known, "head": rng.normal(size=(120, 8)).astype(np.float32)}
    found = Found(table | drawn(graph, 120, 0).table)
    measured = measure(graph, found, development(labels), ACCURACY, 0, 2)  # type: ignore[arg-type]
    scores = {row.stage: row.probe.score for row in measured.depth}
    assert list(scores) == ["stem", "b0", "head"]
    assert max(scores, key=lambda stage: scores[stage]) == "b0"
    assert (measured.all_stages.stage, measured.all_stages.width) == ("all", 24)
    assert measured.learnable
    assert measured.chance == pytest.approx(1 / 3)
    assert measured.per_class == {"class 0": 40, "class 1": 40, "class 2": 40}
    again = measure(graph, found, development(labels), ACCURACY, 0, 1)  # type: ignore[arg-type]
    assert [row.probe.score for row in again.depth] == list(scores.values())


def test_noise_is_not_called_learnable() -> None:
    rng = np.random.default_rng(0)
    graph = source()
    called = 0
    for seed in range(10):
        names = ("stem", "b0", "head")
        table = {name: rng.normal(size=(90, 20)).astype(np.float32) for name in names}
        found = Found(table | drawn(graph, 90, seed).table)
        labels = rng.permutation(np.arange(90) % 3)
        called += measure(graph, found, development(labels), ACCURACY, 0, 1).learnable  # type: ignore[arg-type]
    assert called <= 3


def test_the_probes_take_a_share_of_every_class_of_a_large_set() -> None:
    labels = np.repeat([0, 1, 2], [9_000, 2_990, 10])
    some = stratified(labels, MAX_IMAGES, 0)
    assert len(some) <= MAX_IMAGES + 3
    assert np.bincount(labels[some])[2] == round(10 * MAX_IMAGES / 12_000)
    assert (np.diff(some) > 0).all()
    assert stratified(labels, MAX_IMAGES, 0).tolist() == some.tolist()
    assert stratified(labels[:100], MAX_IMAGES, 0).tolist() == list(range(100))


# -- real data -----------------------------------------------------------------------------------

SIMILAR = ("dogs_wolves", "hymenoptera", "clothing_small", "trashnet")
DIFFERENT = ("sign_digits", "brain_tumor_mri", "isic2017_skin", "malaria")


def passed(folder: Path, most: int) -> tuple[Any, Any, list[str], list[str]]:
    """Graph, features, content hashes and class names of images spread evenly over a folder."""
    suffixes = {".jpg", ".jpeg", ".png"}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes)
    files = files[:: max(1, len(files) // most)][:most]
    graph = tap_graph(DEFAULT_BACKBONE, None, None, files[:4])
    good, hashes = [], []
    for path in files:
        try:
            load_pixels(path, graph.preprocess)
        except ImageRefused:
            continue
        good.append(path)
        hashes.append(content_hash(path.read_bytes()))
    found = features(graph, good, hashes, "cpu", 2)
    return graph, found, hashes, [path.parent.name for path in good]


@pytest.mark.slow
def test_real_data_sets_fall_on_their_side(dataset: Callable[[str], Path]) -> None:
    verdicts = {}
    for name in (*SIMILAR, *DIFFERENT):
        graph, found, hashes, _ = passed(dataset(name), most=80)
        n = len(hashes)
        dev = Development(
            np.arange(n), np.zeros(n, np.int64), np.arange(n), np.zeros(n, np.int64),
            tuple(hashes), ("all",),
        )  # fmt: skip
        verdicts[name] = similarity(graph, found, dev, 0).verdict
    assert not [name for name in SIMILAR if verdicts[name] == "different"], verdicts
    assert not [name for name in DIFFERENT if verdicts[name] == "similar"], verdicts
    assert sum(verdict != "unclear" for verdict in verdicts.values()) >= 6, verdicts


@pytest.mark.slow
def test_the_embedded_weights_know_imagenet(dataset: Callable[[str], Path]) -> None:
    """Positions of the classifier's rows are the sorted folders: 888 of 1,000 were measured."""
    from safetensors.numpy import load_file

    graph, found, hashes, names = passed(dataset("imagenet_sample"), most=1_000)
    classes = {name: i for i, name in enumerate(sorted(set(names)))}
    assert len(classes) == len(hashes) == 1_000
    stored = load_file(graph.weights)
    weight, bias = (stored[f"{graph.classifier}.{part}"] for part in ("weight", "bias"))
    answers = (found.stage("head") @ weight.T + bias).argmax(1)
    right = answers == [classes[name] for name in names]
    assert right.mean() >= 0.85
    n = len(hashes)
    every = np.arange(n)
    dev = Development(every, every, every, every, tuple(hashes), tuple(classes))
    assert similarity(graph, found, dev, 0).verdict == "similar"
