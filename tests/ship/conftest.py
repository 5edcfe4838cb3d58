"""One finished run for all tests of this folder, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runs import train
from toys import draw_photos


@dataclass(frozen=True)
class Toys:
    """A toy data set, the run on it, and a run of the same that was cut early."""

    photos: Path
    run: Path
    early: Path


@pytest.fixture(scope="session")
def toys(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Toys:
    """3 colours x 12 photos, trained on once as headstart chooses and once with --cut b1."""
    folder = tmp_path_factory.mktemp("toys")
    photos = draw_photos(folder / "photos", per_class=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(toy_cache))
        patch.setattr("headstart.data.split.NESTED_BELOW", 0)  # split as large sets are
        run = train(photos, folder / "run")
        early = train(photos, folder / "early", cut="b1")
    return Toys(photos, run, early)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium, or a skip; per module, for two of them cannot be driven at once."""
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
