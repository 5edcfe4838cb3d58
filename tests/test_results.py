"""The model card: it says of every strategy what became of the network, and nothing hostile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from headstart.judge.evaluate import evaluate, resolvable
from headstart.ship.model_card import model_card

STAGES = ["stem", "b0", "head"]


def card(strategy: str, *, source: str = "package x", fit: str = "crop", **more: Any) -> str:
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
    found = evaluate([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [0, 1, 1], ["ants", "bees"], "test part")
    measured = SimpleNamespace(n=245, similarity=SimpleNamespace(sentence="Like the source."))
    return model_card(description | more, found, measured)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["head_top", "head_cut", "all_stages"])
def test_a_frozen_network_is_called_frozen(strategy: str) -> None:
    assert "lite0, frozen, weights from package x; licence" in card(strategy)


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
    assert f"- Strategy: {strategy}" in said and "licence of the weights: apache-2.0" in said


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
