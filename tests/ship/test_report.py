"""The report: right words, nothing hostile gets through, every chart is drawn on every screen."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import RunFolderError
from headstart.ship.page import cleaned
from headstart.ship.plan_charts import quadrant
from headstart.ship.report import render

_spec = importlib.util.spec_from_file_location(
    "samples", Path(__file__).parent / "report_samples.py"
)
assert _spec and _spec.loader
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

ATTACK = "<script>alert(1)</script>"
ATTACKS = [
    ATTACK,
    "</script><img src=x onerror=alert(1)>",
    "</style><style>*{display:none}",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "<!--<script>",
    "{{ 7*7 }}{% raw %}",
    "__proto__",
    "constructor",
    "",
    "&lt;b&gt;",
    "\u202egpj.exe",
    "\ud800",
    "a\x00b\x1b[31m",
    "مرحبا",
]
CHARTS = {"class_counts", "quadrant", "depth_curve", "candidates", "confusion", "reliability"}
TRAINING = {"training", "training_score"}


class Page(HTMLParser):
    """What a parser sees: tags in order, attributes, text, and the text of scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.inline: list[tuple[str, str]] = []
        self.text = ""
        self.pieces: list[str] = []
        self._raw = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self._raw = tag if tag in ("script", "style") else ""
        if self._raw:
            self.inline.append((dict(attrs).get("type") or tag, ""))

    def handle_endtag(self, tag: str) -> None:
        self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw:
            kind, before = self.inline[-1]
            self.inline[-1] = (kind, before + data)
        else:
            self.text += data
            self.pieces.append(data)

    @property
    def policy(self) -> str:
        return next(value for name, value in self.attributes if value.startswith("default-src"))


def naughty() -> list[str]:
    """The list of strings that have broken programs, or a skip where it is not at hand."""
    folder = os.environ.get("HEADSTART_DATA") or Path(__file__).parents[3] / "shared" / "data"
    path = Path(folder) / "naughty_strings.json"
    if not path.is_file():
        pytest.skip("naughty_strings.json is not here; set HEADSTART_DATA to its folder")
    strings: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return strings


def change(folder: Path, file: str, **values: Any) -> None:
    """Overwrite top-level keys of one stored file."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return samples.write_run(tmp_path / "my run", ["cats", "dogs"])


# -- words ------------------------------------------------------------------------------------------


def test_it_opens_with_three_sentences(run: Path) -> None:
    text = " ".join(Page(render(run)).text.replace("\u00a0", " ").split())
    assert (
        "The folder holds 532 images in 2 classes; the checks found 1 file that could not" in text
    )
    assert "trained only a new last layer, which is case 1." in text
    assert "accuracy is 94.2 % on 120 images" in text and "(95 % interval 89.5 to 97.7 %)" in text


def test_every_step_has_its_section_and_the_chosen_candidate_is_marked(run: Path) -> None:
    page = Page(render(run))
    assert page.tags.count("h2") == 10
    assert page.tags.count("caption") == page.tags.count("table") > 6
    assert page.attributes.count(("class", "chosen")) == 1
    assert {value for name, value in page.attributes if name == "data-chart"} == CHARTS
    for words in (
        "ends after 312 bytes",
        "fine-tuning would be tried",
        "head_cut@b3",
        "IMG_2003.jpg",
    ):
        assert words in page.text
    alt = [value for name, value in page.attributes if name in ("alt", "aria-label")]
    assert len(alt) == 6 + 5 + 11 + 1 and all(alt)  # charts, mistakes, findings, navigation


def test_commands_can_be_copied_as_they_are(run: Path) -> None:
    assert f"headstart predict '{run}' photo.jpg" in Page(render(run)).text


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("plan.json", {"learnable": False}, "No evidence that these classes can be learned"),
        ("run.json", {"status": "stopped"}, "The status of this run is “stopped”"),
        ("run.json", {"test_set_scored": 3}, "This test set has been scored 3 times"),
        ("plan.json", {"case": None, "strategy": "all_stages"}, "none of the four"),
        ("plan.json", {"similarity": {"verdict": "unclear", "bn_shift": None}}, "not measured"),
        ("plan.json", {"similarity": None, "size": None, "all_stages": None}, "not compared with"),
        (
            "data.json",
            {"duplicates": [], "leaks": [], "label_conflicts": [], "near_duplicates": []},
            "No copies were found.",
        ),
        ("plan.json", {"depth_control": None}, "Where in the network the information sits"),
        ("plan.json", {"metric": "log_loss", "chance": -0.69}, "guessing would reach 0.690"),
        ("evaluation.json", {"resolvable": None, "protocols": None}, "How good the model is"),
        (
            "evaluation.json",
            {"calibration": None},
            "Not stored in this run folder: the calibration",
        ),
        ("evaluation.json", {"metrics": []}, "has not been measured"),
    ],
)
def test_what_differs_is_said(run: Path, file: str, values: dict[str, Any], words: str) -> None:
    change(run, file, **values)
    assert words in Page(render(run)).text


@pytest.mark.parametrize("name", ["data", "plan", "evaluation", "mistakes"])
def test_a_missing_or_damaged_file_is_named(run: Path, name: str) -> None:
    (run / f"{name}.json").write_text('{"half": ')
    damaged = Page(render(run)).text
    (run / f"{name}.json").unlink()
    assert Page(render(run)).text == damaged
    assert f"Missing or unreadable in this run folder: {name}.json" in damaged
    assert f"({name}.json)" in damaged


def shown(run: Path) -> str:
    """The text of the page, cell by cell, with every space a plain one."""
    with pytest.MonkeyPatch.context() as patch:  # drawing takes longer than all the words
        patch.setattr("headstart.ship.report.all_charts", lambda *_: {})
        pieces = Page(render(run)).pieces
    return " ".join(" ".join(pieces).replace("\u00a0", " ").split())


def test_findings_are_shown_side_by_side_the_gravest_first(run: Path) -> None:
    text = shown(run)
    titles = ["One picture, two labels", "One picture on both sides", "Nearly the same", "Copies"]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    assert "2 more pairs" in text  # of eight conflicts six are open
    assert "mirrored or turned, agreement 98.7 %; also on both sides of the split" in text
    assert "and other.jpg and 3 more" in text
    assert "dogs pair/1b.jpg" in text and "cats · training pair/1a.jpg" in text
    assert "2 pictures with two labels, 2 pictures shared by training and test" in text


def test_without_thumbnails_the_names_are_listed(run: Path) -> None:
    (run / "findings.json").unlink()
    page = Page(render(run))
    assert "near/0.jpg · 0.png" in page.text and "no thumbnail" in page.text
    assert "pairs" not in [value for name, value in page.attributes if name == "class"]
    assert "Missing or unreadable" not in page.text


def test_every_figure_has_its_protocol(run: Path) -> None:
    text = shown(run)
    assert "accuracy of the model 94.2 % (89.5 to 97.7 %) hold-out 20 %" in text
    assert "naive accuracy 98.6 % ± 0.6 cross-validated, selection not nested" in text
    assert "The repeated selections chose all_stages 7 × and head_top 3 ×." in text
    assert "temperature – cross-fitted on what it learned" in text
    assert "On 120 images, less than 8.1 points is unseen." in text
    (run / "nested.json").unlink()
    text = shown(run)
    assert "score of the chosen candidate 97.9 % ± 0.8 cross-validated on the images" in text
    assert "the best of 4 candidates" in text and "repeated selections" not in text


def test_what_explains_the_decision_is_shown(run: Path) -> None:
    text = shown(run)
    assert "Detail in the images 78 px half of the images lie between 62 and 91 px" in text
    assert "Known to the source's classes 39.4 %" in text and "± 1.2 points" in text
    assert "colour and texture 70.0 % ± 2.0 0.2" in text
    assert (
        "Random weights reach 60 %" in text and "stem 32 65.9 % ± 1.2 70.9 % 60.0 % ± 2.0" in text
    )


def test_candidates_are_sorted_and_probes_stand_apart(run: Path) -> None:
    text = shown(run).split("What was tried")[1]
    names = ["all_stages", "all stages, 288 px, squash", "head_top chosen", "head_cut@b3"]
    places = [text.index(f"{name} ") for name in names]
    assert places == sorted(places)
    assert "head_top chosen 1 97.9 % ± 0.8 99.5 % 1.6 0.8" in text
    assert text.index("1 more at first look only") < places[-1]


def test_any_number_of_candidates_stays_readable(run: Path) -> None:
    row = json.loads((run / "plan.json").read_text())["candidates"][0]
    many = [row | {"name": f"all stages, {k} px", "score": 0.9 - 0.001 * k} for k in range(70)]
    change(run, "plan.json", candidates=[*many, row | {"score": 0.3}])
    page = Page(render(run))
    assert "And 51 more" in page.text and "head_top" in page.text
    chart = json.loads(dict(page.inline)["application/json"])["candidates"]
    labels = next(p["value"] for p in chart["params"] if p["name"] == "labels")
    assert len(labels) == 20 and labels[-1] == "head_top"  # the chosen one is always drawn


def test_long_names_break_where_a_part_begins(run: Path) -> None:
    row = json.loads((run / "plan.json").read_text())["candidates"][0]
    change(run, "plan.json", candidates=[row | {"name": "all_stages+spread@288px"}])
    chart = json.loads(dict(Page(render(run)).inline)["application/json"])["candidates"]
    (label,) = next(p["value"] for p in chart["params"] if p["name"] == "labels")
    assert label == "all_stages+spread\n@288px"


def test_run_json_alone_is_enough_and_nothing_is_not(run: Path) -> None:
    for name in ("data", "plan", "evaluation", "mistakes", "findings", "nested"):
        (run / f"{name}.json").write_text("{}")
    assert Page(render(run)).tags.count("h2") == 9
    (run / "run.json").unlink()
    with pytest.raises(RunFolderError, match=r"run\.json"):
        render(run)


def test_numbers_that_json_does_not_know_are_left_out(run: Path) -> None:
    change(run, "plan.json", all_stages={"score": float("nan"), "se": float("inf")})
    page = Page(render(run))
    assert "nan" not in dict(page.inline)["application/json"].lower()


def test_many_classes_stay_readable_and_small(tmp_path: Path) -> None:
    classes = [f"class {k}" for k in range(1000)]
    run = samples.write_run(tmp_path, classes)
    bad = [{"path": f"a/{k}.jpg", "reason": "truncated"} for k in range(5000)]
    change(tmp_path, "data.json", unreadable=bad)
    source = render(run)
    page = Page(source)
    assert "confusion" not in {value for name, value in page.attributes if name == "data-chart"}
    assert "The most frequent confusions" in page.text and "And 4,970 more" in page.text
    assert "The 20 classes with the lowest F1" in page.text
    assert len(source.encode()) < 4e6


# -- re-trained networks ----------------------------------------------------------------------------


@pytest.fixture
def retrained(run: Path) -> Path:
    folder: Path = samples.retrain(run)
    return folder


def test_the_training_has_its_section_only_where_there_was_one(run: Path) -> None:
    before = Page(render(run))
    assert "How the network was trained" not in before.text and "itself trained" not in before.text
    page = Page(render(samples.retrain(run)))
    assert page.tags.count("h2") == 10 + 2  # with the drawing of the network
    links = [value for name, value in page.attributes if name == "href" and value[0] == "#"]
    ids = [value for name, value in page.attributes if name == "id"]
    assert {"#surgery", "#training"} < set(links) and {link[1:] for link in links} < set(ids)
    assert [i for i in ids if f"#{i}" in links] == [link[1:] for link in links]  # in their order
    charts = {value for name, value in page.attributes if name == "data-chart"}
    assert charts == CHARTS | TRAINING
    text = shown(run)
    assert "160 px to each side" in text and "480 images, in 4 epochs" in text
    assert "1,920 counted each time" in text and "2.3 min 14.0 images per second" in text
    assert "out of memory: going on with 4 images at once" in text
    assert "which is case 3 (\u2011\u2011case 3 was given)." in text
    assert "Strategy whole network re-trained named finetune below" in text
    assert "alone, as they were before the network itself was trained" in text


def test_what_is_kept_of_the_training_is_said(retrained: Path) -> None:
    text = shown(retrained)
    assert "Alpha is the share of the trained weights in it; 1 means only the trained ones." in text
    assert "re-trained: alpha 0.5, that is 50 % the trained weights, as they were at the" in text
    assert "from scratch: alpha 1, that is 100 % the trained weights, averaged over" in text
    assert "trained once, one fold of 96 held out; the mixture with the start was chosen" in text


def test_ways_to_train_are_told_apart_by_their_rates(retrained: Path) -> None:
    stored = json.loads((retrained / "training.json").read_text())
    first = stored["verified"][0]
    second = {"name": "finetune@rate0.0003", "epochs": first["epochs"][:2]}
    change(retrained, "training.json", verified=[first, first | second])
    text = shown(retrained)
    assert "Whole network re-trained: alpha" in text
    assert "Whole network re-trained at rate 0.0003: alpha" in text
    assert "the scores by epoch of the trials" in text
    chart = json.loads(dict(Page(render(retrained)).inline)["application/json"])["training_score"]
    labels = next(one["value"] for one in chart["params"] if one["name"] == "labels")
    assert labels == ["whole network re-trained", "whole network re-trained at rate 0.0003"]


def test_what_is_handed_over_as_it_was_verified_is_drawn_once(retrained: Path) -> None:
    stored = json.loads((retrained / "training.json").read_text())
    change(retrained, "training.json", epochs=stored["verified"][0]["epochs"])
    assert "the better one is handed over as it was then" in shown(retrained)
    chart = json.loads(dict(Page(render(retrained)).inline)["application/json"])["training_score"]
    assert len(next(one["value"] for one in chart["params"] if one["name"] == "labels")) == 2


def test_a_test_part_is_drawn_only_where_there_is_one(run: Path) -> None:
    counts = [{"class": c, "total": 5, "train": 5, "test": 0} for c in ("cats", "dogs")]
    side = {"min": 8, "median": 8, "max": 8}
    change(run, "data.json", counts=counts, width_px=side, height_px=side | {"max": 9})
    page = Page(render(run))
    assert "and for the test." not in page.text and "8\xa0px wide, heights 8 to 9" in page.text
    chart = json.loads(dict(page.inline)["application/json"])["class_counts"]
    assert "test" not in json.dumps(chart)


def test_variations_are_told_in_plain_words(retrained: Path) -> None:
    text = shown(retrained)
    assert (
        "mirrored left to right +1.2 ± 1.1 yes turned by a few degrees \u22123.1 ± 1.1 no" in text
    )
    assert "a random part of the image not tested yes" in text
    settings = json.loads((retrained / "run.json").read_text())["settings"]
    change(retrained, "run.json", settings=settings | {"augment": "flip"})
    text = shown(retrained)
    assert "mirrored left to right not tested yes" in text
    assert "asked for with --augment; none of them was tested" in text


def test_training_without_validation_shows_the_loss_alone(retrained: Path) -> None:
    stored = json.loads((retrained / "training.json").read_text())
    bare = [
        {key: row[key] for key in ("strategy", "average", "alpha")} for row in stored["verified"]
    ]
    change(retrained, "training.json", verified=bare, epochs=stored["epochs"][:1])
    specs = json.loads(dict(Page(render(retrained)).inline)["application/json"])
    assert set(specs) == CHARTS | {"training"}
    assert "480 images, in 1 epoch " in shown(retrained)


@pytest.mark.parametrize("junk", [None, "x", 10**400, {"a": 1}])
def test_damaged_values_of_the_training_do_no_harm(retrained: Path, junk: Any) -> None:
    for name in ("data", "plan", "evaluation", "mistakes", "findings", "surgery"):
        (retrained / f"{name}.json").unlink()  # other sections only take time here
    good = samples.training()
    damaged = [{key: junk} for key in good]
    for key in ("epochs", "augmentations", "verified"):
        first = good[key][0]
        damaged.append({key: [first | {name: junk} for name in first] + [junk]})
    for values in damaged:
        (retrained / "training.json").write_text(json.dumps(good | values))
        assert "How the network was trained" in Page(render(retrained)).text


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        ("head_top", "new head on the frozen network"),
        ("head_cut", "new head on the early stages, frozen"),
        ("all_stages", "new head on all stages, frozen"),
        ("finetune", "whole network re-trained"),
        ("scratch", "whole network trained from scratch"),
        ("partial", "last stages re-trained"),
    ],
)
def test_strategies_are_named_in_words(run: Path, strategy: str, words: str) -> None:
    change(run, "plan.json", strategy=strategy)
    assert f"Strategy {words} " in shown(run)


def test_the_parts_of_the_candidates_names_are_explained(run: Path) -> None:
    row = json.loads((run / "plan.json").read_text())["candidates"][0]
    names = ["all_stages+spread@288px+mlp:256", "all_stages+spread@squash", "head_cut@b3"]
    change(run, "plan.json", candidates=[row | {"name": name} for name in names])
    text = shown(run).split("The names: ")[1].split(". ")[0]
    assert [part.split(" : ")[0] for part in text.split("; ")] == [
        "head_cut", "all_stages", "+spread", "@squash", "@288px", "+mlp:256",
    ]  # fmt: skip


# -- hostile strings --------------------------------------------------------------------------------


def check_harmless(folder: Path, names: list[str], prefix: str) -> Page:
    """Hostile names change only text: the tags are those of a run with tame names."""
    tame = samples.write_run(
        folder / "tame", [f"tame {k}" for k in range(len(names))], root="tame", prefix="tame"
    )
    run = samples.write_run(folder / "run", names, root=names[0], prefix=prefix)
    samples.retrain(tame, "tame")
    samples.retrain(run, prefix)
    source = render(run)
    page = Page(source)
    assert page.tags == Page(render(tame)).tags
    assert [kind for kind, _ in page.inline] == ["style", "application/json", *["script"] * 3]
    for name, value in page.attributes:
        assert not name.startswith("on") and name != "style", name
        if name in ("href", "src"):
            assert value.startswith(("#", "data:,", "data:image/webp;base64,"))
    assert "<" not in dict(page.inline)["application/json"]
    source.encode()  # no lone surrogate is left
    for name in filter(str.strip, names):
        assert cleaned(name) in page.text
    return page


def test_attacks_show_as_text(tmp_path: Path) -> None:
    page = check_harmless(tmp_path, ATTACKS, ATTACKS[3])
    assert ATTACK in page.text and f"{ATTACKS[3]}cats/x.jpg" in page.text
    specs = json.loads(dict(page.inline)["application/json"])
    assert ATTACK in json.dumps(specs["class_counts"]) and set(specs) == CHARTS | TRAINING
    assert f"{ATTACKS[3]}out of memory" in page.text and f"{ATTACKS[3]}swirl" in page.text


def test_naughty_strings_show_as_text(tmp_path: Path) -> None:
    strings = naughty()
    check_harmless(tmp_path, strings, max(strings, key=lambda s: s.count("<")))


def test_a_thumbnail_that_is_no_picture_is_not_shown(run: Path) -> None:
    rows = [
        {"path": "a", "label": "x", "predicted": "y", "confidence": 0.9, "thumbnail": evil}
        for evil in ('"><script>', base64.b64encode(b"<svg onload=alert(1)>").decode(), 7, None)
    ]
    (run / "mistakes.json").write_text(json.dumps(rows))
    page = Page(render(run))
    assert page.tags.count("img") == 11 and page.text.count("no thumbnail") == 4 + 11
    pairs = json.loads((run / "findings.json").read_text())["pairs"]
    for pair, evil in zip(pairs, ['"><script>', "PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+", 7], strict=False):
        pair["images"][0]["thumbnail"] = evil
    (run / "findings.json").write_text(json.dumps({"pairs": pairs}))
    assert Page(render(run)).tags.count("img") == 11 - 3


def test_the_policy_allows_exactly_the_scripts_and_the_style_of_the_page(run: Path) -> None:
    page = Page(render(run))
    hashes = {
        kind + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for kind, text in page.inline
        if kind != "application/json"
    }
    allowed = re.findall(r"(script|style)-src ((?:'sha256-[^']+' ?)+)", page.policy)
    assert {kind + h[8:-1] for kind, group in allowed for h in group.split()} == hashes
    assert page.policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in page.policy and "http" not in page.policy


def test_marks_that_hide_or_reverse_text_are_escaped() -> None:
    hostile = {"\u202e\x1b": ["a\nb", "\udcff", float("inf"), 3]}
    assert cleaned(hostile) == {"\\u202e\\x1b": ["a\\nb", "\\udcff", None, 3]}
    assert cleaned("日本 é 👩‍🔬 \\") == "日本 é 👩‍🔬 \\"


# -- in a browser -----------------------------------------------------------------------------------


def opened(browser: Any, run: Path, width: int) -> Any:
    """The report in a window; fails on console output, requests and charts that are not drawn."""
    path = run / "report.html"
    path.write_text(render(run), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: said.append(request.url[:200]))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=30_000)
    assert [line for line in said if not line.startswith("data:")] == [path.as_uri()]
    boxes = page.evaluate(
        "Array.from(document.querySelectorAll('[data-chart]'), (box) => [box.dataset.chart,"
        " box.querySelector('svg').getBoundingClientRect().width,"
        " box.querySelectorAll('.mark-symbol path, .mark-rect path, .mark-area path, .mark-line path').length])"
    )
    assert all(wide > 100 and marks > 0 for _, wide, marks in boxes), boxes
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    return page


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_a_browser_draws_every_chart(browser: Any, run: Path, width: int) -> None:
    page = opened(browser, run, width)
    assert page.locator("[data-chart]").count() == len(CHARTS)
    assert page.locator("h1, h2, h3").count() >= 6
    page.close()


PLACES = [(245, 0.8), (12, 0.0), (400_000, 0.97), (900_000, 0.02)]
IN_THE_QUADRANT = (
    "Array.from(document.querySelectorAll("
    "'[data-chart=quadrant] .role-mark text, [data-chart=quadrant] .mark-symbol path'),"
    " (mark) => { const box = mark.getBoundingClientRect();"
    " return [mark.textContent, box.left, box.top, box.right, box.bottom]; })"
)


@pytest.mark.parametrize("width", [390, 1200])
def test_the_label_of_the_images_covers_nothing(
    browser: Any, run: Path, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = lambda data, plan, *_: {"quadrant": quadrant(plan)}  # noqa: E731
    monkeypatch.setattr("headstart.ship.report.all_charts", only)
    plan = {key: samples.plan(["a"], "")[key] for key in ("size", "similarity", "case_prior")}
    for n, shift in [*PLACES[:: 1 if width == 390 else 3], (245, None)]:
        size = plan["size"] | {"n": n}
        near = plan["similarity"] | {"bn_shift": shift, "low": shift, "high": shift}
        (run / "plan.json").write_text(json.dumps(plan | {"size": size, "similarity": near}))
        page = opened(browser, run, width)
        boxes = page.evaluate(IN_THE_QUADRANT)
        svg = page.locator("[data-chart=quadrant] svg").bounding_box()
        labels = [box for box in boxes if box[0].startswith("your images")]
        others = [box for box in boxes if box not in labels]
        assert len(labels) == 2 and len(others) == 5 + (shift is not None)
        for _, left, top, right, bottom in labels:
            assert svg["x"] <= left and right <= svg["x"] + svg["width"] + 1
            for what, *box in others:
                apart = right <= box[0] or box[2] <= left or bottom <= box[1] or box[3] <= top
                assert apart, (n, shift, what)
        page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_draws_the_training_and_a_readable_network(
    browser: Any, retrained: Path, width: int
) -> None:
    page = opened(browser, retrained, width)
    assert page.locator("[data-chart]").count() == len(CHARTS | TRAINING)
    ticks = page.locator("[data-chart=training] .role-axis-label text").all_text_contents()
    assert {"1", "2", "3", "4"} < set(ticks)
    drawn = page.locator(".drawing svg").bounding_box()
    assert drawn["width"] == float(page.locator(".drawing svg").get_attribute("width"))
    page.close()


def test_a_browser_shows_attacks_as_text(browser: Any, tmp_path: Path) -> None:
    run = samples.write_run(tmp_path, ATTACKS, root=ATTACK, prefix=ATTACKS[3])
    page = opened(browser, samples.retrain(run, ATTACKS[3]), 1280)
    assert ATTACKS[3] in page.locator("[data-chart=training_score] svg").text_content()
    assert page.title() == f"{ATTACK}: headstart report"
    assert page.locator("h1").text_content() == ATTACK
    ticks = page.locator("[data-chart=class_counts] svg").text_content()
    assert "__proto__" in ticks and "<script>aler" in ticks
    assert page.locator("script").count() == 4
    page.close()


@pytest.mark.parametrize("step", [1, 7])  # all names in tables, and few enough for every chart
def test_a_browser_shows_naughty_strings_as_text(browser: Any, tmp_path: Path, step: int) -> None:
    strings = [s for s in naughty() if step == 1 or any(sign in s for sign in "<>\"'&\\{%_")]
    names = strings[::step][: 40 if step > 1 else None]
    page = opened(
        browser, samples.write_run(tmp_path, names, root=names[0], prefix=names[-1]), 1280
    )
    shown = html.unescape(page.locator("#quality").text_content())
    assert all(html.unescape(cleaned(name)) in shown for name in names if name.strip())
    page.close()


def test_a_report_without_data_opens_quietly(browser: Any, run: Path) -> None:
    for name in ("data", "plan", "evaluation", "mistakes"):
        (run / f"{name}.json").unlink()
    page = opened(browser, run, 390)  # which fails on any console line or request
    assert "plan.json" in (page.locator("body").text_content() or "")  # what is missing is named
    page.close()
