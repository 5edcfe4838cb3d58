"""Explain a model's answers: heat maps as PNG files, and a page to look at them together.

The model is a bundle; its network is rebuilt in torch, and must answer as the bundle does before
anything is explained with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from headstart.data.images import ImageRefused, decode, fit_pixels, read_bytes
from headstart.errors import ArgumentError, DataError, nearest, require
from headstart.explain.overlay import lay_over, ramp_picture, seen_part
from headstart.explain.page import inline, render_page
from headstart.files import atomic_write, write_json
from headstart.parallel import progress
from headstart.ship.predict import Model, expand, load, wide

if TYPE_CHECKING:
    from headstart.explain.rebuild import Rebuilt

Method = Literal["gradcam", "saliency"]

SANITY_IMAGES = 6
"""pictures whose maps are drawn again with random weights"""
PAGE_IMAGES = 120
"""pictures on the page; all of them are files"""
PAGE_PX = 320
SUSPECT = 0.5
"""from this mean rank correlation on a map is said to show the picture rather than the model"""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One picture's heat map, or why there is none."""

    path: str
    file: str | None
    """name of the PNG file in the output folder"""
    predicted: str | None
    confidence: float | None
    explained: str | None
    explained_probability: float | None
    seen_share: float | None
    """share of the picture's area that the network saw"""
    empty: bool
    """nothing in the picture speaks for the class: the map is blank"""
    error: str | None


@dataclass(frozen=True, slots=True)
class Explained:
    """What `explain` has written."""

    folder: Path
    method: Method
    stage: str | None
    sanity: float
    """mean size of the rank correlation with maps of random weights: by chance `chance`, 1 fails"""
    chance: float
    """what two maps that have nothing to do with each other would have"""
    agreement: float
    """largest difference in probability between torch and the bundle's network"""
    explanations: tuple[Explanation, ...]


def explain(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    out: str | Path,
    *,
    stage: str | None = None,
    target: str | None = None,
    method: str = "gradcam",
) -> Explained:
    """Show which part of each picture speaks for a class; writes PNG files, a page and JSON.

    Args:
        model: run folder or model folder. images: files and folders. out: folder to write to.
        stage: where Grad-CAM reads; default: the last stage with positions.
        target: the class to explain; default: the model's own answer for each picture.

    Raises:
        ArgumentError: unknown class, stage or method; a path that does not exist. BundleError: not
            a model, or one that cannot be rebuilt exactly. DataError: no picture could be read.
        ExtraMissingError: captum is not installed.
    """
    require("captum", "explain", "Explaining an answer")
    from headstart.explain.gradcam import METHODS, default_stage, sanity
    from headstart.explain.rebuild import rebuild

    if method not in METHODS:
        raise ArgumentError("No such method", received=method, do=f"Use {', '.join(METHODS)}.")
    kind: Method = "saliency" if method == "saliency" else "gradcam"
    loaded = load(model)
    bundle = loaded.bundle
    wanted = None if target is None else _class_index(loaded, target)
    files = expand([images] if isinstance(images, str | Path) else images)
    network = rebuild(bundle.folder, bundle.description, bundle.preprocess)
    if kind == "gradcam":
        stage = stage or default_stage(network)
    drawer = _Drawer(loaded, network, kind, stage, wanted)
    drawn: list[_Drawn] = []
    seen: list[tuple[NDArray[np.uint8], int]] = []
    for i, path in enumerate(progress(iter(files), len(files), "explaining")):
        one = drawer.draw(path, f"{i + 1:04}", keep=i < PAGE_IMAGES)
        if one.png is not None and one.pixels is not None:
            atomic_write(Path(out) / str(one.explanation.file), one.png)
            if len(seen) < SANITY_IMAGES:
                seen.append((one.pixels, one.target))
        drawn.append(replace(one, png=None, pixels=None))
    if not seen:
        raise DataError(
            "No picture could be explained", where=drawn[0].explanation.path,
            received=drawn[0].explanation.error, do="Give pictures that open in a viewer.",
        )  # fmt: skip
    found = Explained(
        Path(out),
        kind,
        stage,
        sanity(network, seen, kind, stage),
        chance(max(d.places for d in drawn)),
        max(d.agreement for d in drawn),
        tuple(d.explanation for d in drawn),
    )
    facts = {name: value for name, value in asdict(found).items() if name != "folder"}
    write_json(found.folder / "explanations.json", facts)
    atomic_write(found.folder / "index.html", _page(loaded, found, drawn, wanted))
    return found


@dataclass(frozen=True, slots=True)
class _Drawn:
    """An explanation with what the page, the sanity check and the folder want of it."""

    explanation: Explanation
    png: bytes | None = None
    shown: tuple[str, str] | None = None
    """picture and overlay as data addresses"""
    pixels: NDArray[np.uint8] | None = None
    target: int = 0
    agreement: float = 0.0
    places: int = 0
    """of the map"""


@dataclass(frozen=True, slots=True)
class _Drawer:
    """One model, one method, one stage."""

    loaded: Model
    network: Rebuilt
    method: Method
    stage: str | None
    wanted: int | None

    def draw(self, path: Path, number: str, keep: bool) -> _Drawn:
        """One picture; one that cannot be read yields its error."""
        from headstart.explain.gradcam import heat_map
        from headstart.explain.rebuild import check_agreement

        bundle, pre = self.loaded.bundle, self.loaded.bundle.preprocess
        try:
            data = read_bytes(path)
            # As `predict` decodes it, so that the answer is the one that it gives.
            small = decode(data, min_side_px=pre.decode_px, where=path)
            picture = decode(data, min_side_px=None, where=path)
        except ImageRefused as refused:
            why = f"{refused.reason}: {refused.detail}"
            return _Drawn(Explanation(str(path), None, None, None, None, None, None, False, why))
        answer = self.loaded.probabilities(fit_pixels(small, wide(pre))[None])
        pixels = fit_pixels(small, pre)
        agreement = check_agreement(self.network, pixels[None], answer, bundle.temperature)
        best = int(answer[0].argmax())
        target = best if self.wanted is None else self.wanted
        found = heat_map(self.network, pixels, target, self.method, self.stage)
        heat = found.shown
        overlay = lay_over(picture, heat, pre)
        out = BytesIO()
        overlay.save(out, "PNG")
        x0, y0, x1, y1 = seen_part(*picture.size, pre).picture
        name = f"{number}-{_safe(path.stem)}-{_safe(self.loaded.classes[target])}-{self.method}.png"
        explanation = Explanation(
            str(path),
            name,
            self.loaded.classes[best],
            float(answer[0, best]),
            self.loaded.classes[target],
            float(answer[0, target]),
            (x1 - x0) * (y1 - y0) / (picture.width * picture.height),
            not heat.any(),
            None,
        )
        shown = (inline(picture, PAGE_PX), inline(overlay, PAGE_PX)) if keep else None
        places = found.signed.size
        return _Drawn(explanation, out.getvalue(), shown, pixels, target, agreement, places)


def chance(places: int) -> float:
    """Mean size of the rank correlation of two maps of so many places that chance has drawn.

    The correlation is about normal with variance 1 / (places - 1); where neighbours lean on each
    other, as pixels do, chance leaves more.

    >>> round(chance(49), 3)
    0.115
    """
    return math.sqrt(2 / (math.pi * max(1, places - 1)))


def sanity_words(found: Explained) -> str:
    """What the sanity check says, in a few words.

    >>> sanity_words(Explained(Path(), "gradcam", "head", 0.18, 0.115, 0.0, ()))
    'maps depend on what was learned: random weights leave 18 % of them (12 % by chance)'
    """
    left = f"random weights leave {100 * found.sanity:.0f} % of them"
    said = f"{left} ({100 * found.chance:.0f} % by chance)"
    if found.sanity >= SUSPECT:
        return f"maps show the pictures rather than the model: {said}"
    return f"maps depend on what was learned: {said}"


def _class_index(model: Model, name: str) -> int:
    if name not in model.classes:
        some = ", ".join(model.classes[:12])
        raise ArgumentError(
            "The model knows no class of this name",
            received=name,
            do=nearest(name, model.classes) or f"Its classes: {some}.",
        )
    return model.classes.index(name)


def _safe(text: str) -> str:
    """A part of a file name that every system takes."""
    return re.sub(r"[^A-Za-z0-9-]+", "_", text)[:40].strip("_-") or "x"


def _page(loaded: Model, found: Explained, drawn: list[_Drawn], wanted: int | None) -> str:
    what = "the model's answer" if wanted is None else f"class {loaded.classes[wanted]}"
    two = len(loaded.classes) == 2
    if found.method == "gradcam":
        how = f"Grad-CAM at stage {found.stage}: warm places are those whose features speak for {what}."
    else:
        how = (
            "Saliency: warm places are those whose pixels, changed a little, would change the score "
            f"of {what} most, up or down"
            + (": with two classes the map is the same for both." if two else ".")
        )
    left = found.sanity
    opening = [
        how,
        "Every map is drawn relative to its own hottest place, so two maps cannot be compared in "
        "brightness. Dark grey was not looked at: the network sees the middle square only."
        if loaded.bundle.preprocess.fit == "crop"
        else "Every map is drawn relative to its own hottest place, so two maps cannot be compared "
        "in brightness.",
        f"Sanity check: with random weights in place of the learned ones {100 * left:.0f} % of a "
        "map's order is left (mean size of the rank correlation; by chance about "
        f"{100 * found.chance:.0f} %). 100 % would mean that the maps show the pictures and nothing "
        "that was learned.",
    ]
    warning = None
    if left >= SUSPECT:
        warning = (
            "These maps hardly change when the weights are random: they show the pictures rather "
            "than the model. Try another stage, or the other method."
        )
    return render_page(
        "answers.html",
        {
            "name": loaded.bundle.folder.resolve().parent.name
            if loaded.bundle.folder.name == "model"
            else loaded.bundle.folder.resolve().name,
            "opening": opening,
            "warning": warning,
            "ramp": inline(ramp_picture()),
            "answers": [_answer(d) for d in drawn[:PAGE_IMAGES]],
            "more": max(0, len(drawn) - PAGE_IMAGES),
        },
    )


def _answer(drawn: _Drawn) -> dict[str, Any]:
    e = drawn.explanation
    facts: dict[str, Any] = asdict(e) | {"short": "/".join(Path(e.path).parts[-2:])}
    if drawn.shown is not None and e.confidence is not None:
        facts["picture"], facts["overlay"] = drawn.shown
        facts["confidence_words"] = f"{100 * e.confidence:.1f} %"
        facts["explained_words"] = f"{100 * (e.explained_probability or 0):.1f} %"
    return facts
