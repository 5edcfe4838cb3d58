"""Train the network itself: every planned way on folds that it did not learn from, the best on all.

A way is trained without the images of a fold, which choose the mixture with the start and score it;
the winner is trained again on all development images by the same recipe. The result is a network
like any other: it is exported, looks at every image once, and everything after that is what it is
for a frozen one.

n images of the verifying folds, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.device import detect_device
from headstart.backbone.features import features
from headstart.backbone.graph import tap_graph
from headstart.backbone.load import DEMO
from headstart.errors import TrainingError
from headstart.files import atomic_write, read_json, write_json
from headstart.learning import HeldOut, Prepared, Seen, readable
from headstart.opening import PARITY_IMAGES, say
from headstart.plan.criterion import Criterion, evaluate, halves, log_softmax
from headstart.plan.decide import Strategy
from headstart.plan.measure import stratified
from headstart.plan.steps import Planned, Steps, Way
from headstart.settings import FitSettings, threads
from headstart.train.adjust import Adjustment, adjust
from headstart.train.answer import answers
from headstart.train.head import Head, tempered_loss
from headstart.training import (
    Start,
    forget,
    head_from,
    kind_of,
    train_once,
    whole,
)

if TYPE_CHECKING:
    from headstart.train.finetune import Tuned

TUNED = "tuned"
LEARNED = "learned"
"""name, in a stored fold, of the answers for images that were learned from"""
SEEN_AGAIN = 320
"""images of the training part that tell its score"""
Float = NDArray[np.float64]
Mixture = tuple[str, float]


@dataclass(frozen=True, slots=True)
class OnFold:
    """What one training says about the fold that it did not see."""

    positions: NDArray[np.int64]  # [n] among the development images
    trials: Mapping[Mixture, NDArray[np.float32]]  # [n, C] logits of every mixture with the start
    learned: NDArray[np.float32]  # [m, C] of some images that it learned from
    truth: NDArray[np.int64]  # [m] their labels
    start_score: float | None
    seconds: float
    epochs: tuple[dict[str, Any], ...]
    """rows of the history, for people"""


@dataclass(frozen=True, slots=True)
class Inner:
    """What the verifying folds say about one way to train."""

    way: Way
    mixture: Mixture
    """the best on all of them: what is shipped"""
    positions: NDArray[np.int64]  # [n]
    logits: Float  # [n, C] each half of the images with the mixture that the other half prefers
    adjusted: Adjustment
    train_score: float
    seconds: float
    start_score: float | None
    epochs: tuple[dict[str, Any], ...]

    @property
    def answers(self) -> Float:
        """[n, C] as they are scored: what is taken off for rare classes is off."""
        return np.asarray(self.logits - self.adjusted.shift)


def forced_ways(settings: FitSettings, size_px: int, n: int) -> tuple[Way, ...]:
    """What a forced case trains: 3 fine-tunes, 4 races scratch against it, --from-scratch does not.

    Args:
        n: images that the verified network learns from.
    """
    from headstart.train.recipe import epochs_for

    names: tuple[Strategy, ...] = ("finetune",) if settings.case == 3 else ("scratch", "finetune")
    if settings.from_scratch:
        names = ("scratch",)
    return tuple(
        Way(name, name, size_px, None, settings.epochs or epochs_for(kind_of(name), n))
        for name in names
    )


def forced_steps(start: Start) -> Steps:
    """Verifying folds with images enough, and a refit, of every way that is forced; no clock."""
    learn, _ = start.apart(start.folds[0])
    ways = forced_ways(start.settings, start.graph.preprocess.size_px, len(learn))
    return Steps(tuple(Planned(way, start.judges, 0.0, 0.0) for way in ways), True, 0.0, 0.0, ())


def other_rates(steps: Steps) -> Steps:
    """The same ways at the other rates that the recipe knows: none suits every network."""
    from headstart.train.recipe import RATES

    more = [
        replace(one, way=one.way.at(rate))
        for one in steps.planned
        for rate in RATES[kind_of(one.way.strategy)][1:]
    ]
    return replace(steps, planned=tuple(more))


def verify_all(steps: Steps, starts: Mapping[int, Start]) -> list[Inner]:
    """Verify every planned way, cheapest first; one that diverges is dropped while another is left.

    Args:
        starts: by size in px.

    Raises:
        TrainingError: all of them have diverged.
    """
    inner, failed = [], None
    for planned in steps.planned:
        start = starts[planned.way.size_px]
        try:
            inner.append(verify_one(planned, start, keep=not steps.refit))
        except TrainingError as error:
            say(str(error))
            failed = error
    if not inner and failed is not None:
        raise failed
    return inner


def verify_one(planned: Planned, start: Start, keep: bool = False) -> Inner:
    """Train without each of the verifying folds in turn, and put together what they say.

    Args:
        keep: the networks, of which one is shipped where nothing is learned once more.
    """
    found = [_on_fold(planned.way, start, fold, keep) for fold in start.folds[: planned.folds]]
    dev, criterion = start.prepared.development, start.prepared.criterion
    positions = np.concatenate([one.positions for one in found])
    order = np.argsort(positions)
    positions = positions[order]
    common = [key for key in found[0].trials if all(key in one.trials for one in found)]
    trials = {
        key: np.concatenate([one.trials[key] for one in found])[order].astype(np.float64)
        for key in common
    }
    truth, groups = dev.labels[positions], dev.groups[positions]
    logits = crossed(trials, truth, groups, criterion)
    adjusted = adjust(criterion, logits, truth, groups)
    return Inner(
        way=planned.way,
        mixture=best_mixture(trials, truth, criterion),
        positions=positions,
        logits=logits,
        adjusted=adjusted,
        train_score=float(np.mean([_relearned(one, adjusted, criterion) for one in found])),
        seconds=sum(one.seconds for one in found),
        start_score=found[0].start_score,
        epochs=found[0].epochs,
    )


def best_mixture(
    trials: Mapping[Mixture, Float], truth: NDArray[np.int64], criterion: Criterion
) -> Mixture:
    """The mixture with the lowest loss; of equal ones that with the higher score, then the one nearest
    to the start: never the order in which they come, which is another one after a stop."""

    def rank(key: Mixture) -> tuple[float, float, float, str]:
        score = evaluate(criterion, log_softmax(trials[key]), truth).value
        return -tempered_loss(trials[key], truth), score, -key[1], key[0]

    return max(trials, key=rank)


def crossed(
    trials: Mapping[Mixture, Float],
    truth: NDArray[np.int64],
    groups: NDArray[np.int64],
    criterion: Criterion,
) -> Float:
    """Held-out logits [n, C] in which no image helped to choose the mixture that answers for it."""
    half = halves(groups)
    found = np.empty_like(next(iter(trials.values())))
    for side in (0, 1):
        mine, others = half == side, half != side
        some = others if len(np.unique(truth[others])) > 1 else np.ones(len(truth), bool)
        best = best_mixture({k: v[some] for k, v in trials.items()}, truth[some], criterion)
        found[mine] = trials[best][mine]
    return found


def _on_fold(way: Way, start: Start, fold: int, keep: bool) -> OnFold:
    """Train without a fold and answer for it; or read it, when it was done before."""
    from safetensors.numpy import load_file, save

    stored = start.folder / f"{way.name}-{fold}.json"
    tensors = stored.with_suffix(".safetensors")
    dev = start.prepared.development
    learn, valid = start.apart(fold)
    some = learn[stratified(dev.labels[learn], SEEN_AGAIN, start.settings.seed)]
    if stored.is_file():
        facts, arrays = read_json(stored), load_file(tensors)
        learned = arrays.pop(LEARNED)
        return OnFold(
            valid,
            {_mixture(key): value for key, value in arrays.items()},
            learned,
            dev.labels[some],
            facts["start_score"],
            facts["seconds"],
            tuple(facts["epochs"]),
        )
    counted = f"learning from {len(learn):,} images, verified on {len(valid):,} others"
    say(f"{way.name}: {counted} (fold {fold + 1} of {len(start.folds)})")
    place = f"without-{fold}"
    model, tuned = train_once(start, way, head_from(start, learn, place), learn, valid, place)
    found = OnFold(
        valid,
        tuned.trials,
        answers(model, whole(start, some)),
        dev.labels[some],
        tuned.start_score,
        tuned.seconds,
        tuple(asdict(row) for row in tuned.history),
    )
    named = {f"{end} {alpha}": np.ascontiguousarray(v) for (end, alpha), v in tuned.trials.items()}
    atomic_write(tensors, save(named | {LEARNED: np.ascontiguousarray(found.learned)}))
    facts = {
        "start_score": found.start_score,
        "seconds": found.seconds,
        "epochs": list(found.epochs),
    }
    write_json(stored, facts)
    forget(start, way, place, checkpoints=not keep)
    return found


def _relearned(one: OnFold, adjusted: Adjustment, criterion: Criterion) -> float:
    """The score on what was learned, as that on what was not: what is taken off for rare classes is off."""
    return evaluate(criterion, log_softmax(one.learned - adjusted.shift), one.truth).value


def _mixture(text: str) -> Mixture:
    """
    >>> _mixture("average 0.5")
    ('average', 0.5)
    """
    end, _, alpha = text.partition(" ")
    return end, float(alpha)


def train_winner(best: Inner, start: Start, refit: bool) -> Tuned:
    """The same recipe on all development images; or, without a refit, the network that was verified on
    the first fold. Either is mixed with the start as all verifying folds have chosen."""
    if not refit:
        learn, valid = start.apart(start.folds[0])
        place = f"without-{start.folds[0]}"
        head = head_from(start, learn, place)
        return train_once(start, best.way, head, learn, valid, place, best.mixture)[1]
    everything = np.arange(len(start.prepared.development.labels))
    say(f"{best.way.name}: once more, from all {len(everything):,} images")
    head = head_from(start, everything, "all")
    return train_once(start, best.way, head, everything, everything[:0], "all", best.mixture)[1]


def adopt(best: Inner, tuned: Tuned, start: Start) -> tuple[Prepared, Head]:
    """Export the tuned network and let it look at every image once: a view like any other."""
    from safetensors.torch import save

    prepared, settings, folder = start.prepared, start.settings, start.folder
    classifier = f"{start.graph.classifier}."
    state = {name: value for name, value in tuned.state.items() if not name.startswith(classifier)}
    weights = folder / "tuned.safetensors"
    atomic_write(weights, save({name: value.contiguous() for name, value in state.items()}))
    paths, hashes = readable(prepared)
    size = start.graph.preprocess.size_px
    # Kept outside the training folder, which goes when all is done; the bundle reads it from there.
    place: Path = folder.parent / ".tuned"
    given = None if settings.backbone == DEMO else size
    graph = tap_graph(settings.backbone, weights, given, paths[:PARITY_IMAGES], place)
    made = "random weights, not from" if best.way.strategy == "scratch" else "fine-tuned from"
    graph = replace(
        graph,
        preprocess=start.graph.preprocess,
        source=f"{made} {start.graph.source}",
        licence=start.graph.licence,
    )
    seen = features(graph, paths, hashes, detect_device(settings.device), threads())
    views = {**prepared.views, TUNED: Seen(graph, seen, best.seconds)}
    head = replace(tuned.head, bias=(tuned.head.bias - best.adjusted.shift).astype(np.float32))
    return replace(prepared, views=views), head


def training_json(
    start: Start,
    inner: list[Inner],
    best: Inner | None,
    tuned: Tuned | None,
    refit: bool = True,
) -> dict[str, Any]:
    """training.json: how the network was trained, epoch by epoch."""
    shipped: dict[str, Any] = {}
    if best is not None and tuned is not None:
        learned_from = start.prepared.development.folds != (-1 if refit else start.folds[0])
        shipped = {
            "size_px": best.way.size_px,
            "images": int(learned_from.sum()),
            "epochs": [asdict(row) for row in tuned.history],
            "images_seen": tuned.images_seen,
            "seconds": round(tuned.seconds, 3),
            "notes": list(tuned.notes),
        }
    return shipped | {
        "augmentations": [asdict(row) for row in start.suited],
        "verified": [
            {
                "name": one.way.name,
                "strategy": one.way.strategy,
                "size_px": one.way.size_px,
                "images": len(one.positions),
                "average": one.mixture[0],
                "alpha": one.mixture[1],
                "start_score": one.start_score,
                "epochs": list(one.epochs),
            }
            for one in inner
        ],
    }


def held_out(best: Inner) -> HeldOut:
    """What the verifying folds say of the winner, for its temperature and its estimate."""
    return HeldOut(best.positions, best.answers)
