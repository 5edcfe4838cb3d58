"""The street is one-way: no step imports a later one."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src" / "headstart"
ORDER = [
    "errors", "settings", "files", "naming", "run", "parallel", "notebook",
    "data", "backbone", "plan", "train", "judge", "explain", "ship", "gate",
    "learning", "gallery", "results", "opening", "explaining", "training", "suiting", "following", "retraining", "budgeting", "improving", "guarding", "held_out", "parting", "judging", "evaluating", "pairing", "proposing", "scene", "heating", "picturing", "pipeline", "compared", "comparing", "demo", "api", "__init__", "flags", "model_commands", "cli", "entry", "__main__",
]  # fmt: skip


def step_of(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_steps(path: Path) -> set[str]:
    """Steps of the project that a file imports anywhere, also inside functions."""
    steps = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module]
            if node.module == "headstart":
                names = [f"headstart.{alias.name}" for alias in node.names]
        else:
            continue
        steps |= {name.split(".")[1] for name in names if name.startswith("headstart.")}
    return steps


def test_every_file_belongs_to_a_step() -> None:
    assert {step_of(path) for path in SOURCE.rglob("*.py")} <= set(ORDER)


def test_no_step_imports_a_later_one() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)} imports {step}"
        for path in sorted(SOURCE.rglob("*.py"))
        for step in imported_steps(path)
        if ORDER.index(step) > ORDER.index(step_of(path))
    ]
    assert wrong == []


def test_files_fit_a_mind() -> None:
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in SOURCE.rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert long == {}


def test_there_is_no_attic() -> None:
    attics = {"utils", "util", "helpers", "common", "misc"}
    assert [p for p in SOURCE.rglob("*.py") if p.stem in attics] == []


def test_nothing_unpickles_or_evaluates() -> None:
    forbidden = ("import pickle", "joblib", "weights_only=False", "eval(", "exec(", "extractall")
    found = [
        f"{path.name}: {word}"
        for path in SOURCE.rglob("*.py")
        for word in forbidden
        if word in path.read_text(encoding="utf-8").replace(".eval()", "")
    ]
    assert found == []
