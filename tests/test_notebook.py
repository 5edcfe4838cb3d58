"""What a notebook shows is text, whatever files and classes are called."""

from __future__ import annotations

import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

import headstart
from headstart.notebook import table
from headstart.run import read_json, write_json
from headstart.ship.predict import Prediction
from runs import bright_or_dark

EVIL = "<img src=x onerror=alert(1)>"
ALLOWED = {"table", "thead", "tbody", "tr", "th", "td", "p"}


class Tags(HTMLParser):
    """Every tag of a text, and whether one has an attribute."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert attrs == []
        self.found.add(tag)


def safe(shown: str) -> str:
    """The text, once it is known to hold nothing but plain tables."""
    assert Tags(shown).found <= ALLOWED
    assert shown.isprintable()
    return shown


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, toy_cache: Path) -> headstart.Result:
    patch = pytest.MonkeyPatch()
    patch.setenv("HEADSTART_CACHE", str(toy_cache))
    folder = tmp_path_factory.mktemp("notebook")
    data = bright_or_dark(folder / "data", {EVIL.replace("/", ""): 12, "\u202edark": 12})
    found = headstart.fit(data, out=folder / "run", budget=0, case=1, report=False)
    patch.undo()
    return found


def test_a_fitted_run_shows_its_decision_and_its_scores(fitted: headstart.Result) -> None:
    shown = safe(fitted._repr_html_())
    plan, value = fitted.plan, fitted.score("accuracy")[0]
    assert plan["chosen"] in shown and f"{value:.3f}" in shown
    assert "95 % interval" in shown and str(fitted.folder) in shown


def test_hostile_class_names_are_text_of_the_model_and_its_answers(
    fitted: headstart.Result,
) -> None:
    model = fitted.model
    shown = safe(model._repr_html_())
    assert "&lt;img src=x" in shown and "\\u202edark" in shown
    answers = list(model.predict(fitted.folder.parent / "data"))
    for answer in answers:
        safe(answer._repr_html_())
    assert any("&lt;img src=x" in answer._repr_html_() for answer in answers)
    broken = Prediction(EVIL, None, None, None, EVIL)
    assert "error" in safe(broken._repr_html_())
    sure = Prediction("a.jpg", EVIL, 0.9, (0.9, 0.1), None, (EVIL, "b"), True)
    assert "<td>yes</td>" in safe(sure._repr_html_())


def test_a_judged_model_and_a_comparison_show_theirs(
    fitted: headstart.Result, tmp_path: Path
) -> None:
    shutil.copy(fitted.folder / "evaluation.json", tmp_path)
    stored = read_json(tmp_path / "evaluation.json")
    stored["sites"] = {"sentence": EVIL}
    stored["subgroups"] = [{"sentence": EVIL}, 3]
    stored["metrics"].append({"name": EVIL, "value": None})
    write_json(tmp_path / "evaluation.json", stored)
    assert safe(headstart.Evaluated(tmp_path)._repr_html_()).count("&lt;img") == 3
    row = {"name": EVIL, "case": 1, "score": -0.5, "low": -0.6, "high": -0.4, "seconds": 3.14}
    compared = {"metric": "log_loss", "sentence": EVIL, "rows": [row, 4, {"score": "x"}]}
    write_json(tmp_path / "compare.json", compared)
    shown = safe(headstart.Compared(tmp_path)._repr_html_())
    assert "0.400 to 0.600" in shown and "3.1 s" in shown  # a log loss is read without its sign


def test_a_plan_is_still_a_dictionary(fitted: headstart.Result) -> None:
    found = headstart.Decided(fitted.plan)
    assert found["case"] == fitted.plan["case"] and isinstance(found, dict)
    assert "Rule of thumb: case" in safe(found._repr_html_())
    assert "Rule of thumb" in safe(headstart.Decided({"reasons": EVIL})._repr_html_())


def test_a_run_that_failed_can_be_shown_too(tmp_path: Path) -> None:
    for kind in (headstart.Result, headstart.Evaluated, headstart.Compared):
        safe(kind(tmp_path)._repr_html_())
    assert "No scores are stored" in headstart.Evaluated(tmp_path)._repr_html_()


def test_long_tables_are_cut_and_say_so() -> None:
    shown = safe(table(["n"], [[i] for i in range(100)]))
    assert shown.count("<tr>") == 13 and "and 88 more" in shown
