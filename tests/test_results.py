"""The model card: it says of every strategy what became of the network, and nothing hostile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from headstart.judge.calibration import Temperature
from headstart.judge.evaluate import evaluate, resolvable
from headstart.results import with_background
from headstart.ship.model_card import model_card

STAGES = ["stem", "b0", "head"]


def card(
    strategy: str,
    *,
    source: str = "package x",
    fit: str = "crop",
    temperature: Temperature | None = None,
    **more: Any,
) -> str:
    """The card of a model of two classes, judged on three images."""
    description: dict[str, Any] = {
        "classes": ["ants", "bees"],
        "backbone": {"name": "lite0", "source": source, "licence": "apache-2.0"},
        "strategy": strategy,
        "cut": "b0" if strategy == "head_cut" else None,
        "case": None,
        "stages": {"kept": STAGES, "removed": []},
        "preprocess": {"size_px": 160, "resize_px": 182, "fit": fit, "mean": [0.5], "std": [0.5]},
        "temperature": 1.0,
    }
    p = [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]
    found = evaluate(p, [0, 1, 1], ["ants", "bees"], "test part", temperature=temperature)
    measured = SimpleNamespace(n=245, similarity=SimpleNamespace(sentence="Like the source."))
    return model_card(description | more, found, measured)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["head_top", "head_cut", "all_stages"])
def test_a_frozen_network_is_called_frozen(strategy: str) -> None:
    said = card(strategy)
    assert "lite0, frozen, weights from package x; licence" in said
    assert "- Strategy: new head on " in said and strategy not in said


@pytest.mark.parametrize("kept", [True, False])
def test_the_confidence_is_said_to_be_corrected_only_where_it_was(kept: bool) -> None:
    reason = "Its confidence is left as it is." if kept else "It was too sure of itself."
    said = card("head_top", temperature=Temperature(1.0, 0.5, 0.4, kept, reason))
    assert f"normalisation are inside. {reason}" in said
    assert "alibrated" not in said
    assert "onfidence" not in card("head_top")


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (0.91, "the best candidate 90.0%: pre-training adds nothing here."),
        (0.90, "the best candidate 90.0%: pre-training adds nothing here."),
        (0.88, "the best candidate 90.0%: too close to tell any gain from pre-training."),
        (0.80, "; the best candidate reaches 90.0%."),
    ],
)
def test_a_near_baseline_is_told_from_a_better_one(baseline: float, words: str) -> None:
    probe = SimpleNamespace(score=baseline, se=0.03, seconds=0.1)
    behind: Any = SimpleNamespace(
        baselines=(SimpleNamespace(name="colours", probe=probe),),
        resolution=SimpleNamespace(
            sentence="Sharp.", effective_px=9, low=8, high=10, network_px=224
        ),
        evidence=None,
        control=None,
    )
    plan = {"candidates": [{"score": 0.9}], "metric": "accuracy", "reasons": []}
    (_, told) = with_background(plan, behind)["reasons"]
    assert told.startswith("Without any network, colours reach") and told.endswith(words)


@pytest.mark.parametrize(
    ("strategy", "source", "words"),
    [
        (
            "finetune",
            "fine-tuned from package x",
            "every layer re-trained: fine-tuned from package",
        ),
        ("scratch", "random weights, not from package x", "every layer trained: random weights"),
    ],
)
def test_a_trained_network_is_not(strategy: str, source: str, words: str) -> None:
    said = card(strategy, source=source)
    assert words in said and "frozen" not in said
    words = {
        "finetune": "whole network re-trained",
        "scratch": "whole network trained from scratch",
    }
    assert f"- Strategy: {words[strategy]};" in said and "weights: apache-2.0" in said


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ("crop", "the shorter side becomes 182 px and the centre is cut out"),
        ("pad", "the whole image is seen, with a border"),
        ("squash", "the whole image is seen, squeezed"),
    ],
)
def test_the_input_is_described(fit: str, words: str) -> None:
    assert f"- Input: 160 x 160 px; {words}" in card("head_top", fit=fit)


def test_it_says_which_differences_cannot_be_seen() -> None:
    assert resolvable(3, 2 / 3).sentence in card("head_top")


def test_a_hostile_source_is_text() -> None:
    said = card("finetune", source="<b>{0} [x](http://evil) @you")
    assert "&lt;b&gt;\\{0\\} \\[x\\]\\(http\\://evil\\) \\@you" in said
