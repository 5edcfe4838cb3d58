"""A map of the images: t-SNE of the features that the head reads, for a person to look at.

N images, n of them on the map, D feature width.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.data.images import ImageRefused, decode, read_bytes, thumbnail
from headstart.errors import DataError
from headstart.files import strict
from headstart.parallel import one_blas_thread, ordered_map
from headstart.plan.measure import stratified

MOST = 2_000
LEAST = 10
"""images below which neighbourhoods mean nothing"""
PERPLEXITY = 30.0
"""about how many neighbours an image keeps"""
ITERATIONS = 500
"""of the layout: twice as many take twice as long and keep no more neighbours"""
AXES = 50
"""principal axes that are kept, as van der Maaten and Hinton (2008) do"""
THUMBNAIL_PX = 32
CAPTION = (
    "Images that the model finds alike lie close together. What such a map (t-SNE) can show: which "
    "images are neighbours, groups within a class, images that lie among another class. What it "
    "cannot show: how far groups are apart, how large they are, or how well the classes can be "
    "separated; distances between groups, sizes and the two directions mean nothing. Another seed "
    "draws another map."
)


@dataclass(frozen=True, slots=True)
class FeatureMap:
    """Points of n images, with what is known of each."""

    points: NDArray[np.float64]
    """[n, 2], centred, the longer side from -1 to 1"""
    rows: NDArray[np.int64]
    """[n]: which of the N images"""
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    wrong: NDArray[np.bool_]
    paths: tuple[str, ...]
    thumbnails: tuple[str | None, ...]
    """WebP in base64, at most 32 px; None where a file has vanished"""
    classes: tuple[str, ...]
    kept: float
    """mean share of an image's 10 nearest neighbours in the features that are its nearest on the map"""
    of: int
    """N"""
    caption: str


def feature_map(
    features: NDArray[np.float32],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    files: Sequence[Path],
    paths: Sequence[str],
    classes: Sequence[str],
    seed: int,
    workers: int = 1,
) -> FeatureMap:
    """Lay out images on a plane so that neighbours stay neighbours; equal for equal seeds.

    Args:
        features: float32 [N, D], what the head reads. labels, predicted: int [N], of `classes`.
        files: where to read the thumbnails; paths: names to show. workers: threads for thumbnails.

    Raises:
        DataError: fewer than 10 images.

    Source:
        van der Maaten and Hinton (2008); what can be read from such maps: Wattenberg, Viégas and
        Johnson (2016).
    """
    if len(features) < LEAST:
        raise DataError(
            "There are too few images for a map", received=len(features),
            do=f"A map needs at least {LEAST}.",
        )  # fmt: skip
    rows = stratified(labels, MOST, seed)[:MOST]
    x = _principal(features[rows])
    points = _layout(x, seed)
    return FeatureMap(
        points=points,
        rows=rows,
        labels=labels[rows],
        predicted=predicted[rows],
        wrong=labels[rows] != predicted[rows],
        paths=tuple(paths[i] for i in rows),
        thumbnails=tuple(ordered_map(_thumbnail, [files[i] for i in rows], workers)),
        classes=tuple(classes),
        kept=neighbours_kept(x, points),
        of=len(features),
        caption=CAPTION,
    )


def map_json(found: FeatureMap) -> dict[str, Any]:
    """map.json: caption, n, of, neighbours_kept, classes, points [{x, y, path, label, predicted,
    wrong, thumbnail}]; labels are indices of the classes."""
    columns = zip(
        found.points.round(4).tolist(),
        found.paths,
        found.labels.tolist(),
        found.predicted.tolist(),
        found.wrong.tolist(),
        found.thumbnails,
        strict=True,
    )
    rows = [
        {
            "x": x,
            "y": y,
            "path": path,
            "label": label,
            "predicted": predicted,
            "wrong": wrong,
            "thumbnail": image,
        }
        for (x, y), path, label, predicted, wrong, image in columns
    ]
    facts = {
        "caption": found.caption,
        "n": len(rows),
        "of": found.of,
        "neighbours_kept": round(found.kept, 4),
        "classes": list(found.classes),
        "points": rows,
    }
    return dict(strict(facts))


def neighbours_kept(
    features: NDArray[np.float64], points: NDArray[np.float64], count: int = 10
) -> float:
    """Mean share of the nearest neighbours in the features that are nearest on the map too."""
    from sklearn.neighbors import NearestNeighbors

    count = min(count, len(features) - 1)
    near, on_map = (
        NearestNeighbors(n_neighbors=count).fit(x).kneighbors(return_distance=False)
        for x in (features, points)
    )
    return float(np.mean([len(set(a) & set(b)) for a, b in zip(near, on_map, strict=True)]) / count)


def _principal(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Standardised as the head sees them, on their first principal axes."""
    x = features.astype(np.float64)
    spread = x.std(0)
    alive = spread > 1e-6 * max(float(spread.max()), 1e-30)
    if not alive.any():
        return np.zeros((len(x), 2))
    x = (x[:, alive] - x[:, alive].mean(0)) / spread[alive]
    axes = _axes(x)
    # The sign of an axis is free: fixed, so that the layout does not depend on the library.
    return np.asarray(axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])]))


def _axes(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The first principal axes of centred features [n, D], by the smaller of its two products."""
    from scipy.linalg import eigh

    n, width = x.shape
    count = min(AXES, n, width)
    with one_blas_thread():
        product = x @ x.T if n <= width else x.T @ x
        last = len(product) - 1
        sizes, vectors = eigh(product, subset_by_index=[last - count + 1, last])
        order = np.argsort(-sizes, kind="stable")
        if n > width:
            return np.asarray(x @ vectors[:, order])
        return np.asarray(vectors[:, order] * np.sqrt(sizes[order].clip(0)))


def _layout(x: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE

    start = x[:, :2] if x.shape[1] >= 2 else np.column_stack([x[:, 0], np.zeros(len(x))])
    start = 1e-4 * start / max(float(start.std()), 1e-30)
    # Equal images would be pulled by no force in any direction.
    start = start + np.random.default_rng(seed).normal(0, 1e-6, start.shape)
    with one_blas_thread():
        points = TSNE(
            perplexity=min(PERPLEXITY, (len(x) - 1) / 3),
            init=start.astype(np.float32),
            random_state=seed,
            n_jobs=1,
            max_iter=ITERATIONS,
        ).fit_transform(x.astype(np.float32))
    points = points.astype(np.float64)
    points -= (points.max(0) + points.min(0)) / 2
    return np.asarray(points / max(float(np.abs(points).max()), 1e-30))


def _thumbnail(path: Path) -> str | None:
    try:
        image = decode(read_bytes(path), min_side_px=THUMBNAIL_PX, where=path)
    except ImageRefused:
        return None  # it vanished since it was checked; its place is still worth showing
    return base64.b64encode(thumbnail(image, THUMBNAIL_PX)).decode()
