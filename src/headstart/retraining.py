"""Cases 3 and 4: re-train the network itself, from the pre-trained or from random weights.

Each way is trained once without the images of one fold, which choose the mixture with the start and
score it; the best is trained again on all development images by the same recipe. The result is a
network like any other: it is exported, looks at every image once, and everything after that is what
it is for a frozen one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.device import detect_device
from headstart.backbone.features import features
from headstart.backbone.graph import tap_graph
from headstart.backbone.load import DEMO
from headstart.errors import TrainingError
from headstart.files import read_json, write_json
from headstart.judge.calibration import fit_temperature
from headstart.learning import Learned, Prepared, Seen, readable
from headstart.opening import PARITY_IMAGES, say
from headstart.plan.criterion import difference, evaluate, log_softmax
from headstart.plan.decide import Candidate, Strategy
from headstart.plan.verify import Scored, Trial, digits
from headstart.run import Run, atomic_write
from headstart.settings import FitSettings, threads
from headstart.train.adjust import Adjustment, adjust
from headstart.train.head import Head, cross_entropy
from headstart.training import (
    Start,
    answers,
    choose_augmentations,
    model_of,
    prepare_training,
    train_once,
    whole,
)

if TYPE_CHECKING:
    from headstart.train.finetune import Tuned

TUNED = "tuned"
CASES: dict[Strategy, int] = {"finetune": 3, "scratch": 4}
SEEN_AGAIN = 320
"""images of the training part that tell its score"""


@dataclass(frozen=True, slots=True)
class Inner:
    """What the verifying fold says about one way to train."""

    strategy: Strategy
    average: str
    alpha: float
    logits: NDArray[np.float64]  # [n, C] of the fold
    adjusted: Adjustment
    train_score: float
    seconds: float
    start_score: float | None
    epochs: tuple[dict[str, Any], ...]
    """rows of the history, for people"""


def retrain(
    prepared: Prepared, frozen: Learned, settings: FitSettings, run: Run
) -> tuple[Prepared, Learned]:
    """Train what the forced case names.

    Args:
        frozen: the best frozen candidate, ready: what the result is compared with.

    Returns:
        everything as before, with the tuned network as a further view, and what was learned.

    Raises:
        TrainingError: training diverged at every rate that was tried. InternalError: a frozen tensor
            has changed.
    """
    folder = run.folder / "training"
    folder.mkdir(exist_ok=True)
    start = prepare_training(prepared, settings, folder)
    start = replace(start, suited=choose_augmentations(start))
    inner = verify_all(start)
    best = max(inner, key=lambda one: one.adjusted.score.value)
    tuned = train_all(best, start)
    run.write_json("training.json", _training_json(start, inner, tuned))
    again, head = adopt(best, tuned, start)
    return again, _learned(best, inner, head, frozen, start)


def strategies(settings: FitSettings) -> tuple[Strategy, ...]:
    """What a forced case trains: 3 fine-tunes, 4 races scratch against it, --from-scratch does not."""
    if settings.from_scratch:
        return ("scratch",)
    return ("finetune",) if settings.case == 3 else ("scratch", "finetune")


def verify_all(start: Start) -> list[Inner]:
    """Verify every way to train; one that diverges is dropped while another is left.

    Raises:
        TrainingError: all of them have diverged.
    """
    inner, failed = [], None
    for strategy in strategies(start.settings):
        try:
            inner.append(verify_one(strategy, start))
        except TrainingError as error:
            say(str(error))
            failed = error
    if not inner and failed is not None:
        raise failed
    return inner


def verify_one(strategy: Strategy, start: Start) -> Inner:
    """Train without the verifying fold and score it there; or read it, when it was done before."""
    stored = start.folder / f"{strategy}.json"
    dev, criterion = start.prepared.development, start.prepared.criterion
    truth, groups = dev.labels[start.valid], dev.groups[start.valid]
    if stored.is_file():
        found = read_json(stored)
        logits = np.array(found["logits"], np.float64)
        adjusted = adjust(criterion, logits, truth, groups)
        return Inner(
            strategy,
            found["average"],
            found["alpha"],
            logits,
            adjusted,
            found["train_score"],
            found["seconds"],
            found["start_score"],
            tuple(found["epochs"]),
        )
    say(f"{strategy}: learning from {len(start.learn):,} images, verified on {len(truth):,}")
    model = model_of(start, strategy, start.inner_head)
    tuned = train_once(start, strategy, model, start.learn, start.valid, "verify")
    logits = tuned.logits.astype(np.float64)
    some = start.learn[:: max(1, len(start.learn) // SEEN_AGAIN)][:SEEN_AGAIN]
    again = answers(model, whole(start, some)).astype(np.float64)
    adjusted = adjust(criterion, logits, truth, groups)
    shown = log_softmax(again - adjusted.shift)
    inner = Inner(
        strategy,
        tuned.average,
        tuned.alpha,
        logits,
        adjusted,
        evaluate(criterion, shown, dev.labels[some]).value,
        tuned.seconds,
        tuned.start_score,
        tuple(asdict(row) for row in tuned.history),
    )
    write_json(
        stored,
        {
            "average": inner.average,
            "alpha": inner.alpha,
            "train_score": inner.train_score,
            "seconds": inner.seconds,
            "start_score": inner.start_score,
            "epochs": list(inner.epochs),
            "logits": tuned.logits.tolist(),
        },
    )
    return inner


def train_all(best: Inner, start: Start) -> Tuned:
    """The same recipe on all development images, mixed with the start as the fold has chosen."""
    everything = np.arange(len(start.prepared.development.labels))
    say(f"{best.strategy}: once more, from all {len(everything):,} images")
    model = model_of(start, best.strategy, start.head)
    keep = (best.average, best.alpha)
    return train_once(start, best.strategy, model, everything, everything[:0], "all", keep)


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
    place = folder.parent / ".tuned"
    given = None if settings.backbone == DEMO else size
    graph = tap_graph(settings.backbone, weights, given, paths[:PARITY_IMAGES], place)
    made = "fine-tuned from" if best.strategy == "finetune" else "random weights, not from"
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


def _learned(best: Inner, inner: list[Inner], head: Head, frozen: Learned, start: Start) -> Learned:
    """What was learned, in the words of the rest of the job, beside the frozen candidates."""
    dev, criterion, valid = start.prepared.development, start.prepared.criterion, start.valid
    trial = frozen.verified.trial
    truth, groups = dev.labels[valid], dev.groups[valid]
    base = evaluate(criterion, log_softmax(trial.logits[valid] - trial.shift), truth)
    by, unit = criterion.unit
    rows, sentences = [], []
    chosen = None
    for one in inner:
        found = one.adjusted.score
        candidate = Candidate(one.strategy, one.strategy, None, CASES[one.strategy], view=TUNED)
        method = f"trained once, one fold of {len(truth):,} held out"
        rows.append(
            Scored(candidate, found.value, found.se(groups), one.train_score, one.seconds, method)
        )
        gain, se = difference(found, base, groups)
        sentences.append(
            f"{one.strategy} against {frozen.verified.chosen.name} on the {len(truth):,} images of "
            f"the held-out fold: {gain * by:+.{digits(by)}f} {unit} (standard error "
            f"{se * by:.{digits(by)}f})."
        )
        if one is best:
            chosen, ahead = candidate, gain
    assert chosen is not None
    warnings = list(frozen.verified.warnings)
    if ahead < 0:
        warnings.append(
            f"{frozen.plan.forced}: on the held-out fold {best.strategy} is "
            f"{-ahead * by:.{digits(by)}f} {unit} below {frozen.verified.chosen.name}; it is shipped "
            "because it was asked for."
        )
    logits = best.logits
    verified = replace(
        frozen.verified,
        chosen=chosen,
        trial=Trial(
            best.adjusted.score,
            best.train_score,
            cross_entropy(logits, truth),
            logits,
            0.0,
            best.adjusted.shift,
            best.seconds,
        ),
        table=(*frozen.verified.table, *rows),
        sentences=(*frozen.verified.sentences, *sentences),
        warnings=tuple(warnings),
    )
    halves = np.unique(groups, return_inverse=True)[1] % 2
    temperature = fit_temperature(logits, truth, halves)
    return replace(frozen, verified=verified, head=head, temperature=temperature)


def _training_json(start: Start, inner: list[Inner], tuned: Tuned) -> dict[str, Any]:
    """training.json: how the network was trained, epoch by epoch."""
    return {
        "size_px": start.graph.preprocess.size_px,
        "augmentations": [asdict(row) for row in start.suited],
        "verified": [
            {
                "strategy": one.strategy,
                "average": one.average,
                "alpha": one.alpha,
                "start_score": one.start_score,
                "epochs": list(one.epochs),
            }
            for one in inner
        ],
        "images": len(start.learn) + len(start.valid),
        "epochs": [asdict(row) for row in tuned.history],
        "images_seen": tuned.images_seen,
        "seconds": round(tuned.seconds, 3),
        "notes": list(tuned.notes),
    }
