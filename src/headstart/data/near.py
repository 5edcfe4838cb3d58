"""The same picture twice: re-encoded, resized, mirrored, turned, cropped a little, or re-exposed.

Proposals are cheap and generous, confirmation looks at pixels and is strict. A picture of the same
thing from another angle is not the same picture; two shots from one place a moment apart are, for
whoever wants to know whether the test part was seen in training.

The perceptual hash is that of Zauner (2010, "Implementation and benchmarking of perceptual image
hash functions"), low DCT coefficients of a small grey picture, but kept as numbers instead of
their signs: mirroring then only changes the sign of the odd ones and turning transposes them, so
all eight symmetries are compared at the cost of two, and no bit is lost to rounding.

N images, P pairs, K numbers of a hash.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from headstart.data.align import (
    SIDE_PX,
    Aligned,
    Floats,
    Ints,
    align,
    along_both,
    cosines,
    in_symmetry,
)
from headstart.data.neighbours import nearest_pairs
from headstart.parallel import one_blas_thread, ordered_map

Kind = Literal["copy", "turned", "cropped", "exposed"]
"""copy: re-encoded or resized; turned: mirrored or rotated by 90, 180, 270 degrees; exposed: the
same view brighter, darker, or with another contrast."""

CHROMA_PX = 8
HASH_SIDE = 8
HASH_SIMILARITY = 0.70
"""Planted crops of 5 % have 0.70 to 0.99, everything else that is planted above 0.99; of unrelated
photos (trashnet, clothing, CIFAR-10) about 1 pair in 1,000 has more."""
HASH_NEIGHBOURS = 5
FLAT = 1.0
"""Below this deviation in grey levels a picture is blank, and two blank pictures are no evidence."""

SAME = 0.95
"""Least correlation of the fine structure. Planted in nine data sets: copies 0.98 to 1.00, crops
0.93 (cells of malaria) to 1.00; unrelated: below 0.93 even for cells, hands and clothes."""
SAME_AGAIN = 0.97
"""The same for turned and re-exposed pictures: there are more ways to be so by chance."""
SAME_LOOSE = 0.98
"""The same where neither picture lies within the other, or one is turned and cropped: so are most
bursts (trashnet: 0.955 to 0.976). Planted crops lie within the original to 0.016 half widths."""
LOOSE = 0.025
SAME_FAINT = 0.88
"""The same where what differs is less than FAINT_RESIDUAL: the noise of JPEG in a calm picture."""
FAINT_RESIDUAL = 1.3
LEAST_TEXTURE = 1.0
"""Grey levels of fine structure below which nothing is confirmed."""
TINY_PX = 16
SAME_TINY = 0.99
"""Below TINY_PX a side there are few independent pixels: unrelated 8 x 8 digits reach 0.99. Only
plain copies are confirmed: of digits re-encoded at q50 to q90, 95 of 100."""
CROWD = 0.90
CROWD_SHARE = 0.25
"""Where strangers come close, some will pass by chance: with more pairs from CROWD to SAME than a
quarter of the images, SAME_LOOSE is asked of all. (Pairs per image of digits enlarged to 64 x 64:
0.7, of slices of brains 0.1, of cells 0.01; 0.4 % instead of 4.8 % of the digits are called copies.)"""
CROP_SCALE = 0.13
CROP_OFFSET = 0.14
"""What a crop of 5 % at each side can do, and a little more; in half widths of the picture."""
MOVED = 0.02
CONTRAST = 1.2
BRIGHTNESS = 6.0
"""Contrast ratio and grey levels of brightness beyond which a copy is called re-exposed."""
COLOUR = 6.0
"""Most mean difference of Cb and Cr, in levels: planted copies stay below 4.2 (CIFAR-10 at q50)."""

USUAL_FROM = 16
USUAL_SAMPLE = 512
LARGE_SHARE = 0.05
LARGE_LEAST = 10
BATCH = 128


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a picture to recognise it: 4.4 kB."""

    grey: bytes
    """uint8 [SIDE_PX, SIDE_PX], the whole picture squeezed into a square"""
    chroma: bytes
    """uint8 [2, CHROMA_PX, CHROMA_PX], Cb and Cr"""
    detail_px: int
    """shorter side of the picture, at most SIDE_PX"""


@dataclass(frozen=True, slots=True)
class Match:
    """Why two pictures are one."""

    kind: Kind
    score: float
    """correlation of the fine structure after alignment, at most 1"""


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two images, by their place in the list of fingerprints, that show the same picture."""

    first: int
    second: int
    kind: Kind
    score: float


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """All that was confirmed."""

    pairs: tuple[NearPair, ...]
    components: tuple[tuple[int, ...], ...]
    """images that hang together through pairs; sorted; two or more each"""
    untrusted: tuple[tuple[int, ...], ...]
    """components so large that something else is probably common to them; not among the others"""
    sentence: str
    """what to know about the result; empty when there is nothing"""


def fingerprint(image: Image.Image) -> Fingerprint:
    """The fingerprint of an RGB picture of any size.

    >>> fingerprint(Image.new("RGB", (640, 480), "red")).detail_px
    64
    """
    shorter = min(image.size)
    if (factor := shorter // (2 * SIDE_PX)) > 1:
        image = image.reduce(factor)
    # Small files come by the hundred thousand: what a picture's size makes needless is left out.
    grey = image.convert("L")
    if grey.size != (SIDE_PX, SIDE_PX):
        grey = grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR)
    if image.size == (SIDE_PX, SIDE_PX):
        small = image.reduce(SIDE_PX // CHROMA_PX)
    else:
        small = image.resize((CHROMA_PX, CHROMA_PX), Image.Resampling.BOX)
    colours = small.convert("YCbCr").tobytes()
    chroma = colours[1::3] + colours[2::3]
    return Fingerprint(grey.tobytes(), chroma, min(SIDE_PX, shorter))


def confirm(a: Fingerprint, b: Fingerprint) -> Match | None:
    """Whether two pictures are the same; None when not, or when there is too little to see."""
    usual = np.zeros((SIDE_PX, SIDE_PX), np.float32)
    found, _ = _confirm_batch([a, b], np.array([[0, 1]]), usual)
    return Match(found[0].kind, found[0].score) if found else None


def near_duplicates(
    fingerprints: Sequence[Fingerprint], proposed: Ints, workers: int
) -> NearDuplicates:
    """Confirm proposed pairs on pixels and gather what hangs together.

    Args:
        fingerprints: N, of images with different content; equal content is known by its hash.
        proposed: int [P, 2], in any order; doubles do no harm.
        workers: threads.
    """
    pairs = np.unique(np.sort(proposed.reshape(-1, 2), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    usual = _usual(fingerprints)
    parts = [pairs[i : i + BATCH] for i in range(0, len(pairs), BATCH)]
    with one_blas_thread():
        done = list(
            ordered_map(lambda part: _confirm_batch(fingerprints, part, usual), parts, workers)
        )
    crowded = sum(close for _, close in done) > CROWD_SHARE * len(fingerprints)
    demand = SAME_LOOSE if crowded else 0
    confirmed = tuple(pair for found, _ in done for pair in found if pair.score >= demand)
    limit = max(LARGE_LEAST, LARGE_SHARE * len(fingerprints))
    components = _components(confirmed)
    untrusted = tuple(c for c in components if len(c) > limit)
    return NearDuplicates(
        pairs=confirmed,
        components=tuple(c for c in components if len(c) <= limit),
        untrusted=untrusted,
        sentence=_sentence(untrusted, len(fingerprints), crowded),
    )


def propose_by_hash(fingerprints: Sequence[Fingerprint], workers: int = 1) -> Ints:
    """Pairs [P, 2] that look alike in one of the eight symmetries; at most 5 N."""
    plain, turned = _hashes(fingerprints)

    def alike(rows: slice, columns: slice) -> Floats:
        return np.maximum(
            _mirrored(plain, plain, rows, columns), _mirrored(plain, turned, rows, columns)
        )

    return nearest_pairs(alike, len(fingerprints), HASH_NEIGHBOURS, HASH_SIMILARITY, workers)


def _hashes(fingerprints: Sequence[Fingerprint]) -> tuple[list[Floats], list[Floats]]:
    """Hashes of length 1 and those of the transposed pictures, each as four [N, K / 4].

    The parts are the coefficients that are even or odd down and across; a blank picture has zeros.
    """
    waves = cosines(SIDE_PX, HASH_SIDE)
    order = np.arange(HASH_SIDE, dtype=np.float32)
    # Photographs have amplitudes in inverse proportion to frequency (Field 1987); so all count alike.
    weight = np.hypot(order[:, None], order)
    found = np.empty((len(fingerprints), HASH_SIDE, HASH_SIDE), np.float32)
    for i in range(0, len(fingerprints), 1024):
        grey = _grey(fingerprints[i : i + 1024])
        found[i : i + 1024] = along_both(waves, grey) * weight
    length = np.sqrt(np.einsum("nij,nij->n", found, found))
    found /= np.where(length < FLAT * SIDE_PX, np.inf, length)[:, None, None]

    def parts(table: Floats) -> list[Floats]:
        n = len(table)
        return [
            np.ascontiguousarray(table[:, i::2, j::2].reshape(n, HASH_SIDE**2 // 4))
            for i in (0, 1)
            for j in (0, 1)
        ]

    return parts(found), parts(found.transpose(0, 2, 1))


def _mirrored(a: list[Floats], b: list[Floats], rows: slice, columns: slice) -> Floats:
    """The largest product of hashes over the four mirrorings of the second: [rows, columns]."""
    plain, across, down, both = (x[rows] @ y[columns].T for x, y in zip(a, b, strict=True))
    kept = plain + across + np.abs(down + both)
    largest: Floats = np.maximum(kept, plain - across + np.abs(down - both))
    return largest


def _confirm_batch(
    fingerprints: Sequence[Fingerprint], pairs: Ints, usual: Floats
) -> tuple[list[NearPair], int]:
    """The confirmed pairs, and how many pairs are close without being the same."""
    first = [fingerprints[i] for i in pairs[:, 0]]
    second = [fingerprints[i] for i in pairs[:, 1]]
    detail = np.array([min(a.detail_px, b.detail_px) for a, b in zip(first, second, strict=True)])
    aligned = align(_grey(first), _grey(second), detail, usual)
    colour = _colour_difference(first, second, aligned)
    kept = np.flatnonzero((colour <= COLOUR) & _same(aligned, detail[aligned.pair]))
    kinds = _kinds(aligned)
    close = (aligned.correlation >= CROWD) & (aligned.correlation < SAME)
    found = [
        NearPair(
            first=int(pairs[aligned.pair[r], 0]),
            second=int(pairs[aligned.pair[r], 1]),
            kind=kinds[r],
            score=min(1.0, float(aligned.correlation[r])),
        )
        for r in kept
    ]
    return found, int(close.sum())


def _same(found: Aligned, detail_px: Ints) -> NDArray[np.bool_]:
    """The verdict of every aligned pair; the thresholds are explained where they are defined."""
    scale, offset = found.warp[:, 0::2], np.abs(found.warp[:, 1::2])
    in_place = (np.maximum(scale, 1 / scale) <= 1 / (1 - CROP_SCALE)).all(1)
    in_place &= (offset <= CROP_OFFSET).all(1)
    loose = (offset > np.abs(1 - scale) + LOOSE).any(1)
    turned, exposed, moved = found.symmetry > 0, _exposed(found), _moved(found)
    faint, tiny = found.residual <= FAINT_RESIDUAL, detail_px < TINY_PX
    demand = np.select(
        [tiny, loose | turned & moved, turned | exposed, faint],
        [SAME_TINY, SAME_LOOSE, SAME_AGAIN, SAME_FAINT],
        SAME,
    )
    seen = (found.correlation >= demand) & (found.texture >= LEAST_TEXTURE)
    verdict: NDArray[np.bool_] = in_place & seen & ~(tiny & (turned | exposed | moved))
    return verdict


def _moved(found: Aligned) -> NDArray[np.bool_]:
    moved: NDArray[np.bool_] = (np.abs(found.warp - np.array([1, 0, 1, 0])) > MOVED).any(1)
    return moved


def _exposed(found: Aligned) -> NDArray[np.bool_]:
    contrast = np.maximum(found.gain, 1 / np.maximum(found.gain, 1e-3))
    exposed: NDArray[np.bool_] = (contrast > CONTRAST) | (np.abs(found.brightness) > BRIGHTNESS)
    return exposed


def _kinds(found: Aligned) -> list[Kind]:
    words: list[Kind] = ["exposed", "turned", "cropped", "copy"]
    facts = [_exposed(found), found.symmetry > 0, _moved(found)]
    return [words[k] for k in np.select(facts, [0, 1, 2], 3)]


def _colour_difference(
    first: Sequence[Fingerprint], second: Sequence[Fingerprint], found: Aligned
) -> Floats:
    """Mean absolute difference of Cb and Cr of every aligned pair, in levels."""
    a, b = _chroma(first)[found.pair], _chroma(second)[found.pair]
    turned = np.empty_like(b)
    for s in np.unique(found.symmetry):
        turned[found.symmetry == s] = in_symmetry(b[found.symmetry == s], int(s))
    difference: Floats = np.abs(a - turned).mean((1, 2, 3))
    return difference


def _grey(fingerprints: Sequence[Fingerprint]) -> Floats:
    """[N, SIDE_PX, SIDE_PX]"""
    joined = np.frombuffer(b"".join(f.grey for f in fingerprints), np.uint8)
    return joined.reshape(-1, SIDE_PX, SIDE_PX).astype(np.float32)


def _chroma(fingerprints: Sequence[Fingerprint]) -> Floats:
    """[N, 2, CHROMA_PX, CHROMA_PX]"""
    joined = np.frombuffer(b"".join(f.chroma for f in fingerprints), np.uint8)
    return joined.reshape(-1, 2, CHROMA_PX, CHROMA_PX).astype(np.float32)


def _usual(fingerprints: Sequence[Fingerprint]) -> Floats:
    """What the pictures have in common [SIDE_PX, SIDE_PX]; of a few it could be one of them."""
    if len(fingerprints) < USUAL_FROM:
        return np.zeros((SIDE_PX, SIDE_PX), np.float32)
    step = max(1, len(fingerprints) // USUAL_SAMPLE)
    mean: Floats = _grey(fingerprints[::step]).mean(0)
    return mean


def _components(pairs: Iterable[NearPair]) -> tuple[tuple[int, ...], ...]:
    """Images that hang together, by union-find."""
    parent: dict[int, int] = {}

    def root(i: int) -> int:
        while parent.setdefault(i, i) != i:
            parent[i] = i = parent[parent[i]]
        return i

    for pair in pairs:
        low, high = sorted((root(pair.first), root(pair.second)))
        parent[high] = low
    together: dict[int, list[int]] = defaultdict(list)
    for i in sorted(parent):
        together[root(i)].append(i)
    return tuple(tuple(images) for _, images in sorted(together.items()))


def _sentence(untrusted: Sequence[Sequence[int]], n: int, crowded: bool) -> str:
    said = []
    if untrusted:
        count = sum(map(len, untrusted))
        said.append(
            f"{count:,} of {n:,} images look like copies of one another in groups so large that "
            "they probably share a template or a background rather than a picture; they were not "
            "treated as copies."
        )
    if crowded:
        said.append(
            "Many different images of this data set look nearly the same, so only the clearest "
            "copies were looked for; some may have been missed."
        )
    return " ".join(said)
