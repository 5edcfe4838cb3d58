"""What judging and picturing a run store, made by the steps themselves where that takes no time."""

from __future__ import annotations

import base64
import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.guarding import seen_json, sets_sentence
from headstart.judge import readers
from headstart.judge.complete import complete
from headstart.judge.complete import to_json as complete_json
from headstart.judge.conformal import fit_sets, judge_sets, sets_to_json
from headstart.judge.learning_curve import curve_json, fit_curve
from headstart.judge.operating import OperatingPoint, Scores
from headstart.judge.reader_table import Rated
from headstart.judge.sites import AtSites, judge_sites
from headstart.judge.sites import to_json as sites_to_json
from headstart.plan.criterion import choose_criterion

PER_CLASS = 70


def judge(folder: Path, classes: list[str], prefix: str = "", people: bool = True) -> Path:
    """Add to a run of `report_samples.write_run` all that evaluation.json holds beyond scores."""
    file = folder / "evaluation.json"
    stored = json.loads(file.read_text()) | judgement(tuple(classes), prefix, people)
    file.write_text(json.dumps(stored))
    return folder


@functools.cache
def judgement(classes: tuple[str, ...], prefix: str, people: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(classes)), PER_CLASS)[: -PER_CLASS // 2]  # the last is rare
    logits = rng.normal(size=(len(labels), len(classes)))
    logits[np.arange(len(labels)), labels] += 2.5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    cameras = [f"{prefix}{'abc'[k % 3]}" for k in range(len(labels))]
    cameras[:4] = [f"{prefix}new"] * 4
    found = complete(
        p, labels, classes, None, "unseen", {classes[0]: 0.1}, {f"{prefix}camera": cameras}
    )
    rule = fit_sets(labels, p, 0.9)
    seen = judge_sets(rule, labels, p)
    alarms = {"name": "false_alarms", "value": 0.06, "low": 0.03, "high": 0.1, "n": len(labels)}
    stored = complete_json(found) | {
        "sets": sets_to_json(rule)
        | {"sentence": sets_sentence(seen), "seen": seen_json(seen, list(classes))},
        "unlike": {
            "rate": 0.05,
            "n": 400,
            "groups": 400,
            "false_alarms": alarms,
            "sentence": "6 %",
        },
        "learning_curve": _curve(),
        "suggestions": {"file": "suggestions.csv", "listed": 31},
        "notes": [f"{prefix}a note of the judge"],
        "before_relabel": {"sentence": f"{prefix}Labels of 3 images were corrected."},
    }
    at = AtSites(
        [f"{prefix}site {k % 5}" for k in range(len(labels))], p, labels, np.arange(len(p))
    )
    stored["sites"] = sites_to_json(
        judge_sites(f"{prefix}site", at, "accuracy", "each was held out")
    )
    if people:
        point = next(one for one in found.operating if isinstance(one, OperatingPoint))
        scores = Scores(p[:, 0], labels == 0)
        told = tuple(
            Rated(f"{prefix}reader {k}", 0.7 + k / 40, 0.95 - k / 30, 70, 200) for k in range(6)
        )
        study = readers.reader_study(told, scores, [str(k) for k in range(len(labels))], point)
        refused = {"refused": True, "sentence": f"{prefix}Too few images for people."}
        stored["readers"] = [{"refused": False, **readers.to_json(study)}, refused]
    return stored


def _curve() -> dict[str, Any]:
    sizes = (25, 37, 55, 82, 122, 181, 269, 400)
    rng = np.random.default_rng(1)
    scores = 0.97 - 1.1 * np.array(sizes, float) ** -0.6 + rng.normal(0, 0.004, (10, 8))
    return curve_json(
        fit_curve(
            sizes, scores, 480, choose_criterion("accuracy", np.array([0, 1] * 9), ["a", "b"]), 0
        )
    )


def depict(folder: Path, classes: list[str], prefix: str = "", points: int = 60) -> Path:
    """Add pictures.json to a run."""
    (folder / "pictures.json").write_text(json.dumps(pictures(classes, prefix, points)))
    return folder


def pictures(classes: list[str], prefix: str = "", points: int = 60) -> dict[str, Any]:
    return {
        "mistakes": [_answer(classes, prefix, k) for k in range(5)],
        "right": [_answer(classes, f"{prefix}right", k) | {"predicted": classes[0]} for k in (7, 8)],
        "heat": {
            "method": "Grad-CAM", "stage": "head", "sanity": 0.1,
            "sentence": f"{prefix}With random weights a tenth of a map is left.",
        },
        "suggestions": [
            {
                "path": f"{prefix}doubt/{k}.jpg", "label": classes[0], "suggested": classes[-1],
                "probability_given": 0.03, "reason": f"{prefix}held-out answer",
                "picture": webp(90 + k, 64, 48), "width": 64, "height": 48,
            }
            for k in range(14)
        ],
        "filters": {
            "first": [png(k) for k in range(12)],
            "first_sentence": f"{prefix}Edges and colours.",
            "stages": [
                {
                    "stage": f"{prefix}b{s}", "sees_px": 20 * s + 11, "sentence": f"{prefix}Parts.",
                    "units": [{"unit": u, "patches": [webp(u * 30 + k, 24, 24) for k in range(4)]}
                              for u in range(3)],
                }
                for s in range(4)
            ],
            "sentence": f"{prefix}What excites single units.",
        },
        "map": _map(classes, prefix, points),
        "seconds": {"map": 1.0},
        "notes": [f"{prefix}no filters of the last stage"],
    }  # fmt: skip


def _answer(classes: list[str], prefix: str, k: int) -> dict[str, Any]:
    size = {"width": 120, "height": 80}
    return {
        "path": f"{prefix}wrong/IMG_{k}.jpg",
        "label": classes[0],
        "predicted": classes[-1],
        "confidence": 0.9 - 0.1 * k,
        "probabilities": [[classes[-1], 0.9 - 0.1 * k], [classes[0], 0.05]],
        "picture": None if k == 4 else webp(40 * k, **size),
        **size,
        "heat_predicted": None if k == 3 else webp(40 * k + 60, **size),
        "heat_label": None if k == 3 else webp(40 * k + 120, **size),
        "stage": "head",
    }


def _map(classes: list[str], prefix: str, points: int) -> dict[str, Any]:
    rng = np.random.default_rng(2)
    places = rng.uniform(-1, 1, (points, 2)).round(4).tolist()
    rows = [
        {
            "x": x, "y": y, "path": f"{prefix}map/{k}.jpg", "label": k % len(classes),
            "predicted": (k + (k % 7 == 3)) % len(classes), "wrong": k % 7 == 3,
            "thumbnail": None if k == 1 else webp(4 * k, 32, 24), "split": f"{prefix}held out",
        }
        for k, (x, y) in enumerate(places)
    ]  # fmt: skip
    facts = {"caption": f"{prefix}Alike lie together.", "n": points, "of": 2 * points}
    return {**facts, "neighbours_kept": 0.61, "classes": classes, "points": rows}


@functools.cache
def webp(shade: int, width: int, height: int) -> str:
    return _encoded("WEBP", shade, width, height)


@functools.cache
def png(shade: int) -> str:
    return _encoded("PNG", 20 * shade, 5, 5)


def _encoded(kind: str, shade: int, width: int, height: int) -> str:
    out = io.BytesIO()
    Image.new("RGB", (width, height), (shade % 256, 130, 255 - shade % 256)).save(out, kind)
    return base64.b64encode(out.getvalue()).decode()


def noise(width: int, height: int) -> str:
    """A picture that nothing makes smaller, of the quality that a report is given."""
    pixels = np.random.default_rng(0).integers(60, 200, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "WEBP", quality=70)
    return base64.b64encode(out.getvalue()).decode()
