"""The decision and the result as plain text for the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from headstart.errors import show

BAR = 40
LISTED = 10
DONE = {
    "head_top": "a new head on the whole network, frozen",
    "head_cut": "the network cut after stage {cut}, and a new head on what is left, frozen",
    "all_stages": "a new head on the features of every stage, nothing cut, frozen",
}
SHOWN = ("accuracy", "balanced_accuracy", "auc")


def plan_text(plan: dict[str, Any]) -> str:
    """The decision: case, numbers, reasons, the depth profile, what would flip it."""
    lines = ["", *_quadrant(plan), "", *(show(reason) for reason in plan["reasons"]), ""]
    lines.append(f"How well each stage tells the classes apart ({_words(plan['metric'])}):")
    rows = [*plan["depth_curve"], plan["all_stages"] | {"stage": "all"}]
    best = max(rows, key=lambda row: row["score"])
    for row in rows:
        bar = "█" * round(BAR * max(0.0, row["score"]))
        mark = " ◀ best" if row is best else ""
        lines.append(f"  {show(row['stage']):>10} {row['score']:.3f} ± {row['se']:.3f} {bar}{mark}")
    lines.append(f"  {'guessing':>10} {plan['chance']:.3f}")
    lines += [*_remarks(plan), "", "What would flip it:"]
    lines += [f"  - {show(flip)}" for flip in plan["flips_if"]]
    return "\n".join(lines)


def check_text(folder: Path, data: dict[str, Any]) -> str:
    """What is in the folder, and what to act on."""
    lines = ["", f"{data['n']:,} readable images in {len(data['classes']):,} classes."]
    for title, rows in (
        (
            "unreadable files",
            [f"{r['path']}: {r['reason']}, {r['detail']}" for r in data["unreadable"]],
        ),
        ("files with the same content", [" = ".join(group) for group in data["duplicates"]]),
        ("same content under two classes", [" = ".join(g) for g in data["label_conflicts"]]),
        ("same content on both sides of your split", [" = ".join(g) for g in data["leaks"]]),
        (
            "near-duplicates",
            [f"{' ~ '.join(p['paths'])} ({p['kind']})" for p in data["near_duplicates"]],
        ),
        (
            "classes that look like one of the source's",
            [f"{o['class']} ~ {o['source']} ({o['share']:.0%})" for o in data["source_overlap"]],
        ),
    ):
        if rows:
            lines += ["", f"{len(rows):,} {title}:", *(f"  {show(row)}" for row in rows[:LISTED])]
            if len(rows) > LISTED:
                lines.append(f"  and {len(rows) - LISTED:,} more in data.json")
    lines += ["", *(f"! {show(note)}" for note in data["notes"])] if data["notes"] else []
    lines += [
        "",
        f"stored:  {show(folder / 'data.json')}",
        f"page:    {show(folder / 'report.html')}",
    ]
    return "\n".join(lines)


def fit_text(folder: Path, plan: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """The result: what was done, how good it is, where it lies, what to do next."""
    done = DONE.get(plan["strategy"], plan["strategy"]).format(cut=show(plan["cut"]))
    lines = ["", f"Trained: {done} ({_case(plan['case'])}).", _agreement(plan)]
    lines += [f"  {show(sentence)}" for sentence in plan["switch"]]
    n = evaluation["n"]
    nested = evaluation["protocol"].startswith("nested")
    what = "images, each held out in turn" if nested else f"test {'image' if n == 1 else 'images'}"
    lines += ["", f"On {n:,} {what}, with 95 % intervals:"]
    by_name = {metric["name"]: metric for metric in evaluation["metrics"]}
    for metric in (by_name[name] for name in SHOWN if name in by_name):
        value = "undefined" if metric["value"] is None else f"{metric['value']:.3f}"
        if metric["low"] is not None and metric["high"] is not None:
            value += f"  [{metric['low']:.3f}, {metric['high']:.3f}]"
        lines.append(f"  {_words(metric['name']):<18} {value}")
    lines += [*_remarks(plan), "", f"model:   {show(folder / 'model')}"]
    if (folder / "report.html").exists():
        lines.append(f"report:  {show(folder / 'report.html')}")
    lines.append(f"next:    headstart predict {shlex.quote(show(folder))} photo.jpg")
    return "\n".join(lines)


def _remarks(plan: dict[str, Any]) -> list[str]:
    """What a reader of the scores must know."""
    lines = []
    if plan["metric"] == "balanced_accuracy":
        lines.append(
            "Balanced accuracy drives every choice: the largest class is over 3 times the smallest."
        )
    if not plan["learnable"]:
        lines.append("Not learnable: no stage beats guessing by more than luck would.")
    return lines


def _agreement(plan: dict[str, Any]) -> str:
    """How the rule of thumb and the outcome relate."""
    prior = " or ".join(map(str, plan["case_prior"]))
    if plan["forced"] is not None:
        return f"The rule of thumb said case {prior}; {show(plan['forced'])} was given."
    if plan["case"] in plan["case_prior"]:
        return f"The rule of thumb said case {prior}, and the data agree:"
    return f"The rule of thumb said case {prior}; the data decided:"


def _case(case: int | None) -> str:
    return f"case {case}" if case else "none of the four cases"


def _words(name: str) -> str:
    return "AUC" if name == "auc" else name.replace("_", " ")


def _quadrant(plan: dict[str, Any]) -> list[str]:
    """The four cases as a table, this data set's place marked."""
    prior = plan["case_prior"]
    names = {1: "new head", 2: "early stages", 3: "fine-tune", 4: "scratch"}

    def cell(case: int) -> str:
        return f"{'▶' if case in prior else ' '} {case} {names[case]:<13}"

    return [
        "         similar to source  different",
        f"  small  {cell(1)}  {cell(2)}".rstrip(),
        f"  large  {cell(3)}  {cell(4)}".rstrip(),
    ]
