"""Two runs side by side: paired where images are common, never a difference where they are not."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from headstart import results
from headstart.errors import ArgumentError, RunFolderError
from headstart.files import csv_text
from headstart.judge.evaluate import evaluate
from headstart.pairing import compare_runs, report_pair
from headstart.run import read_json, write_json
from headstart.ship.pair_page import render_pair
from runs import call, refused

CLASSES = ("cat", "dog")
EVIL = "</script><img src=x onerror=alert(1)>\u202e"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(
    name: str, signal: float, rows: range = range(200), *, data: str = "photos", crossed: bool = False,
    classes: tuple[str, ...] = CLASSES, groups: int = 0, **settings: Any,
) -> Path:  # fmt: skip
    """A run folder as `fit` leaves it, of a model that is right the more often the stronger the signal."""
    rng, noise = np.random.default_rng(0), np.random.default_rng(len(name))
    labels = np.arange(400) % 2
    common = rng.normal(size=(400, 2))
    p = softmax(common + 0.4 * noise.normal(size=(400, 2)) + signal * np.eye(2)[labels], axis=1)
    keep, folder = np.array(rows), Path(name)
    paths = [f"{classes[labels[i]]}/{i}.jpg" for i in rows]
    folder.mkdir(parents=True)
    protocol = "nested cross-validation: 5 folds" if crossed else "given test part"
    found = evaluate(p[keep], labels[keep], classes, protocol)
    write_json(
        folder / "evaluation.json", results.evaluation_json(found) | {"cross_validated": crossed}
    )
    listing = {"files": 400, "bytes": 9, "digest": data}
    known = {"command": "fit", "data": data, "table": None, "test": None, "listing": listing}
    write_json(folder / "run.json", {
        "status": "done", "command": "fit", "name": name, "seconds": 12.5, "settings": {**known, **settings},
    })  # fmt: skip
    text = results.predictions_csv(paths, labels[keep], p[keep], classes)
    (folder / "predictions.csv").write_text(text, encoding="utf-8")
    if groups:
        names = [[path, "", "test", i // groups, ""] for i, path in enumerate(paths)]
        table = csv_text(["path", "label", "split", "group", "fold"], names)
        (folder / "split.csv").write_text(table, encoding="utf-8")
    write_json(folder / "plan.json", {"case": 1, "strategy": "head_top", "chosen": "head_top"})
    return folder


def test_common_images_are_compared_one_by_one_for_all_scores_at_once() -> None:
    good, bad = run("good", 3.0, size=224), run("bad", 0.3, size=96)
    found = compare_runs(good, bad)
    assert found["paired"]["n"] == 200
    rows = {row["metric"]: row for row in found["paired"]["differences"]}
    assert all(row["real"] for row in rows.values())
    assert rows["accuracy"]["difference"]["value"] > 0.1
    for row in rows.values():  # one interval holds alone, the other for all scores together
        assert row["together"]["low"] < row["difference"]["low"]
        assert row["difference"]["high"] < row["together"]["high"]
    assert "good against bad: real differences" in found["sentence"]
    assert found["settings"] == [{"name": "size", "first": 224, "second": 96}]
    assert found["data"] == []
    right = found["only_right"]
    assert (
        right["both"] + right["neither"] + right["first"]["count"] + right["second"]["count"] == 200
    )
    assert right["first"]["count"] - right["second"]["count"] == round(
        200 * rows["accuracy"]["difference"]["value"]
    )
    assert len(right["first"]["paths"]) == min(20, right["first"]["count"])
    answers = {}
    for folder in (good, bad):
        with (folder / "predictions.csv").open(newline="") as file:
            answers[folder] = {
                r["path"]: r["label"] == r["predicted"] for r in csv.DictReader(file)
            }
    assert all(answers[good][path] and not answers[bad][path] for path in right["first"]["paths"])


def test_the_page_of_common_images_holds_every_difference_and_path() -> None:
    found = compare_runs(run("good", 3.0, size=224), run("bad", 0.3, size=96))
    assert found == json.loads(json.dumps(found, allow_nan=False))
    page = render_pair(found)
    assert "On 200 common images" in page and "For all scores at once" in page
    assert page.count("<td>yes</td>") == 4
    for side in ("first", "second"):
        assert all(f"<bdi>{path}</bdi>" in page for path in found["only_right"][side]["paths"])
    assert "Only <bdi>good</bdi>: " in page and 'data-chart="scores"' in page
    assert "<td>224</td><td>96</td>" in page


def test_runs_without_a_common_image_get_no_difference() -> None:
    one, other = run("one", 2.0, range(100)), run("other", 1.0, range(100, 300))
    found = compare_runs(one, other)
    assert found["paired"] is None and found["only_right"] is None
    assert "judged on no common image" in found["sentence"]
    assert "difference would mean nothing" in found["sentence"]
    names = [row["name"] for row in found["scores"]]
    assert "accuracy" in names
    assert all(row["first"]["n"] == 100 and row["second"]["n"] == 200 for row in found["scores"])
    page = render_pair(found)
    assert "For all scores at once" not in page and "Only <bdi>" not in page
    assert 'data-chart="scores"' in page


def test_equal_names_in_other_folders_are_other_images() -> None:
    found = compare_runs(run("one", 2.0), run("other", 1.0, data="elsewhere"))
    assert found["paired"] is None and found["same_files"] is False
    assert "given different files" in found["sentence"]
    assert {"data", "files"} >= {row["name"] for row in found["data"]}


def test_what_cannot_be_paired_is_said_in_the_words_of_the_reason() -> None:
    found = compare_runs(run("one", 2.0), run("other", 1.0, classes=("cat", "fox")))
    assert found["paired"] is None and "different classes" in found["sentence"]


def test_held_out_answers_and_groups_make_it_less_sure() -> None:
    plain = compare_runs(run("a", 2.0), run("b", 1.5))
    crossed = compare_runs(run("c", 2.0, crossed=True), run("d", 1.5, crossed=True))
    tied = compare_runs(run("e", 2.0, groups=10), run("f", 1.5, groups=10))
    assert "1.3 times as wide" in " ".join(crossed["notes"])
    assert "one group count as one draw" in " ".join(tied["notes"])
    wide = [
        f["paired"]["differences"][0]["difference"]["high"]
        - f["paired"]["differences"][0]["difference"]["low"]
        for f in (plain, crossed, tied)
    ]
    assert wide[1] == pytest.approx(1.3 * wide[0], rel=0.3)  # the draws of noise differ by the name
    assert "effective images" in tied["paired"]["differences"][0]["difference"]["method"]
    older = read_json(Path("c/evaluation.json"))
    del older["cross_validated"]
    write_json(Path("c/evaluation.json"), older)
    assert compare_runs(Path("c"), Path("d"))["notes"] == crossed["notes"]


def test_a_few_sites_are_taken_as_they_are() -> None:
    found = compare_runs(run("good", 3.0, groups=100), run("bad", 0.3, groups=100))
    assert "come from 2 groups, too few to be draws" in " ".join(found["notes"])
    assert all(row["real"] for row in found["paired"]["differences"])


def test_the_page_goes_to_a_new_place_and_overwrites_nothing(capsys: Any) -> None:
    run("runs/toy-1", 2.0)
    run("runs/toy-2", 1.0)
    for k in (1, 2):
        assert call("report", "runs/toy-1", "runs/toy-2") == 0
        page = Path(capsys.readouterr().out.strip())
        assert page == Path(f"runs/toy-1-and-toy-2-{k}/pair.html")
        assert read_json(page.with_suffix(".json"))["names"] == ["toy-1", "toy-2"]
        assert "<h1><bdi>toy-1</bdi> and <bdi>toy-2</bdi></h1>" in page.read_text(encoding="utf-8")
    assert call("report", "runs/toy-1", "runs/toy-2", "--out", "mine.html") == 0
    assert call("report", "runs/toy-1", "runs/toy-2", "--out", "mine.html") == 0  # its own page
    Path("thesis.html").write_text("years of work")
    told = refused(capsys, "report", "runs/toy-1", "runs/toy-2", "--out", "thesis.html")
    assert "Something else lies" in told
    assert "Something else lies" in refused(
        capsys, "report", "runs/toy-1", "runs/toy-2", "--out", "runs/toy-1/plan.html"
    )
    assert read_json(Path("runs/toy-1/plan.json"))["case"] == 1
    assert "ends in .html" in refused(capsys, "report", "runs/toy-1", "runs/toy-2", "--out", "x")
    assert Path("thesis.html").read_text() == "years of work"


def test_what_is_no_pair_of_runs_is_refused(capsys: Any) -> None:
    one = run("one", 2.0)
    with pytest.raises(ArgumentError, match="beside itself"):
        report_pair(one, Path("./one"))
    Path("plan").mkdir()
    write_json(Path("plan/run.json"), {"command": "plan"})
    with pytest.raises(RunFolderError, match=r"no scores.*headstart plan"):
        compare_runs(one, Path("plan"))
    assert "nowhere" in refused(capsys, "report", "one", "nowhere")
    assert not Path("runs").exists()


def test_hostile_names_stay_text_on_the_page() -> None:
    row = {"name": EVIL, "first": EVIL, "second": [EVIL]}
    metric = {"name": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "method": EVIL}
    side = {"count": 3, "paths": [EVIL, "__proto__"]}
    stored = {
        "names": [EVIL, "__proto__"],
        "runs": [{"name": EVIL, "status": EVIL, "chosen": EVIL, "protocol": EVIL}, {}],
        "settings": [row],
        "data": [row, {"name": "classes", "first": [EVIL] * 200, "second": None}],
        "scores": [{"name": "accuracy", "first": metric, "second": metric}, {"name": EVIL}],
        "sentence": EVIL,
        "paired": {"n": 3, "differences": [
            {"metric": EVIL, "first": metric, "second": EVIL, "difference": metric, "together": 3,
             "real": EVIL}]},
        "only_right": {"first": side, "second": side, "both": EVIL, "neither": None},
        "notes": [EVIL, 4],
    }  # fmt: skip
    page = render_pair(json.loads(json.dumps(stored)))
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert page.count("</script>") == 3
    assert "default-src 'none'" in page and "unsafe" not in page


def test_damaged_results_still_make_a_page() -> None:
    assert "headstart report, two runs" in render_pair({"names": 3, "scores": [1], "paired": []})
    one, other = run("one", 2.0), run("other", 1.0)
    write_json(one / "evaluation.json", {"metrics": 3})
    (other / "predictions.csv").unlink()
    found = compare_runs(one, other)
    assert found["paired"] is None and "does not exist" in found["sentence"]
    render_pair(found)


def test_the_page_draws_its_picture_and_does_not_scroll_sideways() -> None:
    """In a real browser, where the policy of the page is in force."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium found")
    page_file = report_pair(run("one", 3.0, size=224), run("a_run_with_a_long_name", 1.0, size=96))
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        for width_px in (390, 1280):
            page = browser.new_page(viewport={"width": width_px, "height": 900})
            said: list[str] = []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.goto(page_file.absolute().as_uri())
            page.wait_for_selector("body[data-drawn=yes]")
            (drawn,) = page.eval_on_selector_all(
                "[data-chart] svg", "all => all.map(e => e.clientWidth)"
            )
            assert said == []
            assert drawn > 250
            assert page.locator("[data-chart] svg .mark-symbol path").count() >= 8  # 4 of each run
            assert page.evaluate("document.documentElement.scrollWidth") <= width_px
        browser.close()
