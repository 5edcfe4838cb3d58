"""README.md of a model: what it is, how it was made, how good it is, how to use it."""

from __future__ import annotations

import re
from typing import Any

from headstart.errors import show
from headstart.judge.evaluate import Evaluation, resolvable
from headstart.judge.words import counted
from headstart.plan.measure import Measurement
from headstart.ship.report_names import SHORT

WITHOUT_HEADSTART = (
    "Without headstart, with onnxruntime and Pillow alone:",
    "",
    "    import json, numpy, onnxruntime",
    "    from PIL import Image, ImageOps",
    '    photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
    '    session = onnxruntime.InferenceSession("model.onnx")',
    '    p = session.run(["probabilities"], {"image": numpy.asarray(photo)[None]})[0][0]',
    '    print(dict(zip(json.load(open("headstart.json"))["classes"], p.tolist())))',
)
FROZEN = "frozen, weights from {}"
WEIGHTS = {
    "partial": "its later stages re-trained, the others frozen: {}",
    "finetune": "every layer re-trained: {}",
    "scratch": "every layer trained: {}",
}
"""what happened to the backbone, around the source of its weights; all others leave it frozen"""
FITS = {
    "crop": "the shorter side becomes {resize_px} px and the centre is cut out: the rim is not seen",
    "pad": "the whole image is seen, with a border in the mean colour around it",
    "squash": "the whole image is seen, squeezed to a square",
}


def model_card(
    description: dict[str, Any], evaluation: Evaluation, measurement: Measurement
) -> str:
    """README.md of the bundle."""
    backbone, pre = description["backbone"], description["preprocess"]
    kept, removed = description["stages"]["kept"], description["stages"]["removed"]
    lines = [
        "# Image classifier made by headstart",
        "",
        f"Tells apart {len(description['classes'])} classes: "
        + ", ".join(_escape(name) for name in description["classes"][:30])
        + (", ..." if len(description["classes"]) > 30 else "")
        + ".",
        "",
        "## How it was made",
        "",
        f"- Backbone: {_escape(backbone['name'])}, "
        + WEIGHTS.get(description["strategy"], FROZEN).format(_escape(backbone["source"]))
        + f"; licence of the weights: {_escape(backbone['licence'])}.",
        f"- Strategy: {SHORT[description['strategy']]}"
        + (f", up to stage {description['cut']}" if description["cut"] else "")
        + (f" (case {description['case']})" if description["case"] else "")
        + f"; stages kept: {', '.join(kept)}; removed: {', '.join(removed) or 'none'}.",
        f"- Input: {pre['size_px']} x {pre['size_px']} px; {FITS[pre['fit']].format(**pre)}.",
        f"- Learned from {counted(measurement.n, 'image')}. {_escape(measurement.similarity.sentence)}",
        "",
        "## How good it is",
        "",
        f"Protocol: {_escape(evaluation.protocol)}; {counted(evaluation.n, 'image')}.",
        "",
        "| score | value | 95 % interval | n | method |",
        "|---|---|---|---|---|",
    ]
    unseen: list[str] = []
    for metric in evaluation.metrics:
        value, low, high = (
            "–" if v is None else f"{v:.3f}" for v in (metric.value, metric.low, metric.high)
        )
        lines.append(
            f"| {_escape(metric.name)} | {value} | {low} to {high} | {metric.n} "
            f"| {_escape(metric.method)} |"
        )
        if metric.name == "accuracy" and metric.value is not None:
            unseen = ["", resolvable(evaluation.n, metric.value).sentence]
    lines += [
        *unseen,
        "",
        "## How to use it",
        "",
        "    headstart predict MODEL photo.jpg folder_of_photos/ --out predictions.csv",
        "",
        "`model.onnx` runs anywhere ONNX does: input `image`, uint8 [N, H, W, 3], RGB, upright; "
        "output `probabilities`, float32 [N, C], in the order of `classes` in headstart.json. "
        f"Resizing, cropping and normalisation are inside.{_confidence(evaluation)}",
        "",
        *WITHOUT_HEADSTART,
        "",
        "It answers with one of its classes for any picture, also for one that shows none of them. As far"
        " as it can tell, `headstart predict` marks such pictures (`unlike`, `set`).",
        "",
    ]
    return "\n".join(lines)


def _confidence(evaluation: Evaluation) -> str:
    """Whether a temperature corrects the confidence, as the evaluation says it."""
    found = evaluation.calibration.temperature
    return "" if found is None else f" {_escape(found.reason)}"


def _escape(text: str) -> str:
    """Text that no Markdown renderer takes for markup, a link or a mention."""
    escaped = show(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_{}[]()#!|~:@":
        escaped = escaped.replace(character, f"\\{character}")
    return re.sub(r"(?i)\b(www)\.", r"\1\.", escaped)
