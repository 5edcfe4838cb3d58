"""Further looks follow from the budget and what the user fixed, never from a clock."""

from __future__ import annotations

from typing import Any

import pytest

from headstart.plan.views import MIRRORED_UP_TO, MOST_IMAGES, Views, choose_views


def views(n: int = 500, oblong: bool = True, **changed: Any) -> Views:
    sides = [(300, 200) if oblong else (256, 256)] * n
    settings: dict[str, Any] = {
        "size_px": 224,
        "macs": 400_000_000,
        "budget_min": 10.0,
        "processors": 2,
        "fixed_size": False,
        "fixed_fit": False,
    }
    return choose_views(sides, **(settings | changed))


def names(found: Views) -> list[str]:
    return [view.name for view in found.chosen]


def test_time_buys_every_look_and_none_buys_none() -> None:
    assert names(views()) == ["squash", "pad", "288px", "mirror"]
    nothing = views(budget_min=0.0)
    assert (nothing.chosen, nothing.spreads) == ((), False)


def test_square_images_are_squashed_but_not_padded() -> None:
    assert names(views(oblong=False)) == ["squash", "288px", "mirror"]


@pytest.mark.parametrize(
    ("fixed", "left"),
    [("fixed_size", ["squash", "pad", "mirror"]), ("fixed_fit", ["288px", "mirror"])],
)
def test_what_the_user_fixed_is_not_varied(fixed: str, left: list[str]) -> None:
    assert names(views(**{fixed: True})) == left


def test_what_does_not_fit_the_budget_is_said() -> None:
    found = views(n=15_000, budget_min=6.0)
    assert names(found) == ["squash"]
    assert len(found.left_out) == 2
    assert "do not fit the budget" in found.left_out[0]


def test_many_images_are_not_mirrored() -> None:
    assert names(views(n=MIRRORED_UP_TO))[-1] == "mirror"
    assert "mirror" not in names(views(n=MIRRORED_UP_TO + 1, budget_min=600.0))


def test_a_very_large_set_is_looked_at_once() -> None:
    found = views(n=MOST_IMAGES + 1)
    assert found.chosen == () and not found.spreads and found.left_out
