"""What the README tells people to type works, on a toy folder of photos."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from toys import REPOSITORY, draw_photos

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MAP = (REPOSITORY / "docs" / "map.md").read_text(encoding="utf-8")
FILES = (REPOSITORY / "docs" / "files.md").read_text(encoding="utf-8")
DOCS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks() -> list[str]:
    """Indented blocks of code."""
    return re.findall(r"(?:^    .*\n|^\n(?=    ))+", README, flags=re.MULTILINE)


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    draw_photos(tmp_path / "my_photos", per_class=14)
    draw_photos(tmp_path / "new_photos", per_class=2, seed=1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_example_runs(cwd: Path) -> None:
    (example,) = [b for b in blocks() if "import headstart" in b]
    code = "\n".join(line[4:] for line in example.splitlines())
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    assert "new_photos" in done.stdout


def test_the_commands_run_in_their_order(cwd: Path) -> None:
    commands = [
        "headstart fit my_photos",
        "headstart plan my_photos",
        "headstart predict runs/my_photos-1 new_photos",
        "headstart report runs/my_photos-1",
        "headstart backbones",
        "headstart cache",
    ]
    for command in commands:
        verb = " ".join(command.split()[:2])
        assert verb in README
        done = subprocess.run(
            [sys.executable, "-m", *command.split()], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        assert "Traceback" not in done.stderr


def test_the_map_names_every_file() -> None:
    source = REPOSITORY / "src" / "headstart"
    missing = [p.name for p in source.rglob("*.py") if p.stem[0] != "_" and p.name not in MAP]
    assert missing == []


def test_the_map_names_only_files_that_are_there() -> None:
    there = {path.name for path in (REPOSITORY / "src" / "headstart").rglob("*") if path.is_file()}
    assert set(re.findall(r"[\w-]+\.(?:py|html)\b", MAP)) - there == set()


def test_the_environment_variables_are_named() -> None:
    source = REPOSITORY / "src" / "headstart"
    read = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r"\"(HEADSTART_[A-Z_]+)\"", path.read_text(encoding="utf-8"))
    }
    assert read and {name for name in read if f"`{name}" not in README + FILES} == set()


def test_every_file_of_a_run_and_every_column_is_described(cwd: Path) -> None:
    from runs import call

    assert call("fit", "my_photos", "--out", "run", "--budget", "0") == 0
    assert call("predict", "run", "new_photos", "--out", "new.csv") == 0
    assert call("next", "run", "new_photos", "--out", "next.csv") == 0
    made = [path for path in Path("run").rglob("*") if path.is_file()]
    assert {path.name for path in made if f"`{path.name}`" not in FILES} == set()
    for table in [
        *(path for path in made if path.suffix == ".csv"),
        Path("new.csv"),
        Path("next.csv"),
    ]:
        for column in table.read_text(encoding="utf-8").splitlines()[0].split(","):
            name = re.sub("^p_.*", "p_<class>", column)
            assert f"`{name}`" in FILES, f"{table}: {column}"


def test_every_linked_file_is_there() -> None:
    for page in DOCS:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_gallerys_commands_are_understood_and_its_example_names_no_folder_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    gallery = REPOSITORY / "docs" / "gallery"
    commands = re.findall(
        r"^    (headstart .*)$", (gallery / "README.md").read_text(), re.MULTILINE
    )
    assert len(commands) == 6
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, command
        # Every word is understood, only the images are not here.
        assert "data folder does not exist" in done.stderr, done.stderr
    example = (gallery / "digits.html").read_text(encoding="utf-8")
    assert 'data-chart="map"' in example
    assert not re.search(r"/(home|root|tmp|work|Users)/", example)
