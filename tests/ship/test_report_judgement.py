"""What the report says of thresholds, people, parts of the images, doubt, pictures and more images."""

from __future__ import annotations

import importlib.util
import json
import os
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headstart.ship.chart_parts import record
from headstart.ship.judge_charts import judge_charts
from headstart.ship.page import cleaned
from headstart.ship.picture_charts import feature_map
from headstart.ship.report import render
from headstart.ship.report_judgement import facts, operating
from headstart.ship.report_pictures import pictures
from headstart.ship.report_use import fit_command


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


samples, judged = _load("report_samples"), _load("judge_samples")
CLASSES = ["cats", "dogs", "hamsters"]


class Words(HTMLParser):
    """The text of a page without its scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.blocks: dict[str, str] = {}
        self._raw = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._raw = (dict(attrs).get("id") or tag) if tag in ("script", "style") else ""
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw:
            self.blocks[self._raw] = self.blocks.get(self._raw, "") + data
        else:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).replace("\u00a0", " ").split())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run; the charts of data and plan are not drawn, for they take longer than all the words."""
    monkeypatch.setattr("headstart.ship.report.all_charts", lambda *_: {})
    folder: Path = samples.write_run(tmp_path / "my run", CLASSES)
    return folder


def naughty() -> list[str]:
    """The list of strings that have broken programs, or a skip where it is not at hand."""
    folder = os.environ.get("HEADSTART_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(folder) / "naughty_strings.json"
    if not path.is_file():
        pytest.skip("naughty_strings.json is not here; set HEADSTART_DATA to its folder")
    strings: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return strings


def change(folder: Path, file: str, **values: Any) -> None:
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_a_run_without_a_judgement_has_none_of_its_sections(run: Path) -> None:
    ids = Words(render(run)).ids
    assert not {"thresholds", "readers", "parts", "doubt", "labels", "filters", "map"} & set(ids)
    assert "look" not in ids  # a plain gallery


def test_thresholds_tell_what_they_reached_and_what_is_needed_for_them(run: Path) -> None:
    judged.judge(run, CLASSES)
    stored = json.loads((run / "evaluation.json").read_text())
    aim = operating(stored)[0]
    assert (aim["rate"], aim["value"]) == ("sensitivity", 0.95)
    point = next(row for row in stored["operating"] if row["target"]["value"] == 0.95)
    text = Words(render(run)).text
    reached, quiet = (point[rate]["value"] for rate in ("sensitivity", "specificity"))
    place = text.index("Thresholds for a sensitivity of 95 %, with 95 % intervals")
    row = text[place : place + 600]
    assert f"cats {point['threshold']:.3g} {reached:.1%}".replace("%", " %") in row
    assert f"{quiet:.1%}".replace("%", " %") in row
    assert "it takes 59 of a class even without a miss: hamsters (35)." in text
    assert "PPV: of the calls, the share that is right" in text


def test_curves_have_their_areas_in_a_table(run: Path) -> None:
    judged.judge(run, CLASSES)
    (row, *_) = json.loads((run / "evaluation.json").read_text())["curves"]
    text = Words(render(run)).text
    assert f"cats 70 {row['auc']['value']:.3f} {row['auc']['low']:.3f} to" in text


def test_people_and_parts_are_told_in_sentences_and_tables(run: Path) -> None:
    judged.judge(run, CLASSES)
    stored = json.loads((run / "evaluation.json").read_text())
    text = Words(render(run)).text
    for sentence in (stored["readers"][0]["sentence"], stored["subgroups"][0]["sentence"]):
        assert " ".join(sentence.split()) in text
    assert "reader 3 77.5 %" in text and "mean reader" in text
    assert "Too few images for people." in text
    assert f"{stored['subgroups'][0]['worst']} worst" in text and "new 4" in text
    assert "too few images" in text


def test_places_that_were_held_out_are_told_with_their_mean_or_why_there_are_none(
    run: Path,
) -> None:
    judged.judge(run, CLASSES)
    stored = json.loads((run / "evaluation.json").read_text())["sites"]
    text = Words(render(run)).text
    assert " ".join(stored["sentence"].split()) in text
    assert f"{stored['worst']} worst" in text and "Each was held out." in text
    low, high = (100 * stored["mean"][end] for end in ("low", "high"))
    assert f"95 % interval {low:.1f} to {high:.1f}" in text
    change(run, "evaluation.json", sites={"sentence": "No site was held out.", "sites": []})
    text = Words(render(run)).text
    assert "No site was held out." in text and "A new one may score" not in text


def test_doubt_is_told_in_plain_words(run: Path) -> None:
    judged.judge(run, CLASSES)
    text = Words(render(run)).text
    assert "Promised 90.0 % of the sets hold the right class" in text
    assert "6.0 % (95 % interval 3.0 to 10.0 %) got the warning" in text
    change(run, "evaluation.json", sets={"sentence": "No prediction sets: too few."}, unlike={})
    text = Words(render(run)).text
    assert "No prediction sets: too few." in text and "got the warning" not in text


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("evaluation.json", {"learning_curve": {"sentence": "No learning curve: 40 images."}}, "No learning curve: 40"),
        ("run.json", {"settings": {"budget": 0.0}}, "because no minutes were given"),
        ("plan.json", {"strategy": "finetune"}, "the network of this run was itself trained"),
        ("plan.json", {}, "Not measured in this run"),
    ],
)  # fmt: skip
def test_why_no_learning_curve_is_drawn(
    run: Path, file: str, values: dict[str, Any], words: str
) -> None:
    change(run, file, **values)
    source = render(run)
    assert words in Words(source).text and 'data-chart="learning_curve"' not in source


def test_the_learning_curve_says_what_twice_the_images_would_bring(run: Path) -> None:
    judged.judge(run, CLASSES)
    source = render(run)
    assert "Twice as many images like these would gain about" in Words(source).text
    assert 'data-chart="learning_curve"' in source
    assert "from at most half of the images it foretold" in Words(source).text


def test_what_cannot_be_seen_is_told_with_the_test_behind_it(run: Path) -> None:
    text = Words(render(run)).text
    assert "less than 8.1 points is unseen. McNemar’s test at the 5 % level, 80 % power" in text
    assert "only one of the two is right on 9 % of the images" in text
    assert "judged on different images must differ by 14 points" in text


def test_classes_that_imagenet_may_hold_come_with_what_follows_from_it(run: Path) -> None:
    text = Words(render(run)).text
    assert "Classes that ImageNet may hold already" in text
    assert "then the scores flatter" in text


def test_doubtful_labels_come_with_commands_that_put_them_right(run: Path) -> None:
    judged.judge(run, CLASSES)
    judged.depict(run, CLASSES)
    text = Words(render(run)).text
    assert "31 of the images to learn from" in text and "2 more" in text
    assert "labelled: cats (3.0 %) looks like: hamsters" in text
    assert "Save it as corrected.csv in the same folder" in text
    assert f"headstart fit my_photos --relabel '{run}/corrected.csv'" in text


def test_new_labelled_images_have_a_report_of_their_own(run: Path) -> None:
    judged.judge(run, CLASSES)
    for name in ("data", "plan", "mistakes", "findings", "nested"):
        (run / f"{name}.json").unlink()
    settings = {"model": "runs/m<b>", "data": "new"}
    change(run, "run.json", command="evaluate", settings=settings)
    change(run, "evaluation.json", metric="accuracy", learned_from=2, n=300)
    change(run, "evaluation.json", unreadable=[{"path": "x.jpg", "error": "truncated"}])
    page = Words(render(run))
    told = "300 labelled images of new were shown to the model runs/m<b>, which tells 3 classes"
    assert told in page.text
    assert "The model had learned from 2 of these images" in page.text
    assert "accuracy is 94.2 %" in page.text and "Missing or unreadable" not in page.text
    assert {"quality", "thresholds", "readers", "parts", "doubt", "again"} < set(page.ids)
    assert not {"data", "plane", "decision", "use", "more", "candidates"} & set(page.ids)
    assert "x.jpg" in page.text and "truncated" in page.text


@pytest.mark.parametrize(
    ("learned", "said"),
    [
        (0, "on 120 images that it had not learned from"),
        (40, "on 120 images, 40 of which it had learned from"),
        (300, "on 120 images, all of which it had learned from"),
        (None, "on 120 images (95 %"),  # nobody knows
    ],
)
def test_images_that_the_model_had_learned_from_are_never_called_new(
    run: Path, learned: int | None, said: str
) -> None:
    judged.judge(run, CLASSES)
    change(run, "run.json", command="evaluate", settings={"model": "m"})
    change(run, "evaluation.json", metric="accuracy", n=300, learned_from=learned)
    text = Words(render(run)).text
    assert said in text
    assert ("not learned from" in text) == (learned == 0)
    assert ("nothing was learned from them" in text) == (not learned)
    assert ("never judged on the images that chose it" in text) == (not learned)


def test_a_plan_says_what_would_be_done(run: Path) -> None:
    for name in ("evaluation", "mistakes", "nested"):
        (run / f"{name}.json").unlink()
    (run / "model").rmdir()
    change(run, "run.json", command="plan")
    rows = json.loads((run / "plan.json").read_text())["candidates"]
    probed = [row | {"method": "ridge, leave-one-out"} for row in rows]
    nothing = {"case": None, "strategy": None, "chosen": None, "candidates": probed}
    change(run, "plan.json", **nothing, case_prior=[1])
    page = Words(render(run))
    rule = "By the rule of thumb this is case 1 (new head on the frozen network)"
    assert f"{rule}; headstart fit would check it." in page.text
    assert "Case 1 by the rule of thumb; not checked yet Strategy not chosen yet" in page.text
    assert "winner" not in page.text and "then get their real heads" not in page.text
    assert "To carry this plan out: headstart fit my_photos" in page.text
    assert "Missing" not in page.text and "quality" not in page.ids and "plane" in page.ids
    change(run, "plan.json", case_prior=[2, 4])
    assert "or case 4 (trained from scratch, or re-trained); headstart fit would let the" in (
        Words(render(run)).text
    )
    change(run, "plan.json", forced="--case 3")
    assert "case 3 was given, so headstart fit would do that." in Words(render(run)).text


def test_a_failed_run_says_why_and_promises_no_model(run: Path) -> None:
    assert "headstart predict" in Words(render(run)).text
    (run / "model").rmdir()
    for name in ("plan", "evaluation", "mistakes", "nested"):
        (run / f"{name}.json").unlink()
    change(run, "run.json", status="failed", error="Training diverged <b>. Use --case 1.")
    page = Words(render(run))
    assert "This run failed: Training diverged <b>. Use --case 1." in page.text
    assert "The run failed before there was a model." in page.text
    assert "headstart predict" not in page.text and "holds the model by itself" not in page.text
    kept = {"data", "again"}
    assert kept < set(page.ids) and not {"use", "plane", "quality", "mistakes"} & set(page.ids)
    assert (
        "plan.json, evaluation.json, mistakes.json. The sections that need them are left out"
        in (page.text)
    )


def test_figures_of_one_image_or_candidate_that_differ_are_explained(run: Path) -> None:
    judged.judge(run, CLASSES)
    judged.depict(run, CLASSES)
    text = Words(render(run)).text
    assert "So one candidate may have three figures on this page" in text
    assert "where one image has two" not in text
    change(run, "evaluation.json", protocol="nested cross-validation: 10 folds")
    assert (
        "where one image has two, they differ by the luck of the folds" in Words(render(run)).text
    )


@pytest.mark.parametrize(
    ("single", "coverage", "said"),
    [(1.0, 0.958, "right more often than the sets promise"), (1.0, 0.85, "On these images the sets"),
     (0.9, 0.958, "")],
)  # fmt: skip
def test_sets_that_never_name_a_second_class_are_explained(
    run: Path, single: float, coverage: float, said: str
) -> None:
    seen = {"coverage": {"value": coverage}, "size": 1.0, "single": single}
    change(run, "evaluation.json", sets={"coverage": 0.9, "seen": seen})
    text = Words(render(run)).text
    assert said in text
    assert ("look at the confidence instead" in text) == bool(said)


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ({"data": "a b", "budget": 0.0, "seed": 3}, "headstart fit 'a b' --budget 0 --seed 3"),
        ({"table": "t.csv", "group": "patient"}, "headstart fit --table t.csv --group patient"),
        (
            {"data": "-d", "case": 2, "cut": "b2", "refit_all": True, "out": "x", "resume": True},
            "headstart fit ./-d --case 2 --cut b2 --refit-all",
        ),
        ({"data": "d", "prevalence": {"a=b": 0.01}}, "headstart fit d --prevalence a=b=0.01"),
        ({"data": "d", "listing": {"files": 3}, "command": "fit"}, "headstart fit d"),
        ({}, None),
        (7, None),
    ],
)
def test_the_command_of_a_run_can_be_typed_again(settings: Any, command: str | None) -> None:
    assert fit_command({"settings": settings}) == command


KEYS = ("curves", "operating", "subgroups", "sets", "unlike", "learning_curve", "readers",
        "suggestions", "before_relabel", "notes")  # fmt: skip


@pytest.mark.parametrize("junk", [None, "x", 10**400, {"a": 1}, [[1], {"b": 2}]])
def test_a_damaged_judgement_does_no_harm(run: Path, junk: Any) -> None:
    good = judged.judgement(tuple(CLASSES), "", True)
    damaged = []
    for key in ("curves", "operating", "subgroups", "readers"):
        first = good[key][0]
        damaged.append({key: [first | {name: junk} for name in first] + [junk]})
    for key in ("sets", "unlike", "learning_curve"):
        damaged += [{key: good[key] | {name: junk}} for name in good[key]]
    for values in damaged:
        facts(cleaned(values), {})
        judge_charts(cleaned(values), {})
    everything = {key: value for values in damaged for key, value in values.items()}
    for name in ("data", "plan", "mistakes", "findings"):
        (run / f"{name}.json").unlink()  # other sections only take time here
    for values in (everything, dict.fromkeys(KEYS, junk)):
        (run / "evaluation.json").write_text(json.dumps({**good, "n": 3, **values}))
        assert "How good the model is" in Words(render(run)).text


@pytest.mark.parametrize("junk", [None, "x", 10**400, {"a": 1}, [[1], {"b": 2}]])
def test_damaged_pictures_do_no_harm(run: Path, junk: Any) -> None:
    good = judged.pictures(CLASSES)
    damaged: list[dict[str, Any]] = []
    for key in ("mistakes", "suggestions"):
        first = good[key][0]
        damaged.append({key: [first | {name: junk} for name in first] + [junk]})
    for key in ("heat", "filters", "map"):
        damaged += [{key: good[key] | {name: junk}} for name in good[key]]
    first = good["map"]["points"][0]
    points = [first | {name: junk} for name in first]
    damaged.append({"map": good["map"] | {"points": points}})
    for values in damaged:
        pictures(cleaned(values))
        feature_map(record(cleaned(values).get("map")))
    everything = {key: value for values in damaged for key, value in values.items()}
    for name in ("data", "plan", "evaluation", "findings"):
        (run / f"{name}.json").unlink()
    for values in (everything, dict.fromkeys(good, junk)):
        (run / "pictures.json").write_text(json.dumps(good | values))
        assert "The worst mistakes" in Words(render(run)).text


def test_pictures_that_are_none_are_not_shown(run: Path) -> None:
    judged.depict(run, CLASSES)
    stored = json.loads((run / "pictures.json").read_text())
    evil = "PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+"
    stored["filters"]["first"] = [evil, 7, "iVBORw0KGgo="]
    stored["mistakes"][0] |= {"picture": evil, "heat_label": '"><script>'}
    stored["map"]["points"][0]["thumbnail"] = evil
    (run / "pictures.json").write_text(json.dumps(stored))
    source = render(run)
    assert evil not in source and source.count('alt="filter') == 1


def of_names(folder: Path, names: list[str]) -> Words:
    """A page in whose new sections every name is a class, a file, a reader and a part."""
    run = samples.write_run(folder, CLASSES)
    stored = json.loads(json.dumps(judged.judgement(tuple(CLASSES), "", True)))
    for key in ("curves", "operating"):
        stored[key] = [row | {"name": name} for name in names for row in stored[key][:1]]
    (column, *_), (study, *_) = stored["subgroups"], stored["readers"]
    column["subgroups"] = [column["subgroups"][0] | {"value": name} for name in names]
    study["readers"] = [study["readers"][0] | {"name": name} for name in names]
    change(run, "evaluation.json", **stored)
    pictures = judged.pictures(CLASSES)
    for key in ("mistakes", "suggestions"):
        first = pictures[key][0]
        pictures[key] = [
            first | {"path": f"a/{name}", "label": name, "probabilities": [[name, 0.5]]}
            for name in names
        ]
    pictures["filters"]["stages"] = [pictures["filters"]["stages"][0] | {"stage": n} for n in names]
    point = pictures["map"]["points"][0]
    pictures["map"] |= {
        "classes": names,
        "points": [point | {"label": k, "path": f"b/{name}"} for k, name in enumerate(names)],
    }
    (run / "pictures.json").write_text(json.dumps(pictures))
    return Words(render(run))


@pytest.mark.usefixtures("run")
def test_naughty_strings_show_as_text_in_the_new_sections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headstart.ship.report.judge_charts", lambda *_: {})
    strings = [name for name in naughty() if name.strip()]
    page = of_names(tmp_path / "naughty", strings)
    assert page.tags == of_names(tmp_path / "tame", [f"t{k}" for k in range(len(strings))]).tags
    pieces = [piece.replace("\u00a0", " ") for piece in page.pieces]
    for name in map(cleaned, strings):
        assert pieces.count(name.replace("\u00a0", " ")) >= 6, name
    points = json.loads(page.blocks["map-points"])["points"]
    assert [point[2] for point in points] == [f"b/{cleaned(name)}" for name in strings]
