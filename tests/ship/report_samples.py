"""A plausible finished run, as the steps before the report store it; every name can be replaced."""

from __future__ import annotations

import base64
import io
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image

STAGES = ["stem", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "head"]


def write_run(
    folder: Path, classes: list[str], *, root: str = "my_photos", prefix: str = ""
) -> Path:
    """A run folder with every JSON file; `prefix` is put before every file name."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "run.json": run(root),
        "data.json": data(classes, root, prefix),
        "plan.json": plan(classes, prefix),
        "evaluation.json": evaluation(classes),
        "mistakes.json": mistakes(classes, prefix),
        "findings.json": findings(classes, prefix),
        "nested.json": nested(prefix),
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")
    (folder / "model").mkdir(exist_ok=True)
    return folder


def run(root: str) -> dict[str, Any]:
    return {
        "status": "done",
        "headstart": "0.1.0",
        "command": "fit",
        "settings": {"data": root, "case": None, "small_below": 1000, "seed": 0, "report": True},
        "versions": {"python": "3.13.1", "onnxruntime": "1.32.0"},
        "seed": 0,
        "threads": 2,
        "steps": [{"name": "check", "seconds": 1.2}, {"name": "features", "seconds": 6.4}],
        "peak_rss_mb": 812.0,
        "test_set_scored": 1,
        "started": "2026-11-22T15:00:00Z",
        "name": root,
    }


def data(classes: list[str], root: str, prefix: str) -> dict[str, Any]:
    draw = random.Random(0)
    totals = [draw.randint(60, 320) for _ in classes]
    return {
        "root": root,
        "n": sum(totals),
        "classes": classes,
        "counts": [
            {"class": name, "total": n, "train": n - n // 5, "test": n // 5}
            for name, n in zip(classes, totals, strict=True)
        ],
        "unreadable": [
            {"path": f"{prefix}cats/x.jpg", "reason": "truncated", "detail": "ends after 312 bytes"}
        ],
        "ignored": [{"path": f"{prefix}.DS_Store", "reason": "operating-system litter"}],
        "duplicates": [[f"{prefix}a.jpg", "b.jpg"], ["c.jpg", "d.jpg", "e.jpg"]],
        "label_conflicts": [[f"{prefix}a/1.jpg", "b/1.jpg"]],
        "leaks": [[f"{prefix}train/a.jpg", "test/a.jpg"]],
        "near_duplicates": [
            _near([f"{prefix}near/{k}.jpg", f"{k}.png"], conflict=k == 0, leak=k == 1)
            for k in range(4)
        ],
        "shortcuts": [
            {"property": "image size", "score": 0.71, "guessing": 0.5, "sentence": "It tells."}
        ],
        "source_overlap": [{"class": classes[0], "source": f"{prefix}tabby", "share": 0.83}],
        "formats": {"JPEG": 590, "PNG": 10},
        "width_px": {"min": 120, "median": 480, "max": 4000},
        "height_px": {"min": 96, "median": 360, "max": 3000},
        "protocol": "hold-out 20 %",
        "notes": ["The background alone tells two of the classes apart."],
    }


def _near(paths: list[str], *, conflict: bool, leak: bool) -> dict[str, Any]:
    return {"paths": paths, "kind": "turned", "score": 0.98, "conflict": conflict, "leak": leak}


def findings(classes: list[str], prefix: str) -> dict[str, Any]:
    """Eight conflicts, so that not all are shown at once, and one pair of each other kind."""
    kinds = ["conflict"] * 8 + ["leak", "near", "copy"]
    return {"pairs": [_pair(classes, prefix, name, k) for k, name in enumerate(kinds)]}


def _pair(classes: list[str], prefix: str, finding: str, k: int) -> dict[str, Any]:
    images = [
        {
            "path": f"{prefix}pair/{k}{side}.jpg",
            "class": classes[-1 if side == "b" else 0],
            "split": "train" if side == "a" else None,
            "thumbnail": thumbnail((20 * k, 90, 160)) if side == "a" else None,
        }
        for side in "ab"
    ]
    return {
        "finding": finding,
        "kind": "turned" if k else f"{prefix}kind",
        "score": 0.987 if k else None,
        "conflict": finding == "conflict",
        "leak": k < 2,
        "images": images,
        "others": [f"{prefix}other.jpg"],
        "more": 3,
    }


def nested(prefix: str) -> dict[str, Any]:
    return {
        "folds": 5,
        "repeats": 2,
        "chosen": [{"name": f"{prefix}all_stages", "times": 7}, {"name": "head_top", "times": 3}],
        "naive": {"score": 0.986, "se": 0.006, "sentence": "Too good."},
    }


def plan(classes: list[str], prefix: str) -> dict[str, Any]:
    scores = [0.659, 0.74, 0.836, 0.86, 0.891, 0.916, 0.976, 0.981, 0.979]
    return {
        "case_prior": [1, 2],
        "case": 1,
        "strategy": "head_top",
        "cut": None,
        "chosen": "head_top",
        "metric": "accuracy",
        "chance": 0.52,
        "learnable": True,
        "size": {
            "n": 480,
            "per_class": dict.fromkeys(classes, 100),
            "verdict": "small",
            "small_below": 1000,
            "large_above": 10000,
            "sentence": "480 training images are fewer than 1,000: small.",
        },
        "similarity": {
            "verdict": "unclear",
            "bn_shift": 0.51,
            "low": 0.46,
            "high": 0.57,
            "n": 160,
            "thresholds": {"similar_below": 0.5, "different_from": 0.55},
            "sentence": "The interval of the shift crosses both thresholds: unclear.",
        },
        "reasons": [f"The last stage of {prefix or 'the network'} carries the classes best."],
        "flips_if": ["With more than 1,000 training images, fine-tuning would be tried too."],
        "switch": ["The early cut at b3 loses 9 points, more than its standard error."],
        "notes": [],
        "depth_curve": [
            {
                "stage": s,
                "width": 32 * i + 32,
                "score": v,
                "se": 0.012,
                "train_score": min(1, v + 0.05),
            }
            for i, (s, v) in enumerate(zip(STAGES, scores, strict=True))
        ],
        "all_stages": {"score": 0.986, "se": 0.006},
        "depth_control": [
            {"stage": s, "width": 32, "score": 0.6 - 0.01 * i, "se": 0.02, "train_score": 0.7}
            for i, s in enumerate(STAGES)
        ],
        "depth_control_sentence": f"Random weights reach 60 % {prefix}.",
        "baselines": [
            {"name": "raw pixels", "score": 0.61, "se": 0.02, "seconds": 0.3},
            {"name": f"{prefix}colour and texture", "score": 0.7, "se": 0.02, "seconds": 0.2},
        ],
        "resolution": {"effective_px": 78.2, "low": 62.0, "high": 90.6, "network_px": 224},
        "source_evidence": {"explained": 0.394, "se": 0.012, "top_source": [[281, 0.2]]},
        "candidates": [
            _candidate("head_top", "head_top", None, 1, 0.979, 0.008),
            _candidate("all_stages", "all_stages", None, None, 0.986, 0.006),
            _candidate(f"{prefix}all stages, 288 px, squash", "all_stages", None, None, 0.98, 0.01),
            _candidate("head_cut@b3", "head_cut", "b3", 2, 0.891, 0.012)
            | {"method": "ridge, leave-one-out"},
        ],
        "backbone": {
            "name": "tf_efficientnet_lite0",
            "stages": STAGES,
            "weights_sha256": "ab" * 32,
            "size_px": 224,
        },
    }


def retrain(folder: Path, prefix: str = "") -> Path:
    """Turn a run of `write_run` into one whose network was re-trained; every text can be replaced."""
    plan = json.loads((folder / "plan.json").read_text())
    row = _candidate("finetune", "finetune", None, 3, 0.985, 0.009)
    row |= {"method": f"{prefix}trained once, one fold of 96 held out"}
    plan |= {"strategy": "finetune", "case": 3, "chosen": "finetune"}
    plan |= {"forced": f"{prefix}--case 3", "candidates": [*plan["candidates"], row]}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "nested.json").unlink(missing_ok=True)
    (folder / "training.json").write_text(json.dumps(training(prefix)))
    surgery = {
        "title": f"{prefix}Every stage learns",
        "input_px": 160,
        "blocks": [_block(f"{prefix}stem", 80, 32), _block(f"{prefix}head", 1, 1280)],
        "head": _block(f"{prefix}new head", 1, 2) | {"state": "new"},
        "head_widths": [1280, 2],
        "spread": False,
    }
    (folder / "surgery.json").write_text(json.dumps(surgery))
    return folder


def _block(name: str, side_px: int, width: int) -> dict[str, Any]:
    rest = {"parameters": 900, "state": "trained", "tapped": width == 1280, "group": ""}
    return {"name": name, "side_px": side_px, "width": width, **rest}


def training(prefix: str = "") -> dict[str, Any]:
    def epochs(n: int, scores: bool) -> list[dict[str, Any]]:
        return [
            {
                "epoch": k + 1,
                "loss": 0.9 / (k + 1),
                "rate": 1e-4 * (n - 1 - k),
                "score": 0.9 + 0.02 * k if scores else None,
                "img_s": 14.0,
                "seconds": 40.0,
            }
            for k in range(n)
        ]

    tested = {f"{prefix}swirl": (0.01, False), "flip": (0.012, True), "rotate": (-0.031, False)}
    verified = {"average": "last", "alpha": 0.5, "start_score": 0.89, "epochs": epochs(4, True)}
    return {
        "size_px": 160,
        "augmentations": [
            {"operation": "crop", "gain": 0.0, "se": 0.0, "used": True},
            *(
                {"operation": name, "gain": gain, "se": 0.011, "used": used}
                for name, (gain, used) in tested.items()
            ),
        ],
        "verified": [
            {"strategy": "finetune", **verified},
            {"strategy": f"{prefix}scratch", **verified, "average": "average", "alpha": 1.0},
        ],
        "images": 480,
        "epochs": epochs(4, False),
        "images_seen": 1920,
        "seconds": 137.2,
        "notes": [f"{prefix}out of memory: going on with 4 images at once"],
    }


def _candidate(
    name: str, strategy: str, cut: str | None, case: int | None, score: float, se: float
) -> dict[str, Any]:
    names = {"name": name, "strategy": strategy, "cut": cut, "case": case}
    rest = {"train_score": 0.995, "seconds": 0.84, "method": "head, cross-validated"}
    return {**names, "score": score, "se": se, **rest}


def evaluation(classes: list[str]) -> dict[str, Any]:
    draw = random.Random(1)
    size = len(classes)
    confusion = [[40 if i == j else 0 for j in range(size)] for i in range(size)]
    for i in range(size):
        for _ in range(4):
            confusion[i][draw.randrange(size)] += 1
    return {
        "n": 44 * size,
        "protocol": "hold-out 20 %",
        "protocols": [
            {"figures": ["metrics", "per_class"], "protocol": "hold-out 20 %"},
            {"figures": ["calibration.temperature"], "protocol": "cross-fitted on what it learned"},
        ],
        "resolvable": {
            "points": 8.1,
            "unpaired_points": 14.2,
            "discordance": 0.09,
            "sentence": "On 120 images, less than 8.1 points is unseen.",
        },
        "metrics": [
            _metric("accuracy", 0.942, 0.895, 0.977),
            _metric("balanced_accuracy", 0.938, 0.89, 0.97),
            _metric("macro_f1", 0.94, 0.893, 0.975),
            _metric("log_loss", 0.187, 0.11, 0.29),
            _metric("auc", None, None, None),
        ],
        "per_class": [
            {
                "name": name,
                "support": 44,
                "precision": _metric("precision", draw.uniform(0.8, 1), 0.8, 1.0),
                "recall": _metric("recall", draw.uniform(0.8, 1), 0.8, 1.0),
                "f1": _metric("f1", draw.uniform(0.8, 1), 0.8, 1.0),
                "auc": None,
            }
            for name in classes
        ],
        "confusion": confusion,
        "classes": classes,
        "calibration": {
            "ece": 0.031,
            "brier": 0.09,
            "temperature": 1.12,
            "sentence": "A confidence of 90 % was right 88 % of the time.",
            "reliability": [
                {"low": k / 10, "high": (k + 1) / 10, "n": n, "confidence": c, "accuracy": a}
                for k, n, c, a in [
                    (4, 0, None, None),
                    (5, 6, 0.55, 0.5),
                    (7, 15, 0.76, 0.8),
                    (9, 99, 0.97, 0.95),
                ]
            ],
        },
    }


def _metric(
    name: str, value: float | None, low: float | None, high: float | None
) -> dict[str, Any]:
    return {"name": name, "value": value, "low": low, "high": high, "n": 120, "method": "bootstrap"}


def mistakes(classes: list[str], prefix: str) -> list[dict[str, Any]]:
    return [
        {
            "path": f"{prefix}{classes[0]}/IMG_{2000 + k}.jpg",
            "label": classes[0],
            "predicted": classes[-1],
            "confidence": 0.99 - 0.03 * k,
            "thumbnail": None if k == 5 else thumbnail((40 * k % 255, 120, 200 - 20 * k)),
        }
        for k in range(6)
    ]


def thumbnail(colour: tuple[int, int, int]) -> str:
    """A small WebP picture of one colour, as base64."""
    buffer = io.BytesIO()
    Image.new("RGB", (96, 72), colour).save(buffer, "WEBP")
    return base64.b64encode(buffer.getvalue()).decode()
