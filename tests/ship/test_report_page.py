"""The whole report in a browser: drawn, quiet, reachable by mouse and keyboard, readable, printable."""

from __future__ import annotations

import importlib.util
import json
import re
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from headstart.ship.report import render


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


samples, judged = _load("report_samples"), _load("judge_samples")
CLASSES = ["cats", "dogs", "very small hamsters from the shop around the corner"]
HOSTILE = [
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7*7 }}{% raw %}",
    "__proto__",
    "constructor",
    "",
    "\u202egpj.exe",
    "\ud800",
    "a\x00b",
]


def whole(folder: Path, classes: list[str], root: str, prefix: str) -> Path:
    """The report of a run that holds all that a report can show."""
    run = samples.write_run(folder, classes, root=root, prefix=prefix)
    samples.retrain(run, prefix)
    judged.judge(run, classes, prefix)
    judged.depict(run, classes, prefix)
    page = run / "report.html"
    page.write_text(render(run), encoding="utf-8")
    return page


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("report") / "run", CLASSES, "my_photos", "")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory.mktemp("hostile") / "run", HOSTILE, HOSTILE[0], HOSTILE[1])


def opened(browser: Any, path: Path, width: int = 1280) -> Any:
    """The page in a window, and what it has said and asked for in `page.said`."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append("dialog"), dialog.dismiss()))
    page.on("request", lambda request: page.said.append(request.url[:200]))
    page.goto(path.as_uri())
    page.wait_for_selector("body[data-drawn]", timeout=30_000)
    return page


def quiet(page: Any, path: Path) -> None:
    assert [line for line in page.said if not line.startswith("data:")] == [path.as_uri()]


@pytest.fixture(scope="module")
def wide(browser: Any, report: Path) -> Any:
    """The page in a wide window, for all tests that change nothing for the next."""
    page = opened(browser, report)
    yield page
    quiet(page, report)
    page.close()


MARKS = ".mark-symbol path, .mark-rect path, .mark-area path, .mark-line path"
CHARTS = (
    "Array.from(document.querySelectorAll('[data-chart]'), (box) => [box.dataset.chart,"
    " box.querySelector('svg').getBoundingClientRect().width,"
    f" box.querySelectorAll('{MARKS}').length])"
)
NAMES = {
    "class_counts", "quadrant", "depth_curve", "candidates", "training", "training_score",
    "confusion", "reliability", "roc", "precision_recall", "readers_0", "parts_0",
    "sites", "learning_curve", "map",
}  # fmt: skip


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_every_chart_is_drawn_at_every_width(
    browser: Any, report: Path, tmp_path: Path, width: int
) -> None:
    page = opened(browser, report, width)
    boxes = page.evaluate(CHARTS)
    assert {name for name, *_ in boxes} == NAMES
    assert all(wide > 100 and marks > 0 for _, wide, marks in boxes), boxes
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture = tmp_path / f"{width}.png"
    page.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    quiet(page, report)
    page.close()


def test_headings_are_in_order_and_names_are_unique(wide: Any) -> None:
    levels = wide.evaluate(
        "Array.from(document.querySelectorAll('h1, h2, h3, h4'), (h) => Number(h.tagName[1]))"
    )
    assert levels[0] == 1 and levels.count(1) == 1 and levels.count(2) >= 15
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = wide.evaluate("Array.from(document.querySelectorAll('[id]'), (e) => e.id)")
    assert len(ids) == len(set(ids))
    links = wide.evaluate("Array.from(document.querySelectorAll('nav a'), (a) => a.hash.slice(1))")
    sections = wide.evaluate("Array.from(document.querySelectorAll('main > section'), (s) => s.id)")
    assert links == sections and len(links) > 15


def test_everything_has_a_name_for_those_who_cannot_see_it(wide: Any) -> None:
    nameless = wide.evaluate(
        """() => {
          const wrong = [];
          for (const i of document.images) if (!i.alt.trim() || !i.naturalWidth) wrong.push(i.outerHTML.slice(0, 90));
          for (const b of document.querySelectorAll("button")) {
            const inner = b.querySelector("img");
            if (!(b.textContent.trim() || b.ariaLabel || (inner && inner.alt)) && !b.closest("dialog")) wrong.push(b.outerHTML.slice(0, 90));
          }
          for (const s of document.querySelectorAll("select")) if (!s.labels.length) wrong.push("select");
          for (const t of document.querySelectorAll("table")) if (!t.caption || !t.querySelector("th[scope]")) wrong.push("table");
          for (const c of document.querySelectorAll("[data-chart]")) if (!c.ariaLabel) wrong.push(c.dataset.chart);
          for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) wrong.push("tabindex");
          for (const e of document.querySelectorAll(".scroll")) {
            if (e.scrollWidth > e.clientWidth + 1 && e.tabIndex !== 0) wrong.push("scroll");
          }
          return wrong;
        }"""
    )
    assert nameless == []
    assert wide.evaluate("document.documentElement.lang") == "en"
    assert wide.locator("main").count() == wide.locator("h1").count() == 1


CONTRAST = """() => {
  const rgb = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || e.closest("script, style, noscript")) continue;
    const style = getComputedStyle(e);
    const drawn = e.closest("svg");
    const placed = drawn && !e.closest(".role-axis-label, .role-axis-title, .role-legend-label");
    if (!e.getClientRects().length || placed) continue;
    const [a, b] = [light(rgb(drawn ? style.fill : style.color)), light(behind(drawn ? drawn.parentElement : e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) poor.push([e.className, walk.currentNode.textContent.slice(0, 30), ratio]);
  }
  return poor;
}"""


def test_text_stands_out_from_what_is_behind_it(wide: Any) -> None:
    assert (
        wide.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        is None
    )
    assert wide.evaluate(CONTRAST) == []
    wide.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = false; })")


def test_a_mistake_opens_by_click_and_by_key(wide: Any) -> None:
    first = wide.locator("#mistakes .open").first
    first.click()
    look = wide.locator("#look")
    assert look.is_visible() and look.locator("#look-title").text_content() == "wrong/IMG_0.jpg"
    assert look.locator(".look-body img").count() == 3
    assert "80.0 %" not in look.text_content() and "90.0\u00a0%" in look.text_content()
    buttons = look.locator(".look-views button")
    assert buttons.count() == 4 and buttons.nth(0).get_attribute("aria-pressed") == "true"
    buttons.nth(2).click()
    shown = look.locator(".look-body figure:visible")
    assert shown.count() == 1 and "hamsters" in shown.text_content()
    wide.keyboard.press("ArrowRight")
    assert look.locator("#look-title").text_content() == "wrong/IMG_1.jpg"
    assert look.locator("#look-place").text_content() == "2 of 7"
    assert look.locator(".look-body figure:visible").count() == 1  # the choice is kept
    wide.keyboard.press("ArrowLeft")
    wide.keyboard.press("ArrowLeft")
    assert look.locator("#look-place").text_content() == "7 of 7"
    look.locator("[data-do=on]").click()
    assert look.locator("#look-place").text_content() == "1 of 7"
    for _ in range(3):
        wide.keyboard.press("ArrowRight")
    assert look.locator(".look-body figure:visible").count() == 1  # no heat maps of this one
    wide.keyboard.press("Escape")
    assert not look.is_visible()
    focused = "document.activeElement.closest('[data-look]').querySelector('.file').textContent"
    assert wide.evaluate(focused) == "wrong/IMG_3.jpg"
    wide.keyboard.press("Enter")
    assert look.is_visible()
    look.locator("[data-do=close]").click()
    assert not look.is_visible()


def test_the_map_tells_of_the_image_under_the_pointer_and_under_the_keys(wide: Any) -> None:
    chart, card, ring = (
        wide.locator(f"#map {what}") for what in ("[data-chart]", ".card", ".ring")
    )
    chart.scroll_into_view_if_needed()
    marks = wide.locator("#map .mark-symbol path")
    assert marks.count() >= 60 and not card.is_visible()
    box = marks.nth(5).bounding_box()
    at = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    wide.mouse.move(*at)
    assert card.is_visible() and card.locator("img").evaluate("(i) => i.naturalWidth") == 32
    path = card.locator(".file").text_content()
    assert re.fullmatch(r"map/\d+\.jpg", path)
    round_it = ring.bounding_box()
    assert abs(round_it["x"] + round_it["width"] / 2 - at[0]) < 3  # the ring lies on the mark
    assert abs(round_it["y"] + round_it["height"] / 2 - at[1]) < 3
    wide.mouse.move(2, 2)
    assert not card.is_visible()
    chart.focus()
    wide.keyboard.press("Home")
    start = card.locator(".file").text_content()
    seen = {start}
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        wide.keyboard.press(key)
        seen.add(card.locator(".file").text_content())
    assert len(seen) >= 3
    wide.keyboard.press("w")
    assert "answered" in card.text_content()
    wide.keyboard.press("Escape")
    assert not card.is_visible()


def test_wrong_answers_differ_on_the_map_by_shape_and_outline(wide: Any) -> None:
    marks = wide.evaluate(
        "Array.from(document.querySelectorAll('#map .mark-symbol path'), (m) => "
        "[m.getAttribute('d').includes('A'), m.getAttribute('stroke')])"
    )
    rounds = [stroke for is_round, stroke in marks if is_round]
    others = [stroke for is_round, stroke in marks if not is_round]
    assert len(others) == 9 and set(others) == {"#1d2a35"} and "#1d2a35" not in rounds


def test_a_class_is_brought_forward_on_both_curves(wide: Any) -> None:
    widths = (
        "Array.from(document.querySelectorAll('[data-chart=roc] .mark-line path'),"
        " (p) => p.getAttribute('stroke-width'))"
    )
    assert "3" not in wide.evaluate(widths)
    wide.select_option("#front", "1")
    wide.wait_for_function(f"{widths}.includes('3')")
    wide.select_option("#front", "-1")


def test_it_prints(wide: Any) -> None:
    assert wide.pdf()[:5] == b"%PDF-"


def test_without_scripts_the_facts_are_still_there(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    facts = page.locator("#mistakes details").first
    facts.locator("summary").click()
    assert "90.0\u00a0%" in facts.inner_text() and facts.locator("img").nth(1).is_visible()
    assert "Too few images for people." in page.inner_text("#readers")
    context.close()


def test_hostile_names_are_text_in_every_section(browser: Any, hostile: Path) -> None:
    page = opened(browser, hostile, 820)
    assert {name for name, *_ in page.evaluate(CHARTS)} == NAMES
    prefix = HOSTILE[1]
    for section, words in {
        "thresholds": HOSTILE[2],
        "readers": f"{prefix}reader 0",
        "parts": f"{prefix}camera",
        "sites": f"{prefix}site 3",
        "mistakes": f"{prefix}wrong/IMG_0.jpg",
        "labels": f"{prefix}doubt/0.jpg",
        "filters": f"{prefix}b1",
        "map": f"{prefix}Alike lie together.",
        "again": f"{prefix}no filters of the last stage",
    }.items():
        assert words in page.locator(f"#{section}").text_content(), section
    page.locator("#mistakes .open").first.click()
    assert f"{prefix}wrong/IMG_0.jpg" in page.locator("#look").text_content()
    assert page.locator("#look script, #look svg script").count() == 0
    page.keyboard.press("Escape")
    page.locator("#map [data-chart]").focus()
    page.keyboard.press("w")
    assert f"{prefix}map/" in page.locator("#map .card").text_content()
    quiet(page, hostile)
    page.close()


def test_the_largest_report_stays_small(tmp_path: Path) -> None:
    """Two thousand points on the map, and pictures as large as they may be."""
    run = samples.write_run(tmp_path / "run", CLASSES)
    judged.depict(run, CLASSES, points=2000)
    stored = json.loads((run / "pictures.json").read_text())
    noise = judged.noise(320, 240)
    heats = {key: noise for key in ("picture", "heat_predicted", "heat_label")}
    stored["mistakes"] = [stored["mistakes"][0] | heats for _ in range(24)]
    tiny = judged.noise(32, 24)
    for point in stored["map"]["points"]:
        point["thumbnail"] = tiny
    (run / "pictures.json").write_text(json.dumps(stored))
    assert len(render(run).encode()) < 8e6
