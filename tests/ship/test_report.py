"""The report: right words, nothing hostile gets through, every chart is drawn on every screen."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from headstart.errors import RunFolderError
from headstart.ship.report import cleaned, render

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


class Page(HTMLParser):
    """What a parser sees: tags in order, attributes, text, and the text of scripts and styles."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.inline: list[tuple[str, str]] = []
        self.text = ""
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
    assert page.tags.count("h2") == 8
    assert page.tags.count("caption") == page.tags.count("table") > 6
    assert ("class", "chosen") in page.attributes and page.text.count("chosen") == 1
    assert {value for name, value in page.attributes if name == "data-chart"} == CHARTS
    for words in (
        "ends after 312 bytes",
        "fine-tuning would be tried",
        "head_cut@b3",
        "IMG_2003.jpg",
    ):
        assert words in page.text
    alt = [value for name, value in page.attributes if name in ("alt", "aria-label")]
    assert len(alt) == 6 + 5 + 1 and all(alt)  # charts, thumbnails, navigation


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
        ("data.json", {"unreadable": [], "duplicates": [], "leaks": []}, "No copies were found."),
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


def test_run_json_alone_is_enough_and_nothing_is_not(run: Path) -> None:
    for name in ("data", "plan", "evaluation", "mistakes"):
        (run / f"{name}.json").write_text("{}")
    assert Page(render(run)).tags.count("h2") == 8
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


# -- hostile strings --------------------------------------------------------------------------------


def check_harmless(folder: Path, names: list[str], prefix: str) -> Page:
    """Hostile names change only text: the tags are those of a run with tame names."""
    tame = samples.write_run(folder / "tame", ["tame"] * len(names), root="tame", prefix="tame")
    run = samples.write_run(folder / "run", names, root=names[0], prefix=prefix)
    source = render(run)
    page = Page(source)
    assert page.tags == Page(render(tame)).tags
    assert [kind for kind, _ in page.inline] == ["style", "application/json", "script", "script"]
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
    assert ATTACK in json.dumps(specs["class_counts"]) and set(specs) == CHARTS


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
    assert "img" not in page.tags and page.text.count("no thumbnail") == 4


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium found")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--headless", "--disable-gpu"]
        )
        yield started
        started.close()


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
        " box.querySelectorAll('.mark-symbol path, .mark-rect path, .mark-area path').length])"
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


def test_a_browser_shows_attacks_as_text(browser: Any, tmp_path: Path) -> None:
    run = samples.write_run(tmp_path, ATTACKS, root=ATTACK, prefix=ATTACKS[3])
    page = opened(browser, run, 1280)
    assert page.title() == f"{ATTACK}: headstart report"
    assert page.locator("h1").text_content() == ATTACK
    ticks = page.locator("[data-chart=class_counts] svg").text_content()
    assert "__proto__" in ticks and "<script>aler" in ticks
    assert page.locator("script").count() == 3
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
    opened(browser, run, 390).close()
