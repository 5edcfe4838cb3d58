"""How good is a finished model on new labelled images? The judgement of `fit`, once more.

Thresholds are those that the run has named in evaluation.json; where it has none (classes taken
together), they are chosen on its held-out answers, and without a run cross-fitted on the new images.

N images, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart import results
from headstart.data.images import ImageRefused, load_pixels
from headstart.data.sources import Dataset, Sample
from headstart.data.split import MOST_SITES
from headstart.errors import (
    ArgumentError,
    DataError,
    HeadstartError,
    RunFolderError,
    nearest,
    show,
)
from headstart.guarding import flagged_sentence, seen_json, sets_sentence
from headstart.held_out import count_test_use, read_held_out, read_learned_from, several
from headstart.judge import readers as reading
from headstart.judge.complete import Judgement, Parts, complete, prevalences, sides
from headstart.judge.complete import to_json as complete_json
from headstart.judge.conformal import judge_sets, sets_to_json
from headstart.judge.curves import against_rest
from headstart.judge.driving import with_driving
from headstart.judge.evaluate import evaluate as evaluate_answers
from headstart.judge.grouped import widened
from headstart.judge.operating import (
    CROSSING,
    OperatingPoint,
    Refused,
    Scores,
    Target,
    at_threshold,
)
from headstart.judge.reader_table import Answered, Rated, read_readers
from headstart.judge.subgroups import SCORES
from headstart.judge.unlike import flagged_share
from headstart.judge.words import counted
from headstart.opening import read_data, say, working
from headstart.parallel import ordered_map, progress
from headstart.parting import compared_columns
from headstart.plan.criterion import choose_criterion
from headstart.run import Run, existing_manifest, next_free, read_json
from headstart.settings import FitSettings, fit_settings, threads
from headstart.ship.predict import Model, Prediction, load, wide

Readings = Mapping[str, Answered | tuple[Rated, ...]]
"""what people said, by the class, or classes taken together, that they called"""
Together = Mapping[str, Sequence[str]]
Chosen = Mapping[tuple[str, Target], tuple[float, str]]
"""thresholds by class and target, with what they were chosen on"""


@dataclass(frozen=True, slots=True)
class _New:
    """New images that could be read, and what the model says of them."""

    who: NDArray[np.int64]  # [N] among the samples of the data set
    samples: tuple[Sample, ...]  # N
    answers: tuple[Prediction, ...]  # N
    hashes: tuple[str, ...]  # N
    unreadable: tuple[Prediction, ...]
    classes: tuple[str, ...]
    """of the data, by the labels of the samples"""

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """[N, C]"""
        return np.array([answer.probabilities for answer in self.answers], dtype=np.float64)

    @property
    def groups(self) -> NDArray[np.int64]:
        """[N] equal for equal groups, and for equal content where there are none."""
        names = [s.group or h for s, h in zip(self.samples, self.hashes, strict=True)]
        return np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)

    @property
    def units(self) -> NDArray[np.int64] | None:
        """[N] see `parting.units`: few groups are parts themselves."""
        names = {sample.group for sample in self.samples} - {None}
        if not 1 < len(names) <= MOST_SITES:
            return None
        return np.asarray(np.unique(self.hashes, return_inverse=True)[1], dtype=np.int64)


def evaluate(
    model: str | Path,
    data: str | Path | None = None,
    *,
    table: str | Path | None = None,
    group: str | None = None,
    out: str | Path | None = None,
    by: Sequence[str] = (),
    readers: str | Path | None = None,
    prevalence: Mapping[str, float] | Sequence[str] | str | None = None,
    together: Together | Sequence[str] | str = (),
) -> Path:
    """Judge a model on new labelled images; writes evaluation.json and predictions.csv.

    Args:
        model: run folder or model folder. data: folder; where it has a test part, only that counts.
        table: CSV instead of a folder. group: column or re:PATTERN. out: default runs/<data>-<k>.
        by: columns of the table; the scores of each of their values are compared. Not given: those
            that `parting.compared_columns` chooses.
        readers: CSV of what people said of the same images, or of how good they were.
        prevalence: share of a class where the model is used, as `CLASS=SHARE` or a mapping.
        together: classes that count as one, as `NAME=CLASS`, once for each class, or a mapping; readers
            are then compared at what they are together.

    Returns:
        the folder that was written.

    Raises:
        ArgumentError, DataError: of names, classes, columns that do not fit. BundleError: not a
            model. RunFolderError: the folder exists.
    """
    by = (by,) if isinstance(by, str) else tuple(by)
    values: dict[str, Any] = {"data": data, "table": table, "group": group, "by": by, "out": out}
    values["prevalence"] = prevalence
    settings = fit_settings(values, "evaluate")
    loaded = load(model)
    dataset = read_data(settings)
    _known_classes(dataset, loaded.classes)
    prevalences(settings.prevalence or {}, loaded.classes)
    grouped = _together(together)
    told = sides(loaded.classes, grouped)
    readings = _readings(readers, loaded.classes, settings.prevalence, told)
    folder = settings.out or next_free(settings.source)
    if existing_manifest(folder) is not None:
        raise RunFolderError(
            "This run folder exists already", where=folder, do="Choose another with --out."
        )
    matter = {
        **{name: settings.that_matter()[name] for name in values if name != "out"},
        "model": str(model),
        "readers": None if readers is None else str(readers),
        "together": {name: list(some) for name, some in grouped.items()},
    }
    with working(Run(folder, "evaluate", matter, threads())) as run:
        with run.step("answer"):
            new = _answered(loaded, dataset)
        with contextlib.suppress(HeadstartError):  # an unwritable cache costs only the count
            run.note("test_set_scored", count_test_use(new.hashes))
        with run.step("evaluate"):
            stored = _judged(loaded, Path(model), new, settings, dataset, readings, grouped)
        run.write_json("evaluation.json", stored)
        paths, labels = [s.path for s in new.samples], _labels(new, loaded.classes)
        text = results.predictions_csv(paths, labels, new.probabilities, loaded.classes)
        run.write_text("predictions.csv", text)
    return folder


def _known_classes(dataset: Dataset, classes: Sequence[str]) -> None:
    strange = [name for name in dataset.classes if name not in classes]
    if strange:
        raise DataError(
            f"The model does not know {counted(len(strange), 'class', 'classes')} of these images",
            where=dataset.root,
            received=", ".join(map(show, strange[:3])),
            do=f"{nearest(strange[0], classes)} It tells apart: "
            f"{', '.join(map(show, classes[:20]))}.".strip(),
        )


def _together(given: Together | Sequence[str] | str) -> dict[str, list[str]]:
    """Classes by the name for them; `NAME=CLASS` may come more than once."""
    if isinstance(given, Mapping):
        return {name: list(some) for name, some in given.items()}
    found: dict[str, list[str]] = {}
    for text in [given] if isinstance(given, str) else given:
        name, sign, one = text.partition("=")
        if not (name and sign and one):
            raise ArgumentError(
                "Classes are taken together as NAME=CLASS, once for each class",
                received=show(text),
                do="For example --together malignant=melanoma --together malignant=carcinoma.",
            )
        found.setdefault(name, []).append(one)
    return found


def _readings(
    file: str | Path | None,
    classes: Sequence[str],
    prevalence: Mapping[str, float] | None,
    told: Mapping[str, tuple[int, ...]],
) -> Readings:
    """Readers call what is taken together, where something is; of two classes the rarer one (the
    second, when that is not known); else every class."""
    if file is None:
        return {}
    called = list(told)[len(classes) :] or list(classes)
    if called == list(classes) and len(classes) == 2:
        shares = prevalences(prevalence or {}, classes)
        called = [min((classes[1], classes[0]), key=lambda name: shares.get(name, 0.5))]
    found = {name: read_readers(Path(file), classes, told[name], name) for name in called}
    if len(called) > 1 and not all(isinstance(one, Answered) for one in found.values()):
        raise DataError(
            "A table of sensitivities and specificities says nothing about one of many classes",
            where=file,
            received=f"{len(classes)} classes",
            do="Give the readers' answers: reader,path,answer; or say what was called: --together.",
        )
    return found


def _answered(model: Model, dataset: Dataset) -> _New:
    """What the model says of every image; a broken one is left out, and named in the result."""
    rows = [i for i, s in enumerate(dataset.samples) if not dataset.has_test or s.split == "test"]
    samples = [dataset.samples[i] for i in rows]
    if dataset.has_test:
        say(f"the test part only: {counted(len(samples), 'file')}")
    paths = [dataset.locate(sample) for sample in samples]
    found = ordered_map(partial(_one, model), paths, threads())
    answers = list(progress(found, len(paths), "predicting"))
    read = [i for i, (answer, _) in enumerate(answers) if answer.error is None]
    if not read:
        raise DataError(
            "None of these images can be read", where=dataset.root, received=answers[0][0].error
        )
    return _New(
        np.array([rows[i] for i in read]),
        tuple(samples[i] for i in read),
        tuple(answers[i][0] for i in read),
        tuple(answers[i][1] for i in read),
        tuple(answer for answer, _ in answers if answer.error is not None),
        dataset.classes,
    )


def _one(model: Model, path: Path) -> tuple[Prediction, str]:
    try:
        pixels, content = load_pixels(path, wide(model.bundle.preprocess))
    except ImageRefused as refused:
        why = f"{refused.reason}: {refused.detail}"
        return Prediction(str(path), None, None, None, why), ""
    return model.answered(path, pixels)[0], content


def _labels(new: _New, classes: Sequence[str]) -> NDArray[np.int64]:
    """Labels [N] as columns of the model."""
    return np.array([classes.index(new.classes[sample.label]) for sample in new.samples])


def _judged(
    model: Model,
    place: Path,
    new: _New,
    settings: FitSettings,
    dataset: Dataset,
    readings: Readings,
    together: Together,
) -> dict[str, Any]:
    """evaluation.json: all that `fit` says of a test part, parts of the images, and readers."""
    classes, p, labels = model.classes, new.probabilities, _labels(new, model.classes)
    plan = read_json(place / "plan.json") if (place / "plan.json").is_file() else {}
    criterion = choose_criterion(str(plan.get("metric", "accuracy")), labels, classes)
    before, chosen = read_held_out(place, classes), _chosen_before(place, classes)
    if before is None and not chosen:
        say("no held-out answers beside this model: thresholds are cross-fitted on these images")
    seen = read_learned_from(place)
    learned = None if seen is None else sum(one in seen for one in new.hashes)
    if learned:
        say(f"warning: the model learned from {learned:,} of these {len(labels):,} images")
    found = evaluate_answers(p, labels, classes, _protocol(learned))
    evaluation = widened(with_driving(found, criterion, p, labels), p, labels, new.groups)
    columns, notes = compared_columns(dataset, new.who, settings.by)
    judgement = complete(
        p,
        labels,
        classes,
        several(new.groups),
        "unseen" if before is None else before,
        settings.prevalence,
        Parts(columns, new.units, criterion.name if criterion.name in SCORES else "accuracy"),
        together,
    )
    told = sides(classes, together)
    points = _at_the_runs(judgement, chosen, new, settings, classes)
    judgement = replace(judgement, operating=points, notes=(*judgement.notes, *notes))
    return {
        **results.evaluation_json(evaluation),
        **complete_json(judgement),
        "metric": criterion.name,
        "learned_from": learned,
        "model": {"weights_sha256": model.bundle.description["sha256"]["model.safetensors"]},
        "sets": _sets(model, p, labels, new.groups),
        "unlike": _unlike(model, new),
        "readers": [
            _study(name, told[name], one, judgement, p, labels, new)
            for name, one in readings.items()
        ],
        "unreadable": [{"path": one.path, "error": one.error} for one in new.unreadable],
    }


def _protocol(learned: int | None) -> str:
    """What was judged, and how; `learned` of the images are those that the model learned from."""
    images = "new labelled images"
    if learned is None:
        images = "labelled images that the model may have learned from"
    elif learned:
        images = f"labelled images, {learned:,} of which the model had learned from"
    return f"{images}, judged by the finished model"


def _chosen_before(place: Path, classes: Sequence[str]) -> Chosen:
    """The thresholds in evaluation.json of a run; none where there is no such file, or one of other
    classes."""
    file = place / "evaluation.json"
    stored = read_json(file) if file.is_file() else {}
    if stored.get("classes") != list(classes):
        return {}
    found = {}
    try:
        for row in stored.get("operating", []):
            if row["refused"] is False and row["name"] in classes:
                target = Target(str(row["target"]["rate"]), float(row["target"]["value"]))
                source = str(row["chosen_on"]).removesuffix(CROSSING)
                found[str(row["name"]), target] = float(row["threshold"]), source
    except (KeyError, TypeError, ValueError, OverflowError) as damage:
        raise RunFolderError(
            "The thresholds in this file are damaged", where=file,
            do="Fit again, or evaluate the folder model in it, without the run.",
        ) from damage  # fmt: skip
    return found


def _at_the_runs(
    judgement: Judgement, chosen: Chosen, new: _New, settings: FitSettings, classes: Sequence[str]
) -> tuple[OperatingPoint | Refused, ...]:
    """The operating points, at the thresholds that the run has named where it has."""
    p, labels, groups = new.probabilities, _labels(new, classes), several(new.groups)
    shares = prevalences(settings.prevalence or {}, classes)
    found = list(judgement.operating)
    for k, point in enumerate(found):
        if (point.name, point.target) in chosen:
            judged = Scores(*against_rest(p, labels, (classes.index(point.name),)), groups)
            threshold, source = chosen[point.name, point.target]
            share = shares.get(point.name)
            found[k] = at_threshold(point.name, point.target, threshold, source, judged, share)
    return tuple(found)


def _sets(
    model: Model, p: NDArray[np.float64], labels: NDArray[np.int64], groups: NDArray[np.int64]
) -> dict[str, Any] | None:
    rule = model.bundle.sets
    if rule is None:
        return None
    seen = judge_sets(rule, labels, p, groups)
    stored = sets_to_json(rule) | {"sentence": sets_sentence(seen)}
    return stored | {"seen": seen_json(seen, model.classes)}


def _unlike(model: Model, new: _New) -> dict[str, Any] | None:
    known = model.bundle.unlike
    if known is None:
        return None
    found = flagged_share([answer.unlike is True for answer in new.answers], new.groups)
    sentence = flagged_sentence(found, known.rate)
    return {"rate": known.rate, "flagged": asdict(found), "sentence": sentence}


def _study(
    name: str,
    columns: tuple[int, ...],
    readings: Answered | tuple[Rated, ...],
    judgement: Judgement,
    p: NDArray[np.float64],
    labels: NDArray[np.int64],
    new: _New,
) -> dict[str, Any]:
    """Readers beside the model, at the first threshold that these images support."""
    points = [point for point in judgement.operating if point.name == name]
    made = [point for point in points if isinstance(point, OperatingPoint)]
    if not made:
        if not points:
            return {"refused": True, "sentence": judgement.notes[0]}
        return {"refused": True, "name": name, "sentence": points[0].sentence}
    judged = Scores(*against_rest(p, labels, columns), several(new.groups))
    paths = [sample.path for sample in new.samples]
    study = reading.reader_study(readings, judged, paths, made[0])
    return {"refused": False, **reading.to_json(study)}
