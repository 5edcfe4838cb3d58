"""Grad-CAM without torch, of a model that is opened up (`explain.inside`).

Grad-CAM weighs the channels of a map by the mean slope of a class's logit over its positions
(Selvaraju et al. 2017, section 3), and a mean slope asks one thing only: how the logit moves when a
channel rises by the same amount everywhere. A mean over positions then moves by that amount, a
standard deviation not at all, and through the head's layers the slope is their product. Where other
layers lie between the map and what the head reads, they are run with each channel a little higher
and a little lower.

D channels, h w positions of a map, F width of what the head reads, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.backbone.features import open_session
from headstart.backbone.graph import HEAD, SPREAD
from headstart.errors import ArgumentError
from headstart.explain.heat import Heat, rank_correlation
from headstart.explain.inside import Floats, Inside, Seen, shuffled

STEP = 2e-4
"""how far a channel is moved, as a share of the map's root mean square: less, and too few digits of
float32 move; more, and rectifiers of other layers switch on the way"""
CHUNK = 64
"""channels that are moved at a time"""
DRAWS = 2
"""shuffled networks that a map is compared with"""


@dataclass(frozen=True, slots=True)
class Lens:
    """How to draw the heat maps of one opened model."""

    inside: Inside
    stage: str
    """where Grad-CAM reads: the last stage with positions"""
    layers: list[tuple[Floats, Floats]]
    """of the head"""
    means: tuple[str, ...]
    """outputs that the head reads and that are the means of the map's channels"""
    later: tuple[str, ...]
    """outputs that the head reads and that other layers make of the map"""
    onward: Any
    """a session from the map to `later`; None where there are none"""

    def heat(self, seen: Seen, target: int) -> Heat:
        """What speaks for a class in a picture that the model was shown."""
        found = seen.maps[self.stage]
        slope = self._slope(seen.features, target)
        weights = np.zeros(len(found))
        for name in self.means:
            weights += slope[columns_of(self.inside, name)]
        if self.later:
            columns = [columns_of(self.inside, name) for name in self.later]
            weights += self._moves(found) @ np.concatenate([slope[c] for c in columns])
        signed = np.tensordot(weights, found.astype(np.float64), 1) / found[0].size
        return Heat("gradcam", self.stage, target, signed.astype(np.float32))

    def _slope(self, features: Floats, target: int) -> NDArray[np.float64]:
        """Slope of a logit at what the head reads [F]."""
        weight, _ = self.layers[-1]
        slope = weight[target].astype(np.float64)
        if len(self.layers) > 1:
            first, bias = self.layers[0]
            slope = (slope * (first @ features + bias > 0)) @ first
        return np.asarray(slope)

    def _moves(self, found: Floats) -> NDArray[np.float64]:
        """How what lies behind the map moves with each channel [D, sum of widths]."""
        step = np.float32(STEP * max(1e-6, float(np.sqrt(np.square(found).mean()))))
        value = self.inside.maps[self.stage]
        rows = []
        for start in range(0, len(found), CHUNK):
            channels = np.arange(start, min(start + CHUNK, len(found)))
            batch = np.repeat(found[None], 2 * len(channels), axis=0)
            for sign, offset in ((1, 0), (-1, len(channels))):
                batch[np.arange(len(channels)) + offset, channels] += sign * step
            out = np.concatenate(self.onward.run(list(self.later), {value: batch}), axis=1)
            up, down = np.split(out.astype(np.float64), 2)
            rows.append((up - down) / (2 * float(step)))
        return np.concatenate(rows)


def lens(inside: Inside) -> Lens:
    """Grad-CAM at the last stage with positions.

    Raises:
        ArgumentError: no stage of this model has positions on the picture.
    """
    if not inside.maps:
        raise ArgumentError("No stage of this model has positions on the picture")
    stage = next(s.name for s in reversed(inside.stages) if s.name in inside.maps)
    # The features of `head` may be the means of the map that the stage before it ends in, too.
    own = {name for name, value in inside.maps.items() if value == inside.maps[stage]}
    own -= set() if inside.averaged else {HEAD}
    names = [s.name for s in inside.stages]
    vectors = {s.name for s in inside.stages if s.side_px == 1}
    # The last map comes before all that has no positions.
    behind = vectors if stage == HEAD else set(names[names.index(stage) + 1 :])
    means = tuple(name for name in inside.reads if name in own)
    later = tuple(n for n in inside.reads if n.removesuffix(SPREAD) in behind - own)
    onward = _onward(inside, stage, later) if later else None
    return Lens(inside, stage, inside.layers(), means, later, onward)


def columns_of(inside: Inside, name: str) -> slice:
    """Which of what the head reads an output is."""
    widths = {s.name: s.width for s in inside.stages}
    start = 0
    for read in inside.reads:
        width = widths[read.removesuffix(SPREAD)]
        if read == name:
            return slice(start, start + width)
        start += width
    raise KeyError(name)


def _onward(inside: Inside, stage: str, later: Sequence[str]) -> Any:
    """The part of the network from a map to what other layers make of it."""
    import onnx

    part = onnx.utils.Extractor(inside.backbone).extract_model([inside.maps[stage]], list(later))
    return open_session(part.SerializeToString(), threads=1)


def sanity(inside: Inside, pictures: Sequence[tuple[Seen, NDArray[np.uint8], int]]) -> float | None:
    """How much of a map is left when the weights of every layer are shuffled: mean size of the rank
    correlation (Adebayo et al. 2018, section 3.2). None when no shuffled network draws a map.

    0: nothing, the map shows what was learned. 1: all of it, the map shows the picture only.

    Args:
        pictures: what the model saw, the pixels that it was shown, the explained class.
    """
    own = lens(inside)
    left = []
    for draw in range(DRAWS):
        twin = lens(shuffled(inside, draw))
        for seen, pixels, target in pictures:
            other = twin.heat(twin.inside.look(pixels, [twin.stage]), target).signed
            if np.ptp(other) > 0:  # a map that is the same everywhere says nothing
                left.append(abs(rank_correlation(own.heat(seen, target).signed, other)))
    return float(np.mean(left)) if left else None
