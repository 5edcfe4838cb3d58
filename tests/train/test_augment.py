from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from headstart.errors import ArgumentError
from headstart.train.augment import (
    OPERATIONS,
    Augment,
    centre,
    mixed,
    order,
    parse_augment,
    partner,
    view,
)


def photo(side_px: int = 40, seed: int = 0) -> NDArray[np.uint8]:
    """A left-right, up-down asymmetric picture."""
    y, x = np.mgrid[:side_px, :side_px] / side_px
    rng = np.random.default_rng(seed)
    picture = np.stack([x, y, 0.5 * x * y], 2) * 200 + rng.uniform(0, 20, (side_px, side_px, 3))
    return picture.astype(np.uint8)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_view_is_a_function_of_seed_epoch_and_index(operation: str) -> None:
    augment = Augment((operation,))
    views = [view(photo(), augment, 32, 3, epoch, 7) for epoch in (5, 5, 6, 7, 8, 9, 10, 11, 12)]
    assert np.array_equal(views[0], views[1])
    assert any(not np.array_equal(views[0], other) for other in views[2:])
    assert all(v.shape == (32, 32, 3) and v.dtype == np.uint8 for v in views)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_making_a_view_leaves_image_and_generator_alone(operation: str) -> None:
    pixels = photo()
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    for epoch in range(8):
        view(pixels, Augment((operation,)), 32, 0, epoch, 0)
    assert np.array_equal(pixels, photo())
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]


def test_one_more_operation_does_not_move_the_others() -> None:
    for epoch in range(6):
        plain = view(photo(), Augment(("crop",)), 32, 0, epoch, 0)
        flipped = view(photo(), Augment(("crop", "flip")), 32, 0, epoch, 0)
        assert np.array_equal(plain, flipped) or np.array_equal(plain[:, ::-1], flipped)


def test_no_operation_is_what_the_network_sees_when_it_serves() -> None:
    assert np.array_equal(view(photo(), Augment(), 32, 0, 0, 0), photo()[4:36, 4:36])
    assert np.array_equal(centre(photo(33), 32), photo(33)[:32, :32])


def test_flips_and_quarter_turns_are_exact() -> None:
    pixels = photo(32)
    turns = {np.rot90(pixels, k).tobytes() for k in range(4)}
    seen = {view(pixels, Augment(("rotate90",)), 32, 0, e, 0).tobytes() for e in range(40)}
    assert seen == turns
    seen = {view(pixels, Augment(("flip",)), 32, 0, e, 0).tobytes() for e in range(20)}
    assert seen == {pixels.tobytes(), pixels[:, ::-1].tobytes()}


def test_crops_keep_the_share_of_the_area_that_was_asked_for() -> None:
    # Each pixel of this image tells its own column.
    columns = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3))
    rows = columns.transpose(1, 0, 2)
    for epoch in range(60):
        spans = []
        for picture in (columns, rows):
            seen = view(np.ascontiguousarray(picture), Augment(("crop",), 0.5), 100, 0, epoch, 1)
            spans.append((int(seen.max()) - int(seen.min()) + 1) / 200)
        assert spans[0] * spans[1] > 0.45


def test_a_picture_of_one_colour_stays_one_whatever_moves() -> None:
    flat = np.full((40, 40, 3), 90, np.uint8)
    moves = Augment(("crop", "flip", "flip_vertical", "rotate90", "rotate", "erase"))
    for epoch in range(20):
        assert (view(flat, moves, 32, 0, epoch, 0) == 90).all()


def test_mixing_keeps_the_share_it_tells() -> None:
    black, white = np.zeros((32, 32, 3), np.uint8), np.full((32, 32, 3), 255, np.uint8)
    shares = []
    for index in range(60):
        pixels, share = mixed(white, black, 0, 0, index)
        assert abs(pixels.mean() / 255 - share) < 0.01
        shares.append(share)
    assert min(shares) < 0.2 and max(shares) > 0.8


def test_an_epoch_shows_each_image_once_and_the_next_in_another_order() -> None:
    first, second = order(0, 0, 10, 10), order(0, 1, 10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)
    assert list(order(0, 0, 10, 4)) == list(first[:4])
    assert sorted(order(0, 0, 3, 6)) == [0, 0, 1, 1, 2, 2]


def test_partners_are_spread_over_the_images() -> None:
    assert {partner(0, 0, i, 5) for i in range(60)} == set(range(5))


def test_augment_is_auto_none_or_a_list() -> None:
    assert parse_augment("auto") is None
    assert parse_augment("none") == ()
    assert parse_augment("erase,Color, flip") == ("flip", "colour", "erase")
    with pytest.raises(ArgumentError, match="Did you mean rotate"):
        parse_augment("rotat")
