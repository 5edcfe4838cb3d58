"""Two finished runs side by side: what was set, what was seen, what each gets right; pair.json and a page.

Scores are compared only on images that both runs were judged on, image by image. Runs without such
images are shown beside each other, and no difference is made of them.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ArgumentError, DataError, HeadstartError, RunFolderError
from headstart.files import strict
from headstart.judge.grouped import CROSS_VALIDATED
from headstart.judge.paired import Answers, compare, only_right, read_answers
from headstart.judge.paired import to_json as paired_to_json
from headstart.judge.words import counted
from headstart.run import atomic_write, next_free, read_json, write_json

KIND = "two runs side by side"
PATHS = 20
"""paths that are listed of the images that only one run gets right"""
LEAST_GROUPS = 5
"""with fewer, a variance over groups says nothing"""
OF_THE_DATA = ("data", "table", "test", "listing", "command")
"""settings that say which data, which are told apart from the others"""
PLAN = ("case", "strategy", "cut", "chosen", "metric")
CROSSED = ("nested", "verifying", "cross-validation")
"""how the protocols of held-out answers begin"""


def report_pair(first: Path, second: Path, out: Path | None = None) -> Path:
    """Write the page of two runs, and the same as JSON beside it; returns the page.

    Args:
        first, second: folders of finished runs of `fit` or `evaluate`.
        out: HTML file; default: pair.html in a new folder runs/<first>-and-<second>-<k>.

    Raises:
        RunFolderError: a folder without scores. ArgumentError: twice the same run, or an `out` that is
            no HTML file, or where something else lies already.
    """
    from headstart.ship.pair_page import render_pair

    stored = compare_runs(first, second)
    page = out or next_free(Path(f"{_name(first)}-and-{_name(second)}")) / "pair.html"
    _must_be_free(page)
    text = render_pair(stored)
    write_json(page.with_suffix(".json"), stored)
    atomic_write(page, text)
    return page


def _must_be_free(page: Path) -> None:
    """An earlier page of this kind may be written again; nothing else is ever overwritten."""
    if page.suffix.casefold() != ".html":
        raise ArgumentError(
            "--out of two runs is an HTML file, with the same as JSON beside it",
            received=str(page), do="Give a name that ends in .html.",
        )  # fmt: skip
    beside = page.with_suffix(".json")
    there = [path for path in (page, beside) if os.path.lexists(path)]
    if not there:
        return
    try:
        own = read_json(beside).get("kind") == KIND
    except HeadstartError:
        own = False
    if not own:
        raise ArgumentError(
            "Something else lies where this page or its JSON would go", where=there[0],
            do="Choose another name with --out.",
        )  # fmt: skip


def compare_runs(first: Path, second: Path) -> dict[str, Any]:
    """Everything that two runs have stored and that can be told side by side; what pair.json holds.

    Raises:
        RunFolderError: a folder without scores. ArgumentError: twice the same run.
    """
    if os.path.realpath(first) == os.path.realpath(second):
        raise ArgumentError(
            "A run cannot stand beside itself", where=second, do="Give two different run folders."
        )
    runs = [_stored(folder) for folder in (first, second)]
    names = (_name(first), _name(second))
    if names[0] == names[1]:
        names = (str(first), str(second))
    same, notes = _same_files(runs[0]["run"], runs[1]["run"])
    found = _paired((first, second), runs, names, same)
    stored: dict[str, Any] = strict({
        "kind": KIND,
        "names": list(names),
        "runs": [_told(run, name) for run, name in zip(runs, names, strict=True)],
        "settings": _apart(*(_settings(run["run"]) for run in runs)),
        "data": _apart(*(_data(run) for run in runs)),
        "same_files": same,
        "scores": _scores(runs),
        "notes": [*notes, *found.pop("notes")],
        **found,
    })  # fmt: skip
    return stored


def _name(folder: Path) -> str:
    return Path(os.path.realpath(folder)).name


def _stored(folder: Path) -> dict[str, dict[str, Any]]:
    """run.json, evaluation.json, and what else there is of plan.json and data.json."""
    found = {"run": read_json(folder / "run.json")}
    if not (folder / "evaluation.json").is_file():
        raise RunFolderError(
            "This run has no scores", where=folder,
            received=f"a run of headstart {found['run'].get('command')}",
            do="Give two finished runs of headstart fit or headstart evaluate.",
        )  # fmt: skip
    for name in ("evaluation", "plan", "data"):
        file = folder / f"{name}.json"
        found[name] = read_json(file) if file.is_file() else {}
    return found


def _record(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _records(value: object) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def _told(run: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """One run in a few facts."""
    manifest, plan, evaluation = run["run"], run["plan"], run["evaluation"]
    backbone = _record(plan.get("backbone"))
    return {
        "name": name,
        "command": manifest.get("command"),
        "status": manifest.get("status"),
        "seconds": manifest.get("seconds"),
        **{key: plan.get(key) for key in PLAN},
        "backbone": backbone.get("name"),
        "size_px": backbone.get("size_px"),
        "n": evaluation.get("n"),
        "protocol": evaluation.get("protocol"),
    }


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    known = _record(manifest.get("settings"))
    return {key: value for key, value in known.items() if key not in OF_THE_DATA}


def _data(run: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What a run was given, and which of it judged it."""
    settings, data = _record(run["run"].get("settings")), run["data"]
    files = _record(settings.get("listing"))
    counts = _records(data.get("counts"))
    learned = sum(row.get("train") or 0 for row in counts) if counts else None
    return {
        **{key: settings.get(key) for key in ("data", "table", "test")},
        "files": files.get("files"),
        "bytes": files.get("bytes"),
        "classes": run["evaluation"].get("classes"),
        "images to learn from": learned,
        "images that judge it": run["evaluation"].get("n"),
        "how it was judged": run["evaluation"].get("protocol"),
    }


def _apart(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What differs, in the order of the first."""
    return [
        {"name": key, "first": first.get(key), "second": second.get(key)}
        for key in dict.fromkeys((*first, *second))
        if first.get(key) != second.get(key)
    ]


def _scores(runs: list[dict[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Every score of either run on the images that judged it, by name."""
    known = [
        {
            row["name"]: row
            for row in _records(run["evaluation"].get("metrics"))
            if isinstance(row.get("name"), str)
        }
        for run in runs
    ]
    return [
        {"name": name, "first": known[0].get(name), "second": known[1].get(name)}
        for name in dict.fromkeys((*known[0], *known[1]))
    ]


def _same_files(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[bool, list[str]]:
    """Whether equal paths mean equal files: the same folder, or the same names and sizes."""
    one, two = (_record(manifest.get("settings")) for manifest in (first, second))
    digests = [_record(settings.get("listing")).get("digest") for settings in (one, two)]
    equal = digests[0] is not None and digests[0] == digests[1]
    there = _places(one) == _places(two)
    notes = []
    if there and None not in digests and not equal:
        notes.append("Files were added, taken away or changed between the two runs.")
    return equal or there, notes


def _places(settings: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Where the images of a run lay, and those of --test."""
    data, table, test = (settings.get(key) for key in ("data", "table", "test"))
    root = data if data is not None else None if table is None else Path(str(table)).parent
    known = (None if place is None else os.path.realpath(str(place)) for place in (root, test))
    return next(known), next(known)


def _paired(
    folders: tuple[Path, Path],
    runs: list[dict[str, dict[str, Any]]],
    names: tuple[str, str],
    same: bool,
) -> dict[str, Any]:
    """The comparison on common images, or why there is none."""
    alone: dict[str, Any] = {"paired": None, "only_right": None, "notes": []}
    if not same:
        why = "the two runs were given different files, so equal paths need not be equal images"
        return alone | {"sentence": _apart_sentence(why)}
    try:
        first, second = (read_answers(folder / "predictions.csv") for folder in folders)
        groups, told = _groups(folders, first)
        wider = any(_crossed(run["evaluation"]) for run in runs)
        found = compare(first, second, names, groups, CROSS_VALIDATED if wider else 1.0)
        right = only_right(first, second, names)
    except DataError as cause:
        return alone | {"sentence": _apart_sentence(str(cause).rstrip("."))}
    notes = [
        "Differences are first minus second; for the log loss less is better. An interval covers which "
        "images were drawn, not the luck of training: the same settings with another seed differ too."
    ]
    if wider:
        notes.append(
            f"Held-out answers lean on each other: intervals are {CROSS_VALIDATED} times as wide."
        )
    notes += told
    return {
        "sentence": found.sentence,
        "paired": paired_to_json(found),
        "only_right": {
            "first": {"count": len(right.first), "paths": list(right.first[:PATHS])},
            "second": {"count": len(right.second), "paths": list(right.second[:PATHS])},
            "both": right.both,
            "neither": right.neither,
        },
        "notes": notes,
    }


def _apart_sentence(why: str) -> str:
    return (
        f"No image was judged by both runs in a way that can be compared: {why}. Their scores stand "
        "beside each other, and their difference would mean nothing."
    )


def _crossed(evaluation: Mapping[str, Any]) -> bool:
    """Whether the answers are those of a cross-validation."""
    stored = evaluation.get("cross_validated")
    if isinstance(stored, bool):
        return stored
    return str(evaluation.get("protocol")).startswith(CROSSED)


def _groups(
    folders: tuple[Path, Path], answers: Answers
) -> tuple[NDArray[np.int64] | None, list[str]]:
    """[N] what counts as one draw, from split.csv of either run, and a note on it; None: every image."""
    known: dict[str, str] = {}
    for file in (folder / "split.csv" for folder in reversed(folders)):
        if file.is_file():
            with file.open(newline="", encoding="utf-8") as text:
                known = {row["path"]: row.get("group") or "" for row in csv.DictReader(text)}
    names = [known.get(path) or f"path {path}" for path in answers.paths]
    count = len(set(names))
    if count == len(names):
        return None, []
    if count < LEAST_GROUPS:
        return None, [
            f"The judged images come from {counted(count, 'group')}, too few to be draws: what "
            "is said holds for these very groups, and images are the draws."
        ]
    groups = np.asarray(np.unique(names, return_inverse=True)[1], dtype=np.int64)
    return groups, ["Images of one group count as one draw."]
