"""From frozen results to the files of the run folder: the contract in one place.

Only formats; every number was computed by the step that owns it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.graph import TapGraph
from headstart.data import check, split
from headstart.data.images import ImageRefused, load_image, thumbnail
from headstart.data.sources import Dataset
from headstart.gate import Gate
from headstart.judge import evaluate
from headstart.judge.words import counted
from headstart.plan.background import Background
from headstart.plan.criterion import as_text
from headstart.plan.decide import Plan
from headstart.plan.measure import Measurement, Similarity, StageProbe
from headstart.plan.nested import NestedEstimate
from headstart.plan.steps import Steps, steps_json
from headstart.plan.verify import Scored, Verified, table_json
from headstart.run import csv_text
from headstart.settings import FitSettings, threads

FEW_TESTED = 100
"""with fewer test images a warning says so"""
MISTAKES = 24
THUMBNAIL_PX = 160


def data_json(
    dataset: Dataset, findings: check.Findings, parts: split.Split, gate: Gate
) -> dict[str, Any]:
    """data.json"""
    place = {int(i): "train" for i in parts.train} | {int(i): "test" for i in parts.test}
    place |= parts.left_out
    near = [
        {
            "paths": list(pair.paths),
            "kind": pair.kind,
            "score": round(pair.score, 4),
            "conflict": pair.conflict,
            "leak": pair.leak,
        }
        for pair in gate.near
    ]
    return check.to_json(dataset, findings, lambda i: place[i]) | {
        "near_duplicates": near,
        "shortcuts": [
            {
                "property": s.property,
                "score": s.score,
                "guessing": s.guessing,
                "sentence": s.sentence,
            }
            for s in gate.shortcuts
        ],
        "twin_classes": [list(names) for names in gate.twin_classes],
        "source_overlap": [
            {"class": name, "source": source, "share": share}
            for name, source, share in gate.overlap
        ],
        "protocol": parts.protocol,
        "refused": parts.refused,
        "notes": [*_notes(dataset, findings, parts), *gate.warnings],
    }


def _notes(dataset: Dataset, findings: check.Findings, parts: split.Split) -> list[str]:
    notes = [parts.refused] if parts.refused else []
    reasons = list(parts.left_out.values())
    if leaked := reasons.count("copy of a test image"):
        notes.append(f"Left out of training: {counted(leaked, 'copy', 'copies')} of test images.")
    if shown := reasons.count("shows a test image"):
        notes.append(
            f"Left out of training: {counted(shown, 'file')} showing the picture of a test image."
        )
    if tied := reasons.count("in one group with a test image"):
        notes.append(
            f"Left out of training: {counted(tied, 'image')} in a group with a test image."
        )
    if conflicts := len(findings.label_conflicts):
        notes.append(
            f"{counted(conflicts, 'picture')} with more than one label (label_conflicts in "
            "data.json): at most one of them can be right."
        )
    if 0 < len(parts.test) < FEW_TESTED:
        notes.append(
            f"The test part has only {counted(len(parts.test), 'image')}: differences of a few "
            "points cannot be seen with it."
        )
    return notes


def data_sentences(
    dataset: Dataset, findings: check.Findings, parts: split.Split, gate: Gate
) -> list[str]:
    """What was found in the folder, for the terminal."""
    text = f"{counted(len(parts.train), 'image')} to learn from, "
    text += (
        f"{len(parts.test):,} to test ({parts.protocol})"
        if len(parts.test)
        else f"{'none' if len(parts.sites) == 2 else 'too few'} for a test part"
    )
    if findings.refused:
        text += f"; {counted(len(findings.refused), 'file')} unreadable (listed in data.json)"
    if findings.duplicates:
        text += f"; {counted(len(findings.duplicates), 'image')} there more than once"
    if gate.near:
        text += f"; {counted(len(gate.near), 'pair')} of near-duplicates, kept together"
    return [text, *_notes(dataset, findings, parts), *gate.warnings]


def split_csv(dataset: Dataset, parts: split.Split) -> str:
    """split.csv: one row per sample; a test image has no fold."""
    place: dict[int, tuple[str, object, object]] = {
        int(i): ("train", int(g), int(f))
        for i, g, f in zip(parts.train, parts.group, parts.fold, strict=True)
    }
    place |= {
        int(i): ("test", int(g), "") for i, g in zip(parts.test, parts.test_group, strict=True)
    }
    rows = [
        (sample.path, dataset.classes[sample.label], *place.get(i, ("left out", "", "")))
        for i, sample in enumerate(dataset.samples)
    ]
    return csv_text(["path", "label", "split", "group", "fold"], rows)


def plan_json(
    plan: Plan,
    measured: Measurement,
    graph: TapGraph,
    rows: Iterable[Scored],
    verified: Verified | None,
    settings: FitSettings,
) -> dict[str, Any]:
    """plan.json; without `verified` it holds the prior decision only."""
    chosen = verified.chosen if verified is not None else None
    return {
        "case_prior": list(plan.case_prior),
        "case": chosen.case if chosen is not None else None,
        "strategy": chosen.strategy if chosen is not None else None,
        "cut": chosen.cut if chosen is not None else None,
        "chosen": chosen.name if chosen is not None else None,
        "forced": plan.forced,
        "size": {
            "n": measured.n,
            "per_class": dict(measured.per_class),
            "verdict": plan.size_verdict,
            "small_below": settings.small_below,
            "large_above": settings.large_above,
            "sentence": plan.size_sentence,
        },
        "similarity": _similarity_json(measured.similarity),
        "reasons": list(plan.reasons),
        "switch": list(verified.sentences) if verified is not None else [],
        "warnings": list(verified.warnings) if verified is not None else [],
        "flips_if": list(plan.flips_if),
        "candidates": table_json(list(rows)),
        "depth_curve": [{"stage": row.stage, **_stage_json(row)} for row in measured.depth],
        "all_stages": _stage_json(measured.all_stages),
        "metric": measured.criterion.name,
        "chance": measured.chance,
        "learnable": measured.learnable,
        "backbone": {
            "name": graph.name,
            "stages": list(graph.stage_names),
            "weights_sha256": graph.weights_sha256,
            "source": graph.source,
            "size_px": graph.preprocess.size_px,
            "parity": graph.parity,
        },
        "budget_steps": None,
        "threads": threads(),
        "notes": list(verified.warnings) if verified is not None else [],
    }


def _similarity_json(near: Similarity) -> dict[str, Any]:
    limits = near.thresholds
    return {
        "verdict": near.verdict,
        "bn_shift": near.bn_shift,
        "low": near.low,
        "high": near.high,
        "n": near.n,
        "thresholds": None
        if limits is None
        else {"similar_below": limits[0], "different_from": limits[1]},
        "sentence": near.sentence,
    }


def _stage_json(row: StageProbe) -> dict[str, Any]:
    return {
        "width": row.width,
        "score": row.probe.score,
        "se": row.probe.se,
        "train_score": row.probe.train_score,
    }


def with_background(plan: dict[str, Any], behind: Background) -> dict[str, Any]:
    """plan.json with what explains the decision: its sentences join the reasons."""
    known, detail, twin = behind.evidence, behind.resolution, behind.control
    best = max(row["score"] for row in plan["candidates"])
    rows = [
        {"name": b.name, "score": b.probe.score, "se": b.probe.se, "seconds": b.probe.seconds}
        for b in behind.baselines
    ]
    text = _gain_sentence(behind, best, plan["metric"])
    sentences = [detail.sentence, *([] if known is None else [known.sentence]), text]
    sentences += [] if twin is None else [twin.sentence]
    return plan | {
        "reasons": [*plan["reasons"], *sentences],
        "baselines": rows,
        "depth_control": None
        if twin is None
        else [{"stage": row.stage, **_stage_json(row)} for row in twin.depth],
        "depth_control_sentence": None if twin is None else twin.sentence,
        "resolution": {
            "effective_px": detail.effective_px,
            "low": detail.low,
            "high": detail.high,
            "network_px": detail.network_px,
        },
        "source_evidence": None
        if known is None
        else {"explained": known.explained, "se": known.se, "top_source": list(known.top_source)},
    }


def _gain_sentence(behind: Background, best: float, metric: str) -> str:
    """What the best candidate has over the best baseline, as far as that can be told."""
    strongest = max(behind.baselines, key=lambda b: b.probe.score)
    score, se = strongest.probe.score, strongest.probe.se
    text = f"Without any network, {strongest.name} reach {as_text(score, metric)}"
    if score >= best:
        return (
            f"{text}, the best candidate {as_text(best, metric)}: pre-training adds nothing here."
        )
    if score + se >= best:
        return (
            f"{text}, the best candidate {as_text(best, metric)}: too close to tell any gain from "
            "pre-training."
        )
    return f"{text}; the best candidate reaches {as_text(best, metric)}."


def with_steps(plan: dict[str, Any], steps: Steps | None) -> dict[str, Any]:
    """plan.json with what the minutes were turned into, when re-training was worth a try."""
    return plan if steps is None else plan | {"budget_steps": steps_json(steps)}


def nested_json(nested: NestedEstimate, verified: Verified) -> dict[str, Any]:
    """nested.json: what the inner selections chose, and the naive estimate for comparison."""
    naive = next(row for row in verified.table if row.candidate == verified.chosen)
    return {
        "folds": nested.folds,
        "repeats": len(nested.probabilities),
        "chosen": [{"name": name, "times": times} for name, times in nested.chosen],
        "naive": {
            "score": naive.score,
            "se": naive.se,
            "sentence": "Cross-validated score of the chosen candidate, selection not nested: "
            "too good by the luck of the choice.",
        },
    }


def evaluation_json(evaluation: evaluate.Evaluation) -> dict[str, Any]:
    """evaluation.json"""
    return evaluate.to_json(evaluation)


def predictions_csv(
    paths: Sequence[str],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
) -> str:
    """predictions.csv: one row per test image."""
    header = ["path", "label", "predicted", "confidence", *(f"p_{name}" for name in classes)]
    rows = []
    for path, label, row in zip(paths, labels, probabilities, strict=True):
        best = int(row.argmax())
        values = [round(float(p), 6) for p in row]
        rows.append([path, classes[label], classes[best], values[best], *values])
    return csv_text(header, rows)


def mistakes(
    files: Sequence[Path],
    paths: Sequence[str],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
) -> dict[str, Any]:
    """mistakes.json: the most confident wrong answers, with thumbnails for the report."""
    predicted = probabilities.argmax(1)
    wrong = np.flatnonzero(predicted != labels)
    confidence = probabilities[wrong, predicted[wrong]]
    worst = wrong[np.argsort(-confidence, kind="stable")][:MISTAKES]
    rows = []
    for i in worst:
        try:
            small = thumbnail(load_image(files[i]), THUMBNAIL_PX)
        except ImageRefused:
            continue  # it vanished since it was scored; the table still has its row
        rows.append(
            {
                "path": paths[i],
                "label": classes[labels[i]],
                "predicted": classes[predicted[i]],
                "confidence": float(probabilities[i, predicted[i]]),
                "thumbnail": base64.b64encode(small).decode(),
            }
        )
    return {"mistakes": rows, "wrong": len(wrong), "n": len(labels)}
