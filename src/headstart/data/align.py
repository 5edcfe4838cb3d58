"""Lay one small picture over another: the best of eight symmetries, then scale and offset.

Registration by the inverse compositional algorithm (Baker & Matthews, Int. J. Computer Vision 56,
2004) with four parameters: scale and offset of either axis, from coarse to fine. All pairs of a
batch move together, so the work is matrix products and no loop runs over pairs.

P pairs, R rows (a row is a pair in one symmetry), n side of a picture in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIDE_PX = 64
SYMMETRIES = 8
"""Number s = 4 transposed + 2 upside down + mirrored, applied in this order."""
TRIED = 2
"""Symmetries that are followed for a pair: a symmetric object often looks best in a wrong one."""
LEVELS = ((4, 4, 0.70), (2, 4, 0.80))
"""Pixels pooled into one, steps of registration, and least correlation for a closer look. What is
confirmed in the end has 0.88 or more; cells of malaria cropped by 5 % need gates as low as these."""
BROAD_PX = 6.0
"""Shading broader than this tells little about identity and is taken away (of SIDE_PX)."""
MOST_SHIFT = 0.20
"""Bound of scale change and offset while searching, in half widths of the picture."""
STEP = 0.10


@dataclass(frozen=True, slots=True)
class Aligned:
    """What R aligned pairs look like, each in its best symmetry; every array has R rows."""

    pair: Ints
    symmetry: Ints
    """what was done to the second picture"""
    warp: Floats
    """[R, 4]: second = scale * first + offset, of x then of y, in half widths from the centre"""
    correlation: Floats
    """of the fine structure, -1 to 1, over what both show"""
    residual: Floats
    """root mean square of what a best gain does not explain, in grey levels"""
    texture: Floats
    """standard deviation of the fine structure, in grey levels, of the poorer picture"""
    gain: Floats
    """contrast of the first over that of the second"""
    brightness: Floats
    """mean of the first less mean of the second, in grey levels"""

    def __getitem__(self, rows: object) -> Aligned:
        return Aligned(*(getattr(self, f.name)[rows] for f in fields(self)))


def align(a: Floats, b: Floats, detail_px: Ints, usual: Floats) -> Aligned:
    """Align P pairs; those that are clearly of different pictures are left out.

    Args:
        a, b: [P, SIDE_PX, SIDE_PX], grey levels.
        detail_px: [P], shorter side of the smaller picture, at most SIDE_PX: finer is invented.
        usual: [SIDE_PX, SIDE_PX], what all pictures of the data set have in common (a form, a
            dark rim); it is no evidence for identity and taken away. Zeros: nothing.
    """
    pair, symmetry = _likely_symmetries(a, b)
    warp = np.tile(np.array([1, 0, 1, 0], np.float32), (len(pair), 1))
    for pool, steps, gate in LEVELS:
        small, common = _pool(a, pool)[pair], _pool(usual[None], pool)
        other = _turn(_pool(b, pool)[pair], symmetry)
        warp = _register(_structure(small), _structure(other), warp, steps)
        moved, seen = _move(other, warp, cubic=False)
        x, y = _structure(small - common), _structure(moved - common)
        keep = np.einsum("ri,ri->r", _unit(x, seen)[0], _unit(y, seen)[0]) >= gate
        pair, symmetry, warp = pair[keep], symmetry[keep], warp[keep]
    rows = _judge(a[pair], _turn(b[pair], symmetry), warp, detail_px[pair], usual)
    found = Aligned(pair, symmetry, warp, *rows)
    best = np.lexsort((symmetry, -found.correlation.round(3), pair))
    return found[best[np.unique(pair[best], return_index=True)[1]]]


def cosines(n: int, count: int) -> Floats:
    """The first `count` rows of the orthonormal DCT-II of length n."""
    wave = np.cos(np.pi / n * np.outer(np.arange(count), np.arange(n) + 0.5))
    wave *= np.sqrt(2 / n)
    wave[0] /= np.sqrt(2)
    rows: Floats = wave.astype(np.float32)
    return rows


def along_both(matrix: Floats, pictures: Floats) -> Floats:
    """A linear map [..., m, n] of rows and of columns: pictures [..., n, n] become [..., m, m]."""
    mapped: Floats = np.matmul(np.matmul(matrix, pictures), matrix.swapaxes(-1, -2))
    return mapped


def _turn(pictures: Floats, symmetry: Ints) -> Floats:
    """Each of R pictures in its own symmetry."""
    out = np.empty_like(pictures)
    for s in np.unique(symmetry):
        mine = symmetry == s
        out[mine] = in_symmetry(pictures[mine], int(s))
    return out


def in_symmetry(pictures: Floats, s: int) -> Floats:
    """Pictures [..., n, n] in symmetry number s."""
    if s & 4:
        pictures = pictures.swapaxes(-1, -2)
    if s & 2:
        pictures = pictures[..., ::-1, :]
    return pictures[..., ::-1] if s & 1 else pictures


def _likely_symmetries(a: Floats, b: Floats) -> tuple[Ints, Ints]:
    """The TRIED best symmetries of every pair at 16 x 16: pair [R], symmetry [R]."""
    count, small = len(a), _structure(_pool(b, 4))
    x, y = _unit(_structure(_pool(a, 4)))[0], _unit(small)[0].reshape(small.shape)
    turned = (in_symmetry(y, s).reshape(count, -1) for s in range(SYMMETRIES))
    fit = np.stack([np.einsum("pi,pi->p", x, other) for other in turned], axis=1)
    best = np.argsort(-fit, axis=1, kind="stable")[:, :TRIED]
    return np.repeat(np.arange(count), TRIED), best.ravel().astype(np.int64)


def _pool(pictures: Floats, by: int) -> Floats:
    """Means of by x by pixels; a product of matrices is several times faster than numpy's mean."""
    n = pictures.shape[-1]
    mean = np.repeat(np.eye(n // by, dtype=np.float32), by, axis=1) / np.float32(by)
    return along_both(mean, pictures)


@cache
def _blur(n: int, sigma: float) -> Floats:
    """[n, n]: a Gaussian along one axis, mirrored at the rim."""
    at = np.arange(n)
    images = [at[None], -1 - at[None], 2 * n - 1 - at[None]]
    weight = np.sum([np.exp(-0.5 * ((at[:, None] - i) / sigma) ** 2) for i in images], axis=0)
    rows: Floats = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    return rows


@cache
def _bands() -> tuple[Floats, Floats]:
    """Blurs of SIDE_PX for a detail of 1, 2, ... SIDE_PX pixels: the finest and the broadest kept."""
    fine = [max(0.7, 0.6 * SIDE_PX / detail) for detail in range(1, SIDE_PX + 1)]
    broad = [max(BROAD_PX, 3 * sigma) for sigma in fine]
    return (
        np.stack([_blur(SIDE_PX, sigma) for sigma in fine]),
        np.stack([_blur(SIDE_PX, sigma) for sigma in broad]),
    )


def _structure(pictures: Floats) -> Floats:
    """Without broad shading and without the finest noise, at any resolution."""
    n = pictures.shape[-1]
    fine, broad = _blur(n, 0.7), _blur(n, max(4.0, BROAD_PX * n / SIDE_PX))
    return along_both(fine, pictures) - along_both(broad, pictures)


def _unit(pictures: Floats, seen: Floats | None = None) -> tuple[Floats, Floats]:
    """[R, n*n] with mean 0 and length 1 over what is seen, 0 elsewhere; and the lengths [R, 1]."""
    flat = pictures.reshape(len(pictures), pictures.shape[-1] ** 2)
    if seen is None:
        flat = flat - flat.mean(1, keepdims=True)
    else:
        mask = seen.reshape(flat.shape)
        flat = flat * mask
        flat -= mask * (flat.sum(1, keepdims=True) / np.maximum(mask.sum(1, keepdims=True), 1))
    length = np.sqrt(np.einsum("ri,ri->r", flat, flat))[:, None]
    flat /= length + 1e-6
    return flat, length


def _register(fixed: Floats, moving: Floats, warp: Floats, steps: int) -> Floats:
    """Better warps [R, 4]."""
    rows, n, _ = fixed.shape
    at = _places(n)
    fixed = _unit(fixed)[0].reshape(fixed.shape)
    down, right = np.gradient(fixed, 2 / n, axis=(1, 2))
    slopes = np.stack([right * at, right, down * at[:, None], down], axis=1).reshape(rows, 4, n * n)
    curvature = slopes @ slopes.transpose(0, 2, 1)
    # A picture of stripes says nothing along them; the ridge keeps it where it is.
    ridge = 1e-3 * np.trace(curvature, axis1=1, axis2=2)[:, None, None] / 4 + 1e-6
    solve = np.linalg.inv(curvature + ridge * np.eye(4, dtype=np.float32))
    for _ in range(steps):
        moved, seen = _move(moving, warp, cubic=False)
        error = (_unit(moved, seen)[0] - _unit(fixed, seen)[0])[..., None]
        step = np.clip((solve @ (slopes @ error))[..., 0], -STEP, STEP)
        scale = warp[:, 0::2] / (1 + step[:, 0::2])
        offset = warp[:, 1::2] - scale * step[:, 1::2]
        warp = np.empty_like(warp)
        warp[:, 0::2] = np.clip(scale, 1 - MOST_SHIFT, 1 / (1 - MOST_SHIFT))
        warp[:, 1::2] = np.clip(offset, -MOST_SHIFT, MOST_SHIFT)
    return warp


def _places(n: int) -> Floats:
    """Centres of n pixels, from -1 to 1."""
    places: Floats = ((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32)
    return places


def _move(moving: Floats, warp: Floats, cubic: bool) -> tuple[Floats, Floats]:
    """Pictures seen through their warps, and 1 where that is within them, else 0; both [R, n, n]."""
    n = moving.shape[-1]
    weights, inside = [], []
    for scale, offset in ((warp[:, 0], warp[:, 1]), (warp[:, 2], warp[:, 3])):
        at = ((scale[:, None] * _places(n) + offset[:, None]) + 1) / 2 * n - 0.5
        inside.append(((at > -0.75) & (at < n - 0.25)).astype(np.float32))
        away = np.abs(np.clip(at, 0, n - 1)[..., None] - np.arange(n, dtype=np.float32))
        weights.append(_cubic(away) if cubic else np.maximum(0, 1 - away))
    moved = weights[1] @ moving @ weights[0].transpose(0, 2, 1)
    return moved, inside[1][:, :, None] * inside[0][:, None, :]


def _cubic(away: Floats) -> Floats:
    """Weights of cubic convolution (Keys 1981), a = -1/2, of distances in pixels, rows summing to 1."""
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    weight = np.where(away < 1, near, np.where(away < 2, far, 0)).astype(np.float32)
    summed: Floats = weight / weight.sum(-1, keepdims=True)
    return summed


def _judge(
    a: Floats, b: Floats, warp: Floats, detail_px: Ints, usual: Floats
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """The numbers of `Aligned` from correlation on, of R pairs in their final place."""
    b, seen = _move(b, warp, cubic=True)
    fine, broad = (blurs[np.clip(detail_px, 1, SIDE_PX) - 1] for blurs in _bands())

    def structure(pictures: Floats) -> Floats:
        return along_both(fine, pictures) - along_both(broad, pictures)

    x, in_x = _unit(structure(a - usual), seen)
    y, in_y = _unit(structure(b - usual), seen)
    correlation = np.einsum("ri,ri->r", x, y)
    share = np.maximum(seen.mean((1, 2)), 1e-3)
    pixels = np.sqrt(share * SIDE_PX**2)
    spread_x, spread_y = in_x[:, 0] / pixels, in_y[:, 0] / pixels
    texture = np.minimum(spread_x, spread_y)
    residual = np.sqrt(np.maximum(0, 1 - correlation**2)) * texture
    gain = spread_x / np.maximum(spread_y, 1e-3)
    brightness = ((a - b) * seen).mean((1, 2)) / share
    return correlation, residual, texture, gain, brightness
