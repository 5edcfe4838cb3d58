"""The report: one HTML file that tells a person what was found, what was done and how good it is.

It renders what the steps before have stored and computes nothing about the data. How hostile strings
are kept harmless: see `page`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstart.explain.stored import surgery_of_json
from headstart.explain.surgery_diagram import draw_surgery
from headstart.run import read_json
from headstart.ship import report_judgement, report_names, report_pictures, report_words
from headstart.ship.chart_parts import MOST_CLASSES, Chart, Record, is_share, record, records
from headstart.ship.charts import all_charts
from headstart.ship.judge_charts import judge_charts
from headstart.ship.page import (
    cleaned,
    environment,
    json_block,
    optional,
    picture,
    specs,
    texts,
    vega,
)
from headstart.ship.picture_charts import feature_map
from headstart.ship.plan_charts import MOST_CANDIDATES
from headstart.ship.report_use import CORRECTED, fit_command, quoted, use_commands

EXPECTED = {
    "check": ("data.json",),
    "evaluate": ("evaluation.json",),
    "plan": ("data.json", "plan.json"),
    "fit": ("data.json", "plan.json", "evaluation.json", "mistakes.json"),
}
# Not of every run, so no reason to complain.
SOMETIMES = ("findings.json", "nested.json", "surgery.json", "training.json", "pictures.json")
SHOWN = 30  # rows of a long list; the rest is counted and stays in the JSON file
TITLES = {
    "data": "The data",
    "plane": "Size and similarity",
    "surgery": "The network",
    "decision": "The decision",
    "depth": "Depth",
    "candidates": "Candidates",
    "training": "Training",
    "quality": "How good it is",
    "thresholds": "Thresholds",
    "readers": "People and model",
    "parts": "Parts of the images",
    "sites": "New places",
    "doubt": "Knowing its limits",
    "mistakes": "Mistakes",
    "labels": "Suspicious labels",
    "filters": "What the layers see",
    "map": "Map",
    "more": "More data",
    "use": "Use",
    "again": "Reproduce",
}
"""the sections in their order, as the navigation names them"""
KEPT = {
    "check": ("data", "again"),
    "evaluate": ("quality", "again"),
    "plan": ("data", "plane", "decision", "depth", "candidates", "again"),
}
"""of the sections that say what is missing, those that belong to a command; all to any other"""
MADE_OF = {
    "data": "data",
    "plane": "plan",
    "decision": "plan",
    "depth": "plan",
    "candidates": "plan",
    "quality": "evaluation",
    "mistakes": "gallery",
}
"""what a section is made of; after a failure, one that has nothing is left out"""


def render(run_dir: Path) -> str:
    """The HTML text of the report of one run folder.

    Args:
        run_dir: a run folder; only run.json must be there, and the report says what else is missing.

    Raises:
        RunFolderError: run.json is missing or is not a JSON object.
    """
    run = cleaned(read_json(run_dir / "run.json"))
    command = str(run.get("command") or record(run.get("settings")).get("command"))
    expected = EXPECTED.get(command, EXPECTED["fit"])
    stored = {
        name.removesuffix(".json"): optional(run_dir / name)
        for name in (*EXPECTED["fit"], *SOMETIMES)
    }
    data, plan, evaluation, training = (
        record(stored[name]) for name in ("data", "plan", "evaluation", "training")
    )
    pictures = report_pictures.pictures(record(stored["pictures"]))
    charts = all_charts(data, plan, evaluation, training) | judge_charts(evaluation, plan)
    mapped = feature_map(record(record(stored["pictures"]).get("map")))
    if mapped is not None:
        charts[mapped.name] = mapped
    has_model = (run_dir / "model").is_dir()
    failed = run.get("status") == "failed" and not has_model
    facts = {
        "command": command,
        "has_model": has_model,
        "failed": failed,
        "planned": command == "plan",
        "name": str(run.get("name") or data.get("root") or cleaned(run_dir.resolve().name)),
        "run": run,
        "data": data,
        "plan": plan,
        "evaluation": evaluation,
        "training": training,
        "missing": [name for name in expected if stored[name.removesuffix(".json")] is None],
        "opening": _opening(command, data, plan, evaluation, run, failed),
        "surgery": _surgery(record(stored["surgery"])),
        "findings": _findings(data, record(stored["findings"])),
        "pictures": pictures,
        "unread": records(evaluation.get("unreadable")),
        "gallery": _gallery(stored["mistakes"], pictures["mistakes"]),
        "map": pictures["map"],
        "map_points": json_block(pictures["map"]["card"]) if mapped else None,
        **_said(plan, evaluation, record(stored["nested"]), training, run),
        "learned": report_words.learned_words(evaluation, "the judged model"),
        "nested": report_words.is_nested(evaluation),
        **report_judgement.facts(evaluation, plan),
        **_to_copy(run_dir, run),
        **_drawn(charts),
    }
    facts["sections"] = [(key, TITLES[key]) for key in TITLES if _belongs(key, command, facts)]
    return str(environment().get_template("report.html").render(**facts))


def _opening(
    command: str, data: Record, plan: Record, evaluation: Record, run: Record, failed: bool
) -> list[str]:
    """Three sentences: what was found, what was done, how good it is; of a check only the first,
    of a failure what there is."""
    if command == "check":
        return [report_words.found(data)]
    if command == "plan":
        return [report_words.found(data), report_words.planned(plan)]
    if command == "evaluate":
        return [
            *report_words.evaluated(evaluation, run),
            report_words.how_good({"metric": evaluation.get("metric")}, evaluation),
        ]
    if failed:
        done = [report_words.done(plan)] if plan.get("strategy") else []
        return [report_words.found(data), *done, "The run failed before there was a model."]
    return [
        report_words.found(data),
        report_words.done(plan),
        report_words.how_good(plan, evaluation),
    ]


def _belongs(key: str, command: str, facts: Record) -> bool:
    """Whether a section has something to tell; the main ones say what is missing."""
    kept = KEPT.get(command)
    if facts["failed"] and key in MADE_OF and not facts[MADE_OF[key]]:
        return False
    needs = {
        "surgery": facts["surgery"],
        "training": facts["training"],
        "thresholds": facts["operating"] or facts["charts"].get("roc"),
        "readers": facts["readers"],
        "parts": facts["parts"],
        "sites": facts["sites"],
        "doubt": facts["sets"] or facts["unlike"],
        "labels": facts["pictures"]["suggestions"] or facts["listed"],
        "filters": facts["pictures"]["filters"],
        "map": facts["map_points"],
        "more": facts["evaluation"] and command != "evaluate",
        "use": facts["has_model"] and kept is None,
    }
    if key in needs:
        return bool(needs[key]) and command != "check"
    return kept is None or key in kept


def _said(
    plan: Record, evaluation: Record, nested: Record, training: Record, run: Record
) -> dict[str, Any]:
    """The sentences and tables that are made of stored numbers."""
    return {
        "versions": {"headstart": run.get("headstart"), **record(run.get("versions"))},
        "tried": report_words.tried(plan),
        "unit": "points" if is_share(plan.get("metric")) else "units of the score",
        "estimates": report_words.estimates(plan, evaluation, nested),
        "inner_choices": report_words.inner_choices(nested),
        "confused": report_words.confused(evaluation),
        "augmentations": report_words.augmentations(training, run, plan.get("metric")),
        "mixtures": report_words.mixtures(training),
        "trained_again": report_words.trained_again(training),
        "asked": report_words.augmentations_asked(run),
        "training_notes": texts(training.get("notes")),
        "retrained": plan.get("strategy") in report_names.RETRAINED,
        "name_parts": report_words.names_of(plan),
        "short": report_names.SHORT,
        "kinds": report_names.CASES,
        "strategies": report_names.STRATEGIES,
        "meanings": report_names.MEANINGS,
        "happened": report_names.KINDS,
        "shown": SHOWN,
        "most_classes": MOST_CLASSES,
        "most_candidates": MOST_CANDIDATES,
    }


def _to_copy(run_dir: Path, run: Record) -> dict[str, Any]:
    """The commands of this run."""
    doubtful = run_dir / "suggestions.csv"
    return {
        "commands": use_commands(run_dir),
        "again_command": f"headstart report {quoted(run_dir)}",
        "fit_command": fit_command(run),
        "relabel_command": fit_command(run, relabel=run_dir / CORRECTED),
        "corrected": CORRECTED,
        "suggestions_file": quoted(doubtful),
    }


def _drawn(charts: dict[str, Chart]) -> dict[str, Any]:
    """The charts, and what draws them."""
    return {"charts": charts, "specs": specs(charts), "vega": vega()}


def _gallery(stored: Any, closer: list[Record]) -> list[Record]:
    """The mistakes: with all that pictures.json holds of them, or plain thumbnails."""
    if closer:
        return closer
    rows = stored.get("mistakes") if isinstance(stored, dict) else stored
    return [{**row, "source": picture(row.get("thumbnail"))} for row in records(rows)]


def _findings(data: Record, stored: Record) -> list[Record]:
    """What shows one picture twice, by kind: all names, and some pairs side by side."""
    pairs = [
        {**pair, "images": [{**side, "source": picture(side.get("thumbnail"))} for side in sides]}
        for pair in stored.get("pairs") or []
        if isinstance(sides := pair.get("images"), list)
    ]
    return [
        {
            "title": title,
            "explanation": explanation,
            "paths": paths,
            "pairs": [pair for pair in pairs if pair.get("finding") == name],
        }
        for (name, paths), (title, explanation) in zip(
            report_words.found_paths(data).items(), report_names.FINDINGS.values(), strict=True
        )
        if paths
    ]


def _surgery(stored: Record) -> Any:
    """The drawing of what was done to the network; made by us, every string in it escaped."""
    import markupsafe

    surgery = surgery_of_json(stored)
    return None if surgery is None else markupsafe.Markup(draw_surgery(surgery))
