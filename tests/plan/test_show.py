"""The decision and the result on the terminal: plain, short, and safe to print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headstart.plan.show import check_text, fit_text, plan_text

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
    "size": {
        "n": 400,
        "per_class": {"a": 200, "b": 200},
        "small_below": 1000,
        "large_above": 10_000,
        "verdict": "small",
    },
    "similarity": {
        "verdict": "unclear",
        "bn_shift": 0.52,
        "low": 0.44,
        "high": 0.58,
        "thresholds": {"similar_below": 0.5, "different_from": 0.55},
    },
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
    "classes": ["a", "b"],
    "confusion": [[40, 5], [5, 50]],
}


def drawn(**similarity: Any) -> list[str]:
    """The lines of the plane, without the axis of the shift."""
    plan = PLAN | {"similarity": PLAN["similarity"] | similarity}
    lines = [line.partition("│")[2] for line in plan_text(plan).splitlines() if "│" in line]
    assert len(lines) == 13
    return lines


def test_the_plan_marks_the_cases_of_the_rule() -> None:
    top, *_, bottom = drawn()
    assert top.startswith("▶ 2 early stages") and "  4 from scratch" in top
    assert bottom.startswith("▶ 1 new head") and "  3 fine-tune" in bottom


@pytest.mark.parametrize(
    ("shift", "lines"), [(0.0, [12]), (0.49, [8]), (0.5, [6]), (0.54, [6]), (0.56, [4]), (3.0, [1])]
)
def test_the_data_set_lies_on_its_side_of_the_thresholds(shift: float, lines: list[int]) -> None:
    plane = drawn(bn_shift=shift, low=shift, high=shift)
    assert [at for at, line in enumerate(plane) if "●" in line] == lines
    assert [at for at, line in enumerate(plane) if "┈" in line] == [5, 7]


def test_the_interval_is_drawn_through_every_zone_it_reaches() -> None:
    plane = drawn()
    assert [at for at, line in enumerate(plane) if "┃" in line or "●" in line] == [4, 5, 6, 7, 8]
    assert "●" in plane[6]
    assert "● your images: 400 images to learn from (small), shift 0.52 [0.44, 0.58] (unclear)" in (
        plan_text(PLAN)
    )


@pytest.mark.parametrize("n", [2, 400, 10**7])
def test_without_a_shift_or_thresholds_the_size_is_still_shown(n: int) -> None:
    unknown = dict.fromkeys(("bn_shift", "low", "high", "thresholds"))
    size = PLAN["size"] | {"n": n}
    text = plan_text(PLAN | {"size": size, "similarity": PLAN["similarity"] | unknown})
    plane = [line for line in text.splitlines() if "│" in line]
    assert len(plane) == 13 == sum("┃" in line for line in plane)
    assert "┈" not in text and "shift not measured" in text


def test_the_control_greys_what_random_weights_reach_too() -> None:
    control = [{"stage": "stem", "score": 0.3}, {"stage": "head", "score": 0.95}]
    said = {"depth_control": control, "depth_control_sentence": "Random weights reach 95 %."}
    lines = plan_text(PLAN | said).splitlines()
    stem = next(line for line in lines if line.split()[:1] == ["stem"])
    head = next(line for line in lines if line.split()[:1] == ["head"])
    assert (stem.count("▒"), stem.count("█")) == (12, 8)
    assert (head.count("▒"), head.count("█")) == (36, 0)
    assert "Random weights reach 95 %." in lines


def test_a_log_loss_is_told_without_its_sign_and_drawn_from_guessing() -> None:
    rows = [ROW | {"stage": "stem", "score": -1.2}, ROW | {"stage": "head", "score": -0.3}]
    plan = PLAN | {"metric": "log_loss", "chance": -1.2, "depth_curve": rows}
    lines = plan_text(plan | {"all_stages": ROW | {"score": -0.6}}).splitlines()
    bars = {line.split()[0]: (line.split()[1], line.count("█")) for line in lines if "±" in line}
    assert bars == {"stem": ("1.200", 0), "head": ("0.300", 30), "all": ("0.600", 20)}
    assert next(line for line in lines if "best" in line).split()[0] == "head"


def test_near_duplicates_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    pair = {"paths": ["a", "b"], "kind": "turned", "score": 1.0, "conflict": True, "leak": True}
    rest = (
        "unreadable",
        "ignored",
        "duplicates",
        "label_conflicts",
        "leaks",
        "source_overlap",
        "notes",
    )
    empty: dict[str, Any] = {key: [] for key in rest}
    text = check_text(
        tmp_path,
        {"n": 2, "counts": [{"class": "x", "total": 2}], "near_duplicates": [pair], **empty},
    )
    assert "a ~ b (turned, two labels, both sides of your split)" in text


def test_a_class_that_imagenet_may_hold_says_what_of_it() -> None:
    keys = ("unreadable", "ignored", "label_conflicts", "leaks", "notes", "near_duplicates")
    data: dict[str, Any] = {key: [] for key in keys}
    data |= {"n": 2, "counts": [{"class": "wolves", "total": 2}], "duplicates": [["a", "b"]] * 3}
    data["source_overlap"] = [{"class": "wolves", "source": "timber wolf", "share": 0.67}]
    text = check_text(Path("run"), data)
    assert (
        "1 class that ImageNet, the network's training data, may hold already (scores may flatter):"
        "\n  wolves ~ timber wolf (67 %)\n"
    ) in text
    assert "3 pictures stored more than once:\n  a = b" in text


def test_corrected_labels_are_given_back_with_the_whole_command(tmp_path: Path) -> None:
    scores = SCORES | {"suggestions": {"listed": 3}}
    command = "headstart fit photos --group re:x --relabel run/corrected.csv"
    assert (
        f"look at: {tmp_path}/suggestions.csv (correct `label`, save it as corrected.csv; then: "
        f"{command})"
    ) in fit_text(tmp_path, PLAN, scores, command).splitlines()


POINT = {
    "name": "b",
    "target": {"rate": "sensitivity", "value": 0.9},
    "refused": False,
    "prevalence": None,
    "sentence": "Call it b from a probability of 0.3 on.",
}


@pytest.mark.parametrize(
    ("metric", "share", "told"),
    [
        ("accuracy", None, False),
        ("auc", None, False),
        ("auc:b", None, True),
        ("sens@spec=0.9", None, True),
        ("accuracy", 0.01, True),
    ],
)
def test_a_threshold_is_told_to_those_who_asked_for_one(
    tmp_path: Path, metric: str, share: float | None, told: bool
) -> None:
    points = [POINT | {"prevalence": share}, POINT | {"name": "a"}]
    text = fit_text(tmp_path, PLAN | {"metric": metric}, SCORES | {"operating": points})
    assert (POINT["sentence"] in text.splitlines()) is told


@pytest.mark.parametrize(
    ("smallest", "advice"),
    [
        (4, "next:    label more images (30 or more per class), then fit again"),
        (30, "next:    look at some images of every class: can a person tell them apart?"),
    ],
)
def test_what_cannot_be_learned_is_said_before_any_score(smallest: int, advice: str) -> None:
    size = PLAN["size"] | {"n": 50, "per_class": {"a": smallest, "b": 30}}
    scores = SCORES | {"suggestions": {"listed": 3}}
    text = fit_text(Path("run"), PLAN | {"learnable": False, "size": size}, scores)
    first, second, *_, last = filter(None, text.splitlines())
    assert first.startswith("! These 50 images cannot show whether anything was learned")
    assert first.endswith("The scores below may be luck.")
    assert second.startswith("Trained: ")
    assert last == advice
    for contradiction in ("stays", "rule of thumb", "predict", "suggestions"):
        assert contradiction not in text


def test_the_result_says_which_differences_cannot_be_seen(tmp_path: Path) -> None:
    sentence = "On 100 images, a difference of less than 9 points may well go unseen."
    scores = SCORES | {"resolvable": {"points": 9.0, "sentence": sentence}}
    assert sentence in fit_text(tmp_path, PLAN, scores).splitlines()


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


def test_a_class_that_is_never_recognised_is_named(tmp_path: Path) -> None:
    scores = SCORES | {
        "classes": ["a", "b\x1b", "c"],
        "confusion": [[5, 0, 0], [1, 0, 6], [0, 0, 0]],
    }
    text = fit_text(tmp_path, PLAN, scores)
    assert "No image of b\\x1b was recognised (0 of 7); most were taken for c." in text
    assert text.count("was recognised") == 1  # of c there was no image
