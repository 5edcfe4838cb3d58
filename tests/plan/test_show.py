"""The decision and the result on the terminal: plain, short, and safe to print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headstart.plan.show import fit_text, plan_text

ROW = {"width": 8, "score": 0.5, "se": 0.01, "train_score": 0.6}
PLAN: dict[str, Any] = {
    "case_prior": [1, 2],
    "case": 1,
    "strategy": "head_top",
    "cut": None,
    "chosen": "head_top",
    "forced": None,
    "reasons": ["400 images to learn from: small.", "BatchNorm shift 0.52: unclear."],
    "switch": ["all_stages against head_top: not enough: head_top stays."],
    "flips_if": ["600 more images would make the set medium-sized."],
    "depth_curve": [ROW | {"stage": "stem"}, ROW | {"stage": "head", "score": 0.9}],
    "all_stages": ROW | {"score": 0.9},
    "metric": "accuracy",
    "chance": 0.25,
    "learnable": True,
}
SCORES: dict[str, Any] = {
    "n": 100,
    "protocol": "given test part",
    "metrics": [
        {"name": "log_loss", "value": 0.2, "low": 0.1, "high": 0.3},
        {"name": "accuracy", "value": 0.9, "low": 0.85, "high": 0.94},
        {"name": "auc", "value": None, "low": None, "high": None},
    ],
}


def test_the_plan_marks_its_place_among_the_four_cases() -> None:
    lines = plan_text(PLAN).splitlines()
    small = next(line for line in lines if line.startswith("  small"))
    large = next(line for line in lines if line.startswith("  large"))
    assert small.count("▶") == 2
    assert "▶" not in large


def test_the_plan_says_every_number_once() -> None:
    text = plan_text(PLAN)
    for sentence in (*PLAN["reasons"], *PLAN["flips_if"]):
        assert text.count(sentence) == 1


def test_one_stage_is_marked_best_also_when_two_tie() -> None:
    marked = [line for line in plan_text(PLAN).splitlines() if "best" in line]
    assert len(marked) == 1
    assert marked[0].split()[0] == "head"


def test_bars_are_as_long_as_their_scores() -> None:
    lines = plan_text(PLAN).splitlines()
    bars = {line.split()[0]: line.count("█") for line in lines if "±" in line}
    assert bars == {"stem": 20, "head": 36, "all": 36}


def test_the_result_says_what_was_done_how_good_it_is_and_what_is_next(tmp_path: Path) -> None:
    text = fit_text(tmp_path / "my run", PLAN, SCORES)
    assert "Trained: a new head on the whole network, frozen (case 1)." in text
    assert "The rule of thumb said case 1 or 2, and the data agree:" in text
    assert "On 100 test images, with 95 % intervals:" in text
    assert "accuracy           0.900  [0.850, 0.940]" in text
    assert "AUC                undefined" in text
    assert "log loss" not in text
    assert "report:" not in text
    assert text.endswith(f"next:    headstart predict '{tmp_path}/my run' photo.jpg")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strategy": "head_cut", "cut": "b2", "case": 2, "case_prior": [2]}, "cut after stage b2"),
        ({"strategy": "all_stages", "case": None}, "(none of the four cases)"),
        ({"case_prior": [2]}, "said case 2; the data decided:"),
        ({"forced": "--case 1"}, "said case 1 or 2; --case 1 was given."),
        ({"learnable": False}, "Not learnable: no stage beats guessing"),
        ({"metric": "balanced_accuracy"}, "Balanced accuracy drives every choice"),
    ],
)
def test_the_result_says_what_is_special(change: dict[str, Any], said: str) -> None:
    assert said in fit_text(Path("run"), PLAN | change, SCORES)


def test_nothing_that_a_terminal_obeys_is_printed() -> None:
    evil = "\x1b[2Jevil\u202e"
    plan = PLAN | {
        "reasons": [evil],
        "flips_if": [evil],
        "switch": [evil],
        "forced": evil,
        "cut": evil,
        "strategy": "head_cut",
        "depth_curve": [ROW | {"stage": evil}],
    }
    for text in (plan_text(plan), fit_text(Path(evil), plan, SCORES)):
        assert all(character.isprintable() or character == "\n" for character in text)
