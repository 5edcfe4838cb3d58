"""The pictures of the report: made last, of the model that is handed over and of the user's images.

None of it changes a result or ends the job: what cannot be drawn is left out, and said. All of it
is decided by counts and seeds, never by a clock, and nothing here needs torch.

N images, C classes, D feature width.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data.images import (
    ImageRefused,
    Preprocess,
    decode,
    load_pixels,
    read_bytes,
    thumbnail,
)
from headstart.errors import DataError, HeadstartError, show
from headstart.explain.cam import columns_of
from headstart.explain.excite import Excited, Peaks, Unit, cut_patch, peak, units
from headstart.explain.field import Field, field_words
from headstart.explain.inside import first_weights
from headstart.explain.kernels import kernel_words, kernels_of
from headstart.explain.map import LEAST, feature_map, map_json
from headstart.explain.reach import fields_of
from headstart.files import csv_cell
from headstart.heating import mistakes_with_heat
from headstart.judge.words import counted
from headstart.learning import Learned, Prepared, out_of_fold, read
from headstart.opening import say
from headstart.parallel import ordered_map
from headstart.plan.measure import stratified
from headstart.run import Run
from headstart.scene import Scene, encoded, table
from headstart.settings import FitSettings
from headstart.ship.predict import wide

POINTS = 1_000
"""images on the map: enough to see groups, and what their layout costs grows with them"""
SUGGESTIONS = 24
SUGGESTION_PX, PATCH_PX = 160, 72
UNITS, PATCHES = 4, 4
STAGES = 12
KERNELS = 96
FEWEST, MOST = 48, 160
"""images that are searched for patches; a twelfth of those to learn from between the two"""


def picture(prepared: Prepared, learned: Learned, settings: FitSettings, run: Run) -> None:
    """Write pictures.json: map, mistakes with heat maps, suggestions, filters.

    What fails is left out and said; Ctrl-C leaves all of it out. The run is as finished as before.
    """
    try:
        with run.step("picture"):
            run.write_json("pictures.json", pictures(prepared, learned, settings, run.folder))
    except (KeyboardInterrupt, SystemExit):
        say("stopped: the model is ready; the report comes without its pictures")
    except HeadstartError as error:  # a full disk must not take the model that is ready
        say(f"the report comes without its pictures: {error}")


def pictures(
    prepared: Prepared, learned: Learned, settings: FitSettings, folder: Path
) -> dict[str, Any]:
    """pictures.json: mistakes, right, heat, suggestions, filters, map, seconds, notes.

    Every picture is WebP in Base64. `seconds` and `notes` tell what each part took and why one is
    absent.
    """
    scene = Scene(prepared, learned, settings, folder)
    parts: dict[str, Callable[[Scene], dict[str, Any]]] = {
        "map": _map,
        "heat": mistakes_with_heat,
        "suggestions": _suggestions,
        "filters": _filters,
    }
    found: dict[str, Any] = {}
    seconds, notes = {}, list[str]()
    for name, draw in parts.items():
        began = time.perf_counter()
        try:
            drawn = draw(scene)
            notes += drawn.pop("notes", [])
            found |= drawn
        except Exception as error:  # any: no picture is worth the job
            kind = "" if isinstance(error, HeadstartError) else f"{type(error).__name__}: "
            notes.append(f"{WHAT[name]} could not be drawn: {kind}{show(error)}")
            say(notes[-1])
        seconds[name] = round(time.perf_counter() - began, 3)
    return {**found, "seconds": seconds, "notes": notes}


WHAT = {
    "map": "The map of the images",
    "heat": "What the mistakes were made by",
    "suggestions": "The doubtful images",
    "filters": "What the stages look for",
}


# -- the map --------------------------------------------------------------------------------------


def _map(scene: Scene) -> dict[str, Any]:
    """Judged images and images to learn from alike, all with answers of a model that had not seen
    them."""
    prepared, dataset, answers = scene.prepared, scene.dataset, scene.answers
    held = out_of_fold(prepared, scene.learned)
    said = dict(
        zip(prepared.split.train[held.positions], held.probabilities.argmax(1), strict=True)
    )
    said |= dict(zip(answers.who, answers.probabilities.argmax(1), strict=True))
    everyone = np.array(sorted(said), dtype=np.int64)
    if len(everyone) < LEAST:
        return {"notes": [f"No map of the images: there are fewer than {LEAST} of them."]}
    some = stratified(scene.labels(everyone), POINTS, scene.seed)[:POINTS]
    who = everyone[some]
    row = dict(zip(prepared.split.train, prepared.development.rows, strict=True))
    row |= dict(zip(prepared.split.test, prepared.test_rows, strict=True))
    rows = np.array([row[i] for i in who])
    found = feature_map(
        np.asarray(read(prepared, scene.learned.verified.chosen, rows)),
        scene.labels(who),
        np.array([said[i] for i in who]),
        [dataset.locate(dataset.samples[i]) for i in who],
        [dataset.samples[i].path for i in who],
        dataset.classes,
        scene.seed,
        scene.workers,
    )
    stored = map_json(replace(found, of=len(everyone)))
    tested = set(prepared.split.test.tolist())
    for point, i in zip(stored["points"], who.tolist(), strict=True):
        point["split"] = "test" if i in tested else "train"
    return {"map": stored}


# -- suggestions ----------------------------------------------------------------------------------


def _suggestions(scene: Scene) -> dict[str, Any]:
    """The first rows of suggestions.csv with their pictures."""
    rows = table(scene.folder / "suggestions.csv")[:SUGGESTIONS]
    place = scene.places(csv_cell)
    names = {csv_cell(name): name for name in scene.dataset.classes}
    samples = [scene.dataset.samples[place[row["path"]]] for row in rows]
    files = [scene.dataset.locate(sample) for sample in samples]
    small = ordered_map(partial(_small, most_px=SUGGESTION_PX), files, scene.workers)
    return {
        "suggestions": [
            {
                "path": sample.path,
                "label": names[row["label"]],
                "suggested": names[row["suggested"]] if row["suggested"] != row["label"] else None,
                "probability_given": round(1 - float(row["score"]), 4),
                "reason": row["reason"],
                **facts,
            }
            for row, sample, facts in zip(rows, samples, small, strict=True)
        ]
    }


def _small(path: Path, most_px: int) -> dict[str, Any]:
    """One picture, at most `most_px`; nothing when the file has vanished."""
    try:
        whole = decode(read_bytes(path), min_side_px=most_px, where=path)
    except ImageRefused:
        return {}
    content = thumbnail(whole, most_px)
    width, height = Image.open(BytesIO(content)).size
    return {"picture": base64.b64encode(content).decode(), "width": width, "height": height}


# -- filters --------------------------------------------------------------------------------------


def _filters(scene: Scene) -> dict[str, Any]:
    """The first layer's filters, and patches of the user's images that excite units of every stage."""
    inside, pre = scene.inside, scene.bundle.preprocess
    kernels = kernels_of(first_weights(inside))
    stages = [s for s in inside.stages if s.name in inside.maps or s.name in inside.reads]
    some = _some(len(stages), STAGES)
    fields = fields_of(inside.backbone, inside.maps, [stages[i] for i in some], pre.size_px)
    excited, names = _excited(scene, fields)
    drawn = {stage: units(excited, field, UNITS, PATCHES, names) for stage, field in fields.items()}
    shown = sorted({p.path for found in drawn.values() for unit in found for p in unit.patches})
    cut = ordered_map(partial(_square, pre), shown, scene.workers)
    squares = dict(zip(shown, cut, strict=True))
    width = {stage.name: stage.width for stage in stages}
    rows = [
        {
            "stage": stage,
            "sees_px": fields[stage].whole_px,
            "sentence": field_words(fields[stage], width[stage], True),
            "units": [_unit(unit, squares) for unit in found],
        }
        for stage, found in drawn.items()
    ]
    return {
        "filters": {
            "first": [_lossless(k.pixels) for k in kernels[:KERNELS]],
            "first_sentence": kernel_words(kernels),
            "stages": rows,
            "sentence": _filter_words(scene, len(excited.paths), len(stages), len(rows)),
        }
    }


def _excited(scene: Scene, fields: Mapping[str, Field]) -> tuple[Excited, dict[Path, str]]:
    """Where units are excited most in some of the images to learn from, and the classes of those."""
    dev, train, dataset = scene.prepared.development, scene.prepared.split.train, scene.dataset
    _, first = np.unique(np.array(dev.hashes), return_index=True)  # each content once
    first = np.sort(first)
    most = min(MOST, FEWEST + len(first) // 12)
    chosen = first[stratified(dev.labels[first], most, scene.seed)]
    paths = [dataset.locate(dataset.samples[i]) for i in train[chosen]]
    names = {path: dataset.classes[dev.labels[k]] for path, k in zip(paths, chosen, strict=True)}
    looked = ordered_map(partial(_peaks, scene, fields), paths, scene.workers)
    found = [(path, peaks) for path, peaks in zip(paths, looked, strict=True) if peaks is not None]
    if not found:
        raise DataError("None of the images can be read any more", where=paths[0])
    rows = {stage: [p[stage] for _, p in found] for stage in fields}
    peaks = {
        stage: Peaks(*(np.concatenate(part) for part in zip(*some, strict=True)))
        for stage, some in rows.items()
    }
    return Excited(tuple(path for path, _ in found), len(paths) - len(found), peaks), names


def _peaks(
    scene: Scene, fields: Mapping[str, Field], path: Path
) -> dict[str, tuple[Any, Any, Any]] | None:
    """Where one image excites every unit most; None when its file has vanished."""
    try:
        pixels, _ = load_pixels(path, wide(scene.bundle.preprocess))
    except ImageRefused:
        return None
    inside = scene.inside
    seen = inside.look(pixels, [stage for stage in fields if stage in inside.maps])
    return {
        stage: peak(
            seen.maps[stage][None]
            if field.positions > 1
            else seen.features[None, columns_of(inside, stage)],
            field,
        )
        for stage, field in fields.items()
    }


def _square(pre: Preprocess, path: Path) -> NDArray[np.uint8] | None:
    try:
        return load_pixels(path, pre)[0]
    except ImageRefused:
        return None


def _unit(unit: Unit, squares: Mapping[Path, NDArray[np.uint8] | None]) -> dict[str, Any]:
    cuts = [(squares[patch.path], patch.box) for patch in unit.patches]
    return {
        "unit": unit.index,
        "patches": [encoded(cut_patch(s, box), PATCH_PX) for s, box in cuts if s is not None],
        "mostly": unit.mostly,
    }


def _lossless(pixels: NDArray[np.uint8]) -> str:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def _some(count: int, most: int) -> list[int]:
    """Evenly spread places among `count`, the first and the last among them."""
    return sorted({round(x) for x in np.linspace(0, count - 1, min(count, most)).tolist()})


def _filter_words(scene: Scene, images: int, stages: int, shown: int) -> str:
    left = f" {shown} of its {stages} stages are shown." if shown < stages else ""
    return (
        f"Under each stage of the model that is handed over: {UNITS} of its units, and the patches of "
        f"{counted(images, 'image')} to learn from that excite each of them most, one per image.{left} "
        "Units are chosen for answering to a few images far more than to the others, and for "
        "differing from each other; how far a position listens is reckoned as if all weights of a "
        "kernel were equal. What a few patches have in common is a guess about a unit, not a proof."
    )
