"""The pages open in a browser without a word, a request or a scroll bar across."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart.explain.filters import show_filters
from headstart.explain.page import inline, render_page
from headstart.explaining import explain
from headstart.plan.decide import Candidate

LONG = "a_name_of_a_file_that_goes_on_and_on_" * 5


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


@pytest.fixture(scope="module")
def pages(
    bundle_of: Callable[..., Path],
    graph_of: Callable[..., Any],
    pictures: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Path]:
    """An explanation and the filters, of pictures with long names."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "in").mkdir()
    for path in pictures:
        shutil.copy(path, folder / "in" / f"{LONG}{path.name}")
    model = bundle_of("test_resnet", Candidate("t", "head_top", None, 1))
    explain(model, folder / "in", folder / "why")
    weights = graph_of("demo").weights
    show_filters("demo", folder / "in", folder / "filters", weights=weights)
    return [folder / "why" / "index.html", folder / "filters" / "index.html"]


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_every_picture_square_and_whole(
    browser: Any, pages: list[Path], width: int
) -> None:
    for path in pages:
        page = browser.new_page(viewport={"width": width, "height": 900})
        said: list[str] = []
        page.on("console", lambda message, said=said: said.append(message.text))
        page.on("pageerror", lambda error, said=said: said.append(str(error)))
        page.on("request", lambda request, said=said: said.append(request.url[:200]))
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('img').forEach((i) => { i.loading = 'eager' })")
        page.wait_for_function("Array.from(document.images).every((i) => i.complete)")
        assert [line for line in said if not line.startswith("data:")] == [path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = page.evaluate(
            "Array.from(document.querySelectorAll('.patches img, .kernels img'), (i) => ["
            "i.naturalWidth, i.getBoundingClientRect().width, i.getBoundingClientRect().height])"
        )
        assert all(n > 0 and abs(w - h) < 1 and w > 20 for n, w, h in boxes), boxes
        assert page.evaluate("document.images.length") > 10
        page.close()


def test_small_pictures_keep_every_pixel_and_large_ones_shrink() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    assert inline(Image.fromarray(noise[:9, :9])).startswith("data:image/png;base64,iVBOR")
    assert inline(Image.fromarray(noise), 100).startswith("data:image/webp;base64,UklGR")
    assert len(inline(Image.fromarray(noise), 60)) < len(inline(Image.fromarray(noise), 200)) / 3


def test_a_fact_that_a_page_needs_must_be_given() -> None:
    import jinja2

    with pytest.raises(jinja2.UndefinedError):
        render_page("answers.html", {"name": "a"})
