"""The mistakes with what they were made by: the picture, the answer, heat maps of both classes.

The maps are of the model that is handed over, and need no torch.

C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.backbone.graph import SPREAD
from headstart.data.images import ImageRefused, decode, fit_pixels, read_bytes
from headstart.explain.cam import Lens, lens, sanity
from headstart.explain.inside import Inside, Seen
from headstart.explain.overlay import lay_over
from headstart.files import strict
from headstart.judge.words import counted
from headstart.parallel import ordered_map
from headstart.run import read_json
from headstart.scene import Scene, encoded
from headstart.ship.predict import wide

RIGHT = 4
"""right answers beside the mistakes: those that were given with the least confidence"""
NAMED = 5
"""classes whose probability is told"""
SANITY_IMAGES = 6
SUSPECT = 0.5
"""from this mean rank correlation on a map is said to show the picture rather than the model"""
PICTURE_PX = 320


@dataclass(frozen=True, slots=True)
class Case:
    """One image with its answer."""

    sample: int
    label: int
    predicted: int
    probabilities: NDArray[np.float64]  # [C]


@dataclass(frozen=True, slots=True)
class Shown:
    """A record of pictures.json, and what the sanity check needs of it."""

    record: dict[str, Any]
    seen: Seen | None = None
    pixels: NDArray[np.uint8] | None = None


def mistakes_with_heat(scene: Scene) -> dict[str, Any]:
    """mistakes, right and heat of pictures.json."""
    wrong, right = _wrong(scene), _right(scene)
    if not wrong and not right:
        return {}
    cases = [*wrong, *right]
    glass = lens(scene.inside)
    shown = list(ordered_map(partial(_shown, scene, glass), cases, scene.workers))
    drawn = [(s, c) for s, c in zip(shown, cases, strict=True) if s.seen is not None]
    checked = [(s.seen, s.pixels, c.predicted) for s, c in drawn[:SANITY_IMAGES]]
    left = sanity(scene.inside, checked) if checked else None  # type: ignore[arg-type]
    lost = len(cases) - len(drawn)
    files = counted(lost, "file has", "files have")
    return {
        "mistakes": [s.record for s in shown[: len(wrong)]],
        "right": [s.record for s in shown[len(wrong) :]],
        "heat": {
            "method": "Grad-CAM",
            "stage": glass.stage,
            "sanity": left,
            "sentence": _heat_words(scene, glass, drawn, left, len(checked)),
        },
        "notes": [f"{files} vanished or changed since it was judged."] if lost else [],
    }


def _wrong(scene: Scene) -> list[Case]:
    """The images of mistakes.json, in its order."""
    place = scene.places(strict)
    rows = read_json(scene.folder / "mistakes.json")["mistakes"]
    at = {int(i): k for k, i in enumerate(scene.answers.who)}
    return [_case(scene, at[place[row["path"]]]) for row in rows]


def _right(scene: Scene) -> list[Case]:
    """Right answers, the least certain first."""
    p = scene.answers.probabilities
    right = np.flatnonzero(p.argmax(1) == scene.labels(scene.answers.who))
    least = right[np.argsort(p[right].max(1), kind="stable")][:RIGHT]
    return [_case(scene, int(k)) for k in least]


def _case(scene: Scene, k: int) -> Case:
    p, i = scene.answers.probabilities[k], int(scene.answers.who[k])
    return Case(i, scene.dataset.samples[i].label, int(p.argmax()), p)


def _shown(scene: Scene, glass: Lens, case: Case) -> Shown:
    dataset = scene.dataset
    sample, classes, p = dataset.samples[case.sample], dataset.classes, case.probabilities
    first = [int(c) for c in np.argsort(-p, kind="stable")[:NAMED]]
    if case.label not in first:
        first[-1] = case.label
    record: dict[str, Any] = {
        "path": sample.path,
        "label": classes[case.label],
        "predicted": classes[case.predicted],
        "confidence": float(p[case.predicted]),
        "probabilities": [[classes[c], float(p[c])] for c in first],
    }
    try:
        whole, pixels = _opened(scene, dataset.locate(sample))
    except ImageRefused:
        return Shown(record)  # it vanished since it was judged; its row is still worth showing
    seen = glass.inside.look(pixels, [glass.stage])
    over = {
        name: lay_over(whole, glass.heat(seen, target).shown, scene.bundle.preprocess)
        for name, target in (("heat_predicted", case.predicted), ("heat_label", case.label))
    }
    record |= {
        "picture": encoded(whole, PICTURE_PX),
        "width": whole.width,
        "height": whole.height,
        **{name: encoded(laid, PICTURE_PX) for name, laid in over.items()},
        "stage": glass.stage,
    }
    return Shown(record, seen, pixels)


def _opened(scene: Scene, path: Path) -> tuple[Image.Image, NDArray[np.uint8]]:
    """The upright picture, small enough to show, and the pixels that the network is fed."""
    data, pre = read_bytes(path), scene.bundle.preprocess
    pixels = fit_pixels(decode(data, min_side_px=pre.decode_px, where=path), wide(pre))
    whole = decode(data, min_side_px=PICTURE_PX, where=path)
    scale = min(1.0, PICTURE_PX / max(whole.size))
    sides = (max(1, round(whole.width * scale)), max(1, round(whole.height * scale)))
    return whole.resize(sides, Image.Resampling.BICUBIC, reducing_gap=2.0), pixels


def _heat_words(
    scene: Scene,
    glass: Lens,
    drawn: Sequence[tuple[Shown, Case]],
    left: float | None,
    checked: int,
) -> str:
    """What the maps show, of which model, and whether they would look the same without learning."""
    said = [
        f"Grad-CAM at stage {glass.stage} of the model that is handed over: warm places are those "
        "whose features speak for the class; each map is drawn relative to its own hottest place."
    ]
    if scene.unseen(np.array([case.sample for _, case in drawn], dtype=np.int64)):
        said.append("The model has not learned from these images.")
    else:
        same = sum(int(s.seen.probabilities.argmax()) == c.label for s, c in drawn if s.seen)
        said.append(
            "The answers are those of models that had not seen the image. The maps are of the model "
            f"that is handed over, which has learned from these images too: it gives {same} of these "
            f"{len(drawn)} the class of their label."
        )
    if hidden := _hidden(scene.inside, glass):
        said.append(f"The head also reads {hidden}, of which the maps show nothing.")
    if left is not None:
        places = glass.heat(drawn[0][0].seen, 0).signed.size  # type: ignore[arg-type]
        chance = math.sqrt(2 / (math.pi * (places - 1)))
        said.append(
            f"Sanity check: with the weights of every layer shuffled, {100 * left:.0f} % of a map's "
            f"order is left (mean size of the rank correlation on {counted(checked, 'image')}; by "
            f"chance about {100 * chance:.0f} %). 100 % would mean that the maps show the pictures "
            "and nothing that was learned."
        )
        if left >= SUSPECT:
            said.append("These maps show the pictures more than the model: do not rely on them.")
    return " ".join(said)


def _hidden(inside: Inside, glass: Lens) -> str:
    """What the head reads beyond the map, in words."""
    rest = [name for name in inside.reads if name not in (*glass.means, *glass.later)]
    earlier = sum(not name.endswith(SPREAD) for name in rest)
    words = [f"the means of {counted(earlier, 'earlier stage')}"] if earlier else []
    words += ["standard deviations"] if any(name.endswith(SPREAD) for name in rest) else []
    return " and ".join(words)
