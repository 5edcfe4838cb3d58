"""The decision and the result as plain text for the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from headstart.errors import show
from headstart.plan.decide import CASES

BAR = 40


def plan_text(plan: dict[str, Any]) -> str:
    """The decision: case, numbers, reasons, the depth profile, what would flip it."""
    lines = ["", *_quadrant(plan), ""]
    lines += [f"  {reason}" for reason in plan["reasons"]]
    lines += [
        "",
        f"Depth profile ({plan['metric'].replace('_', ' ')} of a probe on frozen features):",
    ]
    rows = [*plan["depth_curve"], plan["all_stages"] | {"stage": "all"}]
    best = max(row["score"] for row in rows)
    for row in rows:
        bar = "█" * round(BAR * row["score"])
        mark = " ◀ best" if row["score"] == best else ""
        lines.append(f"  {show(row['stage']):>10} {row['score']:.3f} ± {row['se']:.3f} {bar}{mark}")
    lines.append(f"  {'guessing':>10} {plan['chance']:.3f}")
    if not plan["learnable"]:
        lines.append("\nNot learnable: no stage beats guessing by two standard errors.")
    lines += ["", "What would flip it:"]
    lines += [f"  - {flip}" for flip in plan["flips_if"]]
    return "\n".join(lines)


def fit_text(folder: Path, plan: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """The result: how good, what was done, where it lies, what to do next."""
    by_name = {m["name"]: m for m in evaluation["metrics"]}
    shown = [by_name[name] for name in ("accuracy", "balanced_accuracy", "auc") if name in by_name]
    case = f"case {plan['case']}" if plan["case"] else "none of the four cases"
    lines = [
        "",
        f"{plan['chosen']} ({case}); prior: case {' or '.join(map(str, plan['case_prior']))}",
        *(f"  {sentence}" for sentence in plan["switch"]),
        "",
        f"On {evaluation['n']:,} images that were not used before:",
    ]
    for metric in shown:
        value = "undefined" if metric["value"] is None else f"{metric['value']:.3f}"
        if metric["low"] is not None:
            value += f"  [{metric['low']:.3f}, {metric['high']:.3f}]"
        lines.append(f"  {metric['name'].replace('_', ' '):<18} {value}")
    if not plan["learnable"]:
        lines.append(
            "  Not learnable: no stage of the network beats guessing by two standard errors."
        )
    quoted = shlex.quote(show(folder))
    lines += ["", f"model:   {show(folder / 'model')}"]
    if (folder / "report.html").exists():
        lines.append(f"report:  {show(folder / 'report.html')}")
    lines.append(f"next:    headstart predict {quoted} photo.jpg")
    return "\n".join(lines)


def _quadrant(plan: dict[str, Any]) -> list[str]:
    """The four cases as a table, this data set's place marked."""
    prior = plan["case_prior"]
    names = {1: "new head", 2: "early stages", 3: "fine-tune", 4: "scratch"}

    def cell(case: int) -> str:
        return f"{'▶' if case in prior else ' '} {case} {names[case]:<13}"

    size, near = plan["size"], plan["similarity"]
    shift = "" if near["bn_shift"] is None else f" (shift {near['bn_shift']:.2f})"
    lines = [
        f"{size['n']:,} images: {size['verdict']};  source: {near['verdict']}{shift}",
        "",
        "           similar            different",
        f"  small   {cell(1)} {cell(2)}",
        f"  large   {cell(3)} {cell(4)}",
        "",
    ]
    return lines + [f"  case {case}: {CASES[case]}" for case in prior]
