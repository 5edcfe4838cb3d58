"""Near-duplicates: the same picture is found through what people do to files, others are not."""

from __future__ import annotations

from functools import cache
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageEnhance
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from headstart.data import near
from headstart.data.align import SIDE_PX, SYMMETRIES, in_symmetry
from headstart.data.near import (
    Fingerprint,
    NearPair,
    confirm,
    fingerprint,
    near_duplicates,
    propose_by_hash,
)
from headstart.data.neighbours import nearest_pairs

T = Image.Transpose


@cache
def photo(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Coloured clouds with some shapes on them: structure at all scales, as in photographs."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height // 4, width // 4, 3), 128.0)
    for sigma, strength in ((10, 225), (3, 75), (1, 15)):
        clouds = rng.normal(size=pixels.shape)
        pixels += strength * gaussian_filter(clouds, (sigma, sigma, 0.5))
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).resize((width, height))
    pen = ImageDraw.Draw(image)
    for _ in range(4):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        size = int(rng.integers(15, 60))
        pen.ellipse((x, y, x + size, y + size), fill=tuple(rng.integers(256, size=3).tolist()))
    return image


def saved(image: Image.Image, quality: int = 95) -> Image.Image:
    """What a JPEG of the picture shows."""
    out = BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(out).convert("RGB")


def cropped(
    image: Image.Image, left: float, top: float, right: float, bottom: float
) -> Image.Image:
    w, h = image.size
    return image.crop(
        (round(left * w), round(top * h), round(w - right * w), round(h - bottom * h))
    )


COPIES = {
    "png": ("copy", lambda image: image),
    "jpeg 50": ("copy", lambda image: saved(image, 50)),
    "half size": ("copy", lambda image: saved(image.resize((160, 120)))),
    "squashed to a square": ("copy", lambda image: saved(image.resize((224, 224)))),
    "mirrored": ("turned", lambda image: saved(image.transpose(T.FLIP_LEFT_RIGHT))),
    "upside down": ("turned", lambda image: saved(image.transpose(T.FLIP_TOP_BOTTOM))),
    "turned by 90": ("turned", lambda image: saved(image.transpose(T.ROTATE_90))),
    "turned by 180": ("turned", lambda image: saved(image.transpose(T.ROTATE_180))),
    "turned by 270": ("turned", lambda image: saved(image.transpose(T.ROTATE_270))),
    "transposed": ("turned", lambda image: saved(image.transpose(T.TRANSPOSE))),
    "transverse": ("turned", lambda image: saved(image.transpose(T.TRANSVERSE))),
    "left edge off": ("cropped", lambda image: saved(cropped(image, 0.05, 0, 0, 0))),
    "lower edge off": ("cropped", lambda image: saved(cropped(image, 0, 0, 0, 0.05))),
    "all edges off": ("cropped", lambda image: saved(cropped(image, 0.05, 0.05, 0.05, 0.05))),
    "brighter": ("exposed", lambda image: saved(ImageEnhance.Brightness(image).enhance(1.15))),
    "less contrast": ("exposed", lambda image: saved(ImageEnhance.Contrast(image).enhance(0.7))),
}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_known_whatever_was_done_to_the_file(name: str) -> None:
    kind, change = COPIES[name]
    for seed in (1, 2, 3):
        original = photo(seed)
        match = confirm(fingerprint(original), fingerprint(change(original)))
        assert match is not None
        assert match.kind == kind
        assert 0.95 <= match.score <= 1


@pytest.mark.parametrize("name", COPIES)
def test_the_order_of_the_two_does_not_matter(name: str) -> None:
    kind, change = COPIES[name]
    a, b = fingerprint(photo(4)), fingerprint(change(photo(4)))
    back = confirm(b, a)
    assert back is not None
    assert back.kind == kind


def test_among_many_photos_exactly_the_planted_copies_are_found() -> None:
    originals = [photo(seed) for seed in range(50)]
    copies = [change(originals[i]) for i, (_, change) in enumerate(COPIES.values())]
    prints = [fingerprint(image) for image in originals + copies]
    found = near_duplicates(prints, propose_by_hash(prints), workers=2)
    assert {(p.first, p.second) for p in found.pairs} == {(i, 50 + i) for i in range(len(copies))}
    assert [p.kind for p in found.pairs] == [kind for kind, _ in COPIES.values()]
    assert found.components == tuple((i, 50 + i) for i in range(len(copies)))
    assert found.untrusted == ()
    assert found.sentence == ""


def test_the_result_does_not_depend_on_threads_or_on_how_pairs_are_listed() -> None:
    originals = [photo(seed) for seed in range(12)]
    prints = [fingerprint(image) for image in originals + [saved(o, 60) for o in originals]]
    pairs = propose_by_hash(prints, workers=1)
    assert np.array_equal(pairs, propose_by_hash(prints, workers=2))
    again = np.concatenate([pairs[::-1, ::-1], pairs, [[3, 3]]])
    assert near_duplicates(prints, pairs, 1) == near_duplicates(prints, again, 2)


def test_nothing_proposed_is_nothing_found() -> None:
    assert near_duplicates([], propose_by_hash([]), 1).pairs == ()
    assert near_duplicates([fingerprint(photo(0))], np.empty((0, 2), np.int64), 1).components == ()


def test_the_same_scene_with_something_moved_is_another_picture() -> None:
    for seed in range(5):
        scene = [photo(seed).copy(), photo(seed).copy()]
        for image, left in zip(scene, (40, 150), strict=True):
            pen = ImageDraw.Draw(image)
            pen.rectangle((left, 60, left + 90, 180), fill="white", outline="black", width=8)
        assert confirm(fingerprint(scene[0]), fingerprint(scene[1])) is None


def test_the_same_shape_in_another_colour_is_another_picture() -> None:
    light = photo(6).convert("L")
    tints = [(110, 150), (150, 110)]  # of Cb and Cr; 128 is grey
    tinted = [
        Image.merge("YCbCr", (light, *(Image.new("L", light.size, level) for level in tint)))
        for tint in tints
    ]
    brown, blue = (fingerprint(image.convert("RGB")) for image in tinted)
    assert confirm(brown, brown) is not None
    assert confirm(brown, blue) is None


def test_a_large_crop_is_another_picture() -> None:
    assert confirm(fingerprint(photo(7)), fingerprint(cropped(photo(7), 0.3, 0.3, 0, 0))) is None


def test_blank_pictures_are_no_copies_of_one_another() -> None:
    rng = np.random.default_rng(0)
    noisy = [255 - np.abs(rng.normal(0, 1.5, (90, 120, 3))) for _ in range(20)]
    prints = [fingerprint(Image.fromarray(pixels.astype(np.uint8))) for pixels in noisy]
    prints += [fingerprint(Image.new("RGB", (120, 90), (250 + i, 255, 255))) for i in range(5)]
    every = np.argwhere(np.tri(25, k=-1))
    assert near_duplicates(prints, every, 1).pairs == ()
    assert len(propose_by_hash(prints)) == 0


def form(seed: int) -> Image.Image:
    """A filled-in page: ruled lines and a logo that all pages share, words that differ."""
    rng = np.random.default_rng(seed)
    page = Image.new("RGB", (300, 420), "white")
    pen = ImageDraw.Draw(page)
    pen.rectangle((20, 15, 100, 45), fill=(20, 60, 140))
    for y in range(75, 400, 18):
        pen.line((20, y, 280, y), fill=(90, 90, 90), width=2)
    for y in range(75, 380, 18):
        for x in (25, 110, 200):
            if rng.random() < 0.7:
                pen.rectangle((x, y + 5, x + int(rng.integers(10, 70)), y + 12), fill="black")
    return page


def test_pages_of_one_template_are_not_copies_but_their_copies_are() -> None:
    pages = [form(seed) for seed in range(30)]
    copies = [saved(page, 60) for page in pages[:10]]
    prints = [fingerprint(image) for image in pages + copies]
    found = near_duplicates(prints, propose_by_hash(prints), 1)
    assert {(p.first, p.second) for p in found.pairs} == {(i, 30 + i) for i in range(10)}


def test_tiny_pictures_are_not_all_copies() -> None:
    from sklearn.datasets import load_digits

    digits = [
        Image.fromarray((x * 15.9).astype(np.uint8)).convert("RGB") for x in load_digits().images
    ]
    prints = [fingerprint(image) for image in digits[:600]]
    assert near_duplicates(prints, propose_by_hash(prints), 2).pairs == ()
    twice = prints[:50] + [fingerprint(saved(image, 80)) for image in digits[:50]]
    pairs = np.stack([np.arange(50), np.arange(50, 100)], axis=1)
    assert len(near_duplicates(twice, pairs, 1).pairs) >= 45


def test_where_strangers_look_alike_only_the_clearest_copies_count() -> None:
    from sklearn.datasets import load_digits

    digits = [
        Image.fromarray((x * 15.9).astype(np.uint8)).convert("RGB").resize((64, 64))
        for x in load_digits().images[:500]
    ]
    prints = [fingerprint(image) for image in digits + [saved(image, 70) for image in digits[:30]]]
    found = near_duplicates(prints, propose_by_hash(prints, 2), 2)
    planted = {(i, 500 + i) for i in range(30)}
    got = {(p.first, p.second) for p in found.pairs}
    assert planted <= got
    assert len(got - planted) <= 5  # 1 % of the images
    assert "only the clearest" in found.sentence


def test_a_component_too_large_to_be_true_is_set_apart_and_said() -> None:
    many = [fingerprint(saved(photo(0), quality)) for quality in range(60, 75)]
    pair = [fingerprint(photo(1)), fingerprint(saved(photo(1)))]
    prints = many + pair
    chain = np.array([(i, i + 1) for i in range(14)] + [(15, 16)])
    found = near_duplicates(prints, chain, 1)
    assert found.components == ((15, 16),)
    assert found.untrusted == (tuple(range(15)),)
    assert "15 of 17 images" in found.sentence


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=25))
def test_components_are_those_of_graph_theory(edges: list[tuple[int, int]]) -> None:
    edges = [(a, b) for a, b in edges if a != b]
    got = near._components([NearPair(a, b, "copy", 1.0) for a, b in edges])
    rows, columns = zip(*edges, strict=True) if edges else ((), ())
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(20, 20))
    labels = connected_components(graph, directed=False)[1]
    groups = {tuple(np.flatnonzero(labels == k).tolist()) for k in labels.tolist()}
    assert set(got) == {group for group in groups if len(group) > 1}


def test_the_hash_compares_all_eight_symmetries_at_once() -> None:
    prints = [fingerprint(photo(seed)) for seed in range(6)]
    plain, turned = near._hashes(prints)
    whole = slice(0, 6)
    best = np.maximum(
        near._mirrored(plain, plain, whole, whole), near._mirrored(plain, turned, whole, whole)
    )
    frequency = np.hypot(*np.indices((8, 8)))

    def reference(picture: np.ndarray) -> np.ndarray:
        numbers = (dctn(picture, norm="ortho")[:8, :8] * frequency).ravel()
        return numbers / np.linalg.norm(numbers)

    grey = [np.frombuffer(p.grey, np.uint8).reshape(SIDE_PX, SIDE_PX).astype(float) for p in prints]
    for i, a in enumerate(grey):
        for j, b in enumerate(grey):
            each = [reference(a) @ reference(in_symmetry(b, s)) for s in range(SYMMETRIES)]
            assert best[i, j] == pytest.approx(max(each), abs=1e-4)


@pytest.mark.parametrize("n", [1, 2, 300, 2500])
def test_nearest_pairs_are_those_of_the_whole_table(n: int) -> None:
    points = np.random.default_rng(n).normal(size=(n, 8)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    table = np.triu(points @ points.T, 1)
    got = nearest_pairs(lambda rows, columns: points[rows] @ points[columns].T, n, 3, 0.8, 2)
    want = set()
    for i, row in enumerate(table):
        best = np.argsort(-row)[:3]
        want |= {(i, int(j)) for j in best if row[j] > 0.8}
    assert set(map(tuple, got.tolist())) == want


def test_a_fingerprint_is_small_whole_and_leaves_the_picture_alone() -> None:
    image = photo(8, 1200, 900)
    before = image.tobytes()
    made = fingerprint(image)
    assert image.tobytes() == before
    assert made == fingerprint(image.copy())
    assert len(made.grey) + len(made.chroma) < 4_500  # 100,000 images: 450 MB
    assert isinstance(made, Fingerprint)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (8, 8), (3, 2), (5000, 40)])
def test_any_size_has_a_fingerprint(size: tuple[int, int]) -> None:
    made = fingerprint(Image.new("RGB", size, "green"))
    assert len(made.grey) == SIDE_PX**2
    assert made.detail_px == min(SIDE_PX, *size)
    assert confirm(made, made) is None  # one colour is no evidence
