"""Shared toys and real data: the core of every test runs on what is drawn here.

Real data sets are found through $HEADSTART_DATA (unpacked folders) or as archives in ../shared/data;
tests that want one skip with a reason when it is absent.
"""

from __future__ import annotations

import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from toys import REPOSITORY, draw_photos

ARCHIVES = REPOSITORY.parent / "shared" / "data"


def pytest_configure() -> None:
    """Tests stop processes with Ctrl-C: what runs in the background of a shell would ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`dataset("trashnet")` is the folder of a real data set, or skips the test."""
    unpacked: dict[str, Path] = {}

    def find(name: str) -> Path:
        given = os.environ.get("HEADSTART_DATA")
        if given and (Path(given) / name).exists():
            return Path(given) / name
        if (ARCHIVES / name).is_file():
            return ARCHIVES / name
        archive = ARCHIVES / f"{name}.tar"
        if not archive.is_file():
            pytest.skip(f"the data set {name} is not at hand ($HEADSTART_DATA, {archive.name})")
        if name not in unpacked:
            folder = tmp_path_factory.mktemp("data")
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
            unpacked[name] = folder / name
        return unpacked[name]

    return find


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A toy folder: 3 colours x 12 photos."""
    return draw_photos(tmp_path / "photos", per_class=12)


@pytest.fixture(scope="session")
def toy_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the whole session: the network is exported once, not once per test."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(toy_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("HEADSTART_CACHE", str(toy_cache))


@pytest.fixture(autouse=True)
def _no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs look once unless a test gives them minutes: further looks have tests of their own."""
    monkeypatch.setattr("headstart.settings.DEFAULT_BUDGET_MIN", 0.0)
