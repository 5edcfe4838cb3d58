from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from headstart.errors import ArgumentError
from headstart.explain.quadrants import CASES, draw_quadrants

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("case", [None, 1, 2, 3, 4])
def test_all_four_cases_stand_in_their_places_and_the_chosen_one_is_marked(
    case: int | None,
) -> None:
    root = ET.fromstring(draw_quadrants(case))
    numbers = {
        int(t.text or 0): (float(t.get("x", 0)), float(t.get("y", 0)))
        for t in root.iter(f"{SVG}text")
        if t.get("font-size") == "30"
    }
    assert set(numbers) == {1, 2, 3, 4}
    assert numbers[1][1] == numbers[2][1] < numbers[3][1] == numbers[4][1]  # small above large
    assert numbers[1][0] == numbers[3][0] < numbers[2][0] == numbers[4][0]  # similar on the left
    thick = [r for r in root.iter(f"{SVG}rect") if r.get("stroke-width") == "2.5"]
    assert len(thick) == (case is not None)
    words = " ".join(t.text or "" for t in root.iter(f"{SVG}text"))
    for lines in CASES.values():
        assert all(line in words for line in lines)
    if case is not None:
        left, top = float(thick[0].get("x", 0)), float(thick[0].get("y", 0))
        x, y = numbers[case]
        assert 0 < x - left < 60 and 0 < y - top < 92
        assert f"case {case} chosen" in root.findtext(f"{SVG}title", "")


def test_there_is_no_fifth_case() -> None:
    with pytest.raises(ArgumentError, match="four cases"):
        draw_quadrants(5)
