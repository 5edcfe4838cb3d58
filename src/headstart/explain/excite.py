"""What excites the units of every stage most: one pass over images, then patches cut from them.

A unit is one channel of a stage. Its patches are the squares of the images at which it was excited
most, one per image, cut to what it sees there (Zeiler and Fergus 2014, section 2, without their way
back through the network).

N images, D channels, h w positions of a map, S side of the network's input in px.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data.images import ImageRefused, Preprocess, load_pixels
from headstart.explain.field import Box, Field
from headstart.parallel import progress

if TYPE_CHECKING:  # what has no torch may choose and cut, too
    from torch import Tensor, nn

UNITS, PATCHES = 6, 6
"""units shown of each stage, patches shown of each unit"""
BATCH = 8
PAPER = (244, 247, 249)
"""what a patch shows beyond the rim of its picture"""
MOSTLY = 5 / 6
"""from this share of the patches on a unit is said to be fond of one class"""
TWIN = 0.02
"""peaks at the same place whose heights differ by less, relatively, are of the same picture twice"""

Int = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Patch:
    """A square of an image that excites a unit."""

    path: Path
    box: Box
    """on the network's square, in px"""
    value: float


@dataclass(frozen=True, slots=True)
class Unit:
    """One channel of a stage with the patches that excite it most."""

    stage: str
    index: int
    patches: tuple[Patch, ...]
    mostly: str | None
    """the class, or folder, that most of the patches come from, where the images are of several"""


@dataclass(frozen=True, slots=True)
class Peaks:
    """Where every unit of one stage was excited most in each image."""

    values: NDArray[np.float32]  # [N, D]
    rows: Int  # [N, D]
    columns: Int  # [N, D]


@dataclass(frozen=True, slots=True)
class Excited:
    """What one pass over the images has found."""

    paths: tuple[Path, ...]
    """the N images that could be read, each content once"""
    refused: int
    peaks: Mapping[str, Peaks]


def to_input(pixels: NDArray[np.uint8], pre: Preprocess) -> Tensor:
    """uint8 [N, S, S, 3] -> normalised float32 [N, 3, S, S]."""
    import torch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pre.mean, pre.std))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def excite(
    network: nn.Module, paths: Sequence[Path], pre: Preprocess, fields: Mapping[str, Field]
) -> Excited:
    """Run every readable image through the network and note where each unit is excited most."""
    seen: set[str] = set()
    kept: list[Path] = []
    waiting: list[NDArray[np.uint8]] = []
    found: dict[str, list[tuple[NDArray[np.float32], Int, Int]]] = {}
    refused = 0
    for path in progress(iter(paths), len(paths), "looking"):
        try:
            pixels, content = load_pixels(path, pre)
        except ImageRefused:
            refused += 1
            continue
        if content in seen:
            continue
        seen.add(content)
        kept.append(path)
        waiting.append(pixels)
        if len(waiting) == BATCH:
            _note(network, waiting, pre, fields, found)
            waiting = []
    if waiting:
        _note(network, waiting, pre, fields, found)
    peaks = {
        stage: Peaks(*(np.concatenate(part) for part in zip(*rows, strict=True)))
        for stage, rows in found.items()
    }
    return Excited(tuple(kept), refused, peaks)


def _note(
    network: nn.Module,
    pixels: Sequence[NDArray[np.uint8]],
    pre: Preprocess,
    fields: Mapping[str, Field],
    found: dict[str, list[tuple[NDArray[np.float32], Int, Int]]],
) -> None:
    import torch

    from headstart.explain.receptive import activations

    with torch.inference_mode():
        found_now = activations(network, to_input(np.stack(pixels), pre))
    for stage, field in fields.items():
        found.setdefault(stage, []).append(peak(found_now[stage].float().numpy(), field))


def peak(activation: NDArray[np.float32], field: Field) -> tuple[NDArray[np.float32], Int, Int]:
    """Highest value of every channel [N, D], with its row and column.

    A position whose field reaches over the picture's rim counts only where nearly all do: there a
    unit may be excited by the padding.

    Args:
        activation: [N, D, h, w], or [N, D] of a stage without positions.
    """
    maps = activation if activation.ndim == 4 else activation[:, :, None, None]
    first, last = _inner(field)
    maps = maps[:, :, first:last, first:last]
    flat = maps.reshape(*maps.shape[:2], -1)
    at = flat.argmax(2)
    value = np.take_along_axis(flat, at[..., None], 2)[..., 0]
    return value, at // maps.shape[3] + first, at % maps.shape[3] + first


def _inner(field: Field) -> tuple[int, int]:
    """First and last + 1 of the positions whose whole field lies within the picture; all of them
    where fewer than a quarter per side do."""
    fits = [
        at
        for at in range(field.positions)
        if field.box(at, at)[0] >= 0 and field.box(at, at)[2] <= field.input_px
    ]
    if len(fits) < max(1, field.positions / 4):
        return 0, field.positions
    return fits[0], fits[-1] + 1


def choose_units(peaks: Peaks, count: int = UNITS, patches: int = PATCHES) -> list[int]:
    """Units that a few images excite far more than the others do, and that differ in which.

    Each next unit is the one with the highest peak, in standard deviations above its mean over the
    images, discounted by its largest correlation with a unit that was chosen before.
    """
    values = peaks.values.astype(np.float64)
    spread = values.std(0)
    alive = np.flatnonzero(spread > 1e-9 * max(1.0, float(np.abs(values).max())))
    if not len(alive):
        return []
    z = (values[:, alive] - values[:, alive].mean(0)) / spread[alive]
    height = np.sort(z, axis=0)[-patches:].mean(0)
    alike = np.zeros(len(alive))
    chosen: list[int] = []
    while len(chosen) < min(count, len(alive)):
        gain = height * (1 - alike)
        gain[chosen] = -np.inf
        best = int(gain.argmax())
        chosen.append(best)
        alike = np.maximum(alike, (z.T @ z[:, best] / len(z)).clip(0, 1))
    return [int(alive[i]) for i in chosen]


def cut_px(field: Field) -> int:
    """Side of a patch: the whole field, or the effective one where the whole is most of the picture."""
    return field.whole_px if 2 * field.whole_px <= field.input_px else field.effective_px


def units(
    excited: Excited,
    field: Field,
    count: int = UNITS,
    most: int = PATCHES,
    names: Mapping[Path, str] | None = None,
) -> list[Unit]:
    """The chosen units of one stage with their patches, the most exciting first.

    Args:
        count: units. most: patches of each. names: class of each image; default: its folder's name.
    """
    peaks = excited.peaks[field.stage]
    names = names or {path: path.parent.name for path in excited.paths}
    several = len({names[path] for path in excited.paths}) > 1
    found = []
    for index in choose_units(peaks, count, most):
        patches = tuple(
            Patch(
                excited.paths[i],
                _within(field, int(peaks.rows[i, index]), int(peaks.columns[i, index])),
                float(peaks.values[i, index]),
            )
            for i in _best(peaks, index, most)
        )
        name, times = Counter(names[patch.path] for patch in patches).most_common(1)[0]
        mostly = name if several and times >= MOSTLY * len(patches) else None
        found.append(Unit(field.stage, index, patches, mostly))
    return found


def _best(peaks: Peaks, index: int, most: int) -> list[int]:
    """The images that excite a unit most, from the first on; a second copy of one is passed over."""
    values, rows, columns = (part[:, index] for part in (peaks.values, peaks.rows, peaks.columns))
    best: list[int] = []
    for i in np.argsort(-values, kind="stable"):
        near = TWIN * abs(float(values[i]))
        if (
            not any(
                rows[i] == rows[k] and columns[i] == columns[k] and values[k] - values[i] < near
                for k in best
            )
            or peaks.rows.max() == 0
        ):  # a vector has one place only
            best.append(int(i))
        if len(best) == most:
            break
    return best


def _within(field: Field, row: int, column: int) -> Box:
    """What is cut out for a position. A square that is not the field itself is moved inside the
    picture: what it shows is a choice of ours anyway."""
    side = cut_px(field)
    left, top, right, bottom = field.box(row, column, side)
    if 2 * field.whole_px <= field.input_px:
        return left, top, right, bottom
    left, top = (min(max(0, at), field.input_px - side) for at in (left, top))
    return left, top, left + side, top + side


def cut_patch(pixels: NDArray[np.uint8], box: Box) -> Image.Image:
    """The square of a picture; beyond its rim there is paper."""
    left, top, right, bottom = box
    side = pixels.shape[0]
    out = Image.new("RGB", (right - left, bottom - top), PAPER)
    inside = (max(0, left), max(0, top), min(side, right), min(side, bottom))
    if inside[0] < inside[2] and inside[1] < inside[3]:
        part = Image.fromarray(pixels).crop(inside)
        out.paste(part, (inside[0] - left, inside[1] - top))
    return out
