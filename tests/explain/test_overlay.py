"""Heat lands on the pixels that it was computed from, whatever the picture's sides and the fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.data.images import Preprocess, fit_pixels
from headstart.explain.overlay import lay_over, on_picture, ramp_picture, seen_part

SIDES = [(64, 64), (200, 80), (80, 200), (333, 100), (101, 97), (1, 60), (60, 1), (640, 480)]
FITS = ["crop", "pad", "squash"]


def pre(fit: Any, size: int = 64, resize: int = 73) -> Preprocess:
    resize += (resize - size) % 2
    return Preprocess(size_px=size, resize_px=resize, fit=fit, mean=(0.5,) * 3, std=(0.5,) * 3)


def places(width: int, height: int) -> Image.Image:
    """A picture whose red is the place across and whose green is the place down."""
    x = np.broadcast_to(np.linspace(20, 235, width)[None], (height, width))
    y = np.broadcast_to(np.linspace(20, 235, height)[:, None], (height, width))
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1).round().astype(np.uint8))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), [s for s in SIDES if min(s) > 1])
def test_the_seen_part_is_where_the_loaders_pixels_come_from(
    fit: str, width: int, height: int
) -> None:
    found = fit_pixels(places(width, height), p := pre(fit)).astype(float)
    seen = seen_part(width, height, p)
    (x0, y0, x1, y1), (u0, v0, u1, v1) = seen.picture, seen.square
    for axis, (start, end, first, last, side) in enumerate(
        [(x0, x1, u0, u1, width), (y0, y1, v0, v1, height)]
    ):
        at = np.arange(int(first) + 3, int(last) - 3)
        there = start + (at + 0.5 - first) / (last - first) * (end - start)
        shade = 20 + 215 * (there - 0.5) / (side - 1)
        middle = int((v0 + v1) / 2) if axis == 0 else int((u0 + u1) / 2)
        line = found[middle, at, 0] if axis == 0 else found[at, middle, 1]
        assert np.abs(line - shade).max() < 1.5  # grey levels; both are rounded once or twice


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), SIDES)
def test_every_seen_pixel_has_heat_and_every_other_none(fit: str, width: int, height: int) -> None:
    p = pre(fit)
    found = on_picture(np.ones((4, 4), np.float32), width, height, p)
    assert found.shape == (height, width)
    seen = np.isfinite(found)
    assert (found[seen] == 1).all()
    x0, y0, x1, y1 = seen_part(width, height, p).picture
    assert seen.sum() == pytest.approx((x1 - x0) * (y1 - y0), abs=width + height)
    if fit != "crop":
        assert seen.all()


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(("width", "height"), [(64, 64), (200, 80), (80, 200), (640, 480)])
def test_a_bright_spot_and_the_heat_that_it_causes_lie_on_each_other(
    fit: str, width: int, height: int
) -> None:
    p = pre(fit)
    spot = np.zeros((height, width, 3), np.uint8)
    y, x = int(height * 0.42), int(width * 0.55)
    r = max(2, min(width, height) // 20)
    spot[y - r : y + r, x - r : x + r] = 255
    seen = fit_pixels(Image.fromarray(spot), p).astype(np.float32)[..., 0]
    seen[seen < 200] = 0  # the border of a padded picture is grey
    back = np.nan_to_num(on_picture(seen, width, height, p))
    weight = back / back.sum()
    middle = (
        ((np.arange(width) + 0.5) * weight.sum(0)).sum(),
        ((np.arange(height) + 0.5) * weight.sum(1)).sum(),
    )
    unit = max(width, height) / p.size_px
    assert np.abs(np.array(middle) - (x, y)).max() < 0.35 * max(1.0, unit)


def test_between_positions_it_is_linear_and_at_the_rim_constant() -> None:
    heat = np.array([[0, 1]], np.float32).repeat(2, axis=0)
    found = on_picture(heat, 8, 8, pre("squash", size=8, resize=8))
    assert found[0].tolist() == pytest.approx([0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])


@pytest.mark.parametrize("fit", FITS)
def test_strips_of_rows_are_those_of_the_whole(fit: str) -> None:
    heat = np.random.default_rng(0).random((7, 7)).astype(np.float32)
    p = pre(fit)
    whole = on_picture(heat, 90, 200, p)
    strips = [on_picture(heat, 90, 200, p, (top, top + 40)) for top in range(0, 200, 40)]
    assert np.array_equal(np.concatenate(strips), whole, equal_nan=True)


def test_the_picture_keeps_its_size_and_the_unseen_is_dark_and_grey() -> None:
    heat = np.zeros((2, 2), np.float32)
    heat[0, 0] = 1
    picture = Image.new("RGB", (300, 520), (40, 180, 90))
    out = np.asarray(lay_over(picture, heat, pre("crop")))
    assert out.shape == (520, 300, 3)
    rim, hot, cold = out[0, 150], out[135, 40], out[370, 260]
    assert np.ptp(rim.astype(int)) == 0 and rim[0] < 100
    assert hot[0] > 200  # yellow
    assert cold[1] > cold[0] and cold[1] > cold[2]  # still green


def test_the_ramp_grows_lighter_all_the_way() -> None:
    grey = np.asarray(ramp_picture().convert("L")).astype(int)[0]
    assert (np.diff(grey) >= 0).all() and grey[-1] - grey[0] > 150
