"""A surgery is the same after it was stored, and nonsense is no surgery."""

from __future__ import annotations

import json
from typing import Any

import pytest

from headstart.backbone.graph import StageInfo
from headstart.explain.stored import surgery_json, surgery_of_json
from headstart.explain.surgery_diagram import draw_surgery, plan_surgery

STAGES = (
    StageInfo("stem", 8, 16, 100, 1, ()),
    StageInfo("b0", 16, 8, 300, 2, ()),
    StageInfo("head", 32, 1, 900, 3, ()),
)


@pytest.mark.parametrize("strategy", ["head_top", "all_stages", "finetune", "scratch"])
def test_a_stored_surgery_draws_the_same(strategy: Any) -> None:
    surgery = plan_surgery(STAGES, strategy, None, 3, input_px=32, classifier=(10, 330))
    again = surgery_of_json(json.loads(json.dumps(surgery_json(surgery))))
    assert again == surgery
    assert draw_surgery(again) == draw_surgery(surgery)


@pytest.mark.parametrize(
    "stored", [{}, {"head": 3}, {"blocks": [{}], "head": None}, {"title": "x", "blocks": None}]
)
def test_nonsense_is_no_surgery(stored: dict[str, Any]) -> None:
    assert surgery_of_json(stored) is None
