"""The decision and the result as plain text for the terminal."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from headstart.data.check import named_classes
from headstart.errors import show
from headstart.plan.folds import VERIFYING
from headstart.plan.plane import plane_lines

BAR = 40
KNOWN = "that ImageNet, the network's training data, may hold already (scores may flatter)"
LISTED = 10
DONE = {
    "head_top": "a new head on the whole network, frozen",
    "head_cut": "the network cut after stage {cut}, and a new head on what is left, frozen",
    "all_stages": "a new head on the features of every stage, nothing cut, frozen",
    "partial": "a new head and the later stages; the early ones stay as they were pre-trained",
    "finetune": "a new head and the whole network, from its pre-trained weights",
    "scratch": "a new head and the whole network, from random weights",
}
SHOWN = ("accuracy", "balanced_accuracy", "auc")
THRESHOLD = ("auc:", "sens@spec")
"""beginnings of the metrics whose users want a threshold"""
FEW = 30
"""of a class: with fewer images, more of them are the first thing to try"""


def plan_text(plan: dict[str, Any]) -> str:
    """The decision: case, numbers, reasons, the depth profile, what would flip it."""
    lines = ["", *plane_lines(plan), "", *(show(reason) for reason in plan["reasons"]), ""]
    lines.append(f"How well each stage tells the classes apart ({_words(plan['metric'])}):")
    rows = [*plan["depth_curve"], plan["all_stages"] | {"stage": "all"}]
    best = max(rows, key=lambda row: row["score"])
    told = abs if plan["metric"] == "log_loss" else float  # stored negated, so that more is better
    control = {row["stage"]: row["score"] for row in plan.get("depth_control") or []}
    for row in rows:
        bar = _bar(_length(plan, row["score"]), _length(plan, control.get(row["stage"])))
        mark = " ◀ best" if row is best else ""
        lines.append(
            f"  {show(row['stage']):>10} {told(row['score']):.3f} ± {row['se']:.3f} {bar}{mark}"
        )
    lines.append(f"  {'guessing':>10} {told(plan['chance']):.3f}")
    if control:
        lines.append(f"  {'▒':>10} the same network with random weights")
    sentence = plan.get("depth_control_sentence")
    if sentence and sentence not in plan["reasons"]:
        lines.append(show(sentence))
    lines += _drives(plan)
    if not plan["learnable"]:
        lines.append("Not learnable: no stage beats guessing by more than luck would.")
    lines += ["", "What would flip it:"]
    lines += [f"  - {show(flip)}" for flip in plan["flips_if"]]
    return "\n".join(lines)


def _length(plan: dict[str, Any], score: float | None) -> float:
    """A score as a share of the perfect one; a log loss starts from that of guessing."""
    if score is None:
        return 0.0
    if plan["metric"] == "log_loss":
        score = 1 - score / plan["chance"] if plan["chance"] else 0.0
    return max(0.0, score)


def _bar(score: float, control: float) -> str:
    """A score as a bar; what random weights reach too is grey."""
    whole, grey = round(BAR * score), round(BAR * control)
    return "▒" * min(whole, grey) + "█" * (whole - min(whole, grey))


def check_text(folder: Path, data: dict[str, Any]) -> str:
    """What is in the folder, and what to act on."""
    counts = {row["class"]: row["total"] for row in data["counts"]}
    lines = ["", f"{data['n']:,} readable images in {named_classes(counts)}."]
    for one, many, rows in (
        (
            "unreadable file",
            "unreadable files",
            [f"{r['path']}: {r['reason']}, {r['detail']}" for r in data["unreadable"]],
        ),
        (
            "entry that is not used",
            "entries that are not used",
            [f"{r['path']}: {r['reason']}" for r in data["ignored"]],
        ),
        (
            "picture stored more than once",
            "pictures stored more than once",
            _equal(data["duplicates"]),
        ),
        ("picture with two labels", "pictures with two labels", _equal(data["label_conflicts"])),
        (
            "picture on both sides of your split",
            "pictures on both sides of your split",
            _equal(data["leaks"]),
        ),
        (
            "pair of pictures that are nearly the same",
            "pairs of pictures that are nearly the same",
            [f"{' ~ '.join(p['paths'])} ({_near_words(p)})" for p in data["near_duplicates"]],
        ),
        (
            f"class {KNOWN}",
            f"classes {KNOWN}",
            [
                f"{o['class']} ~ {o['source']} ({100 * o['share']:.0f} %)"
                for o in data["source_overlap"]
            ],
        ),
    ):
        if rows:
            title = one if len(rows) == 1 else many
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


def _equal(groups: list[list[str]]) -> list[str]:
    return [" = ".join(group) for group in groups]


def _near_words(pair: dict[str, Any]) -> str:
    """What happened to the picture, and what is wrong with that."""
    words = [pair["kind"]]
    words += ["two labels"] if pair["conflict"] else []
    words += ["both sides of your split"] if pair["leak"] else []
    return ", ".join(words)


def fit_text(
    folder: Path, plan: dict[str, Any], evaluation: dict[str, Any], relabel: str | None = None
) -> str:
    """The result: what was done, how good it is, where it lies, what to do next.

    Args:
        relabel: the command that learns again from corrected labels.
    """
    done = DONE.get(plan["strategy"], plan["strategy"]).format(cut=show(plan["cut"]))
    trained = f"Trained: {done} ({_case(plan['case'])})."
    if plan["learnable"]:
        lines = ["", trained, _agreement(plan)]
        lines += [f"  {show(sentence)}" for sentence in plan["switch"]]
    else:  # comparisons of candidates would say nothing; they are in the report
        lines = ["", _not_learnable(plan), "", trained]
    n = evaluation["n"]
    protocol = evaluation["protocol"]
    what = f"test {'image' if n == 1 else 'images'}"
    if protocol.startswith("nested"):
        what = "images, each held out in turn"
    elif protocol.startswith(VERIFYING):
        what = "images of the verifying folds, a little too good by the luck of the choice"
    lines += ["", f"On {n:,} {what}, with 95 % intervals:"]
    lines += _scores(evaluation, plan["metric"])
    for key in ("before_relabel", "sites", "learning_curve"):
        more = evaluation.get(key)
        if (
            more is not None and more.get("gain", 0) is not None
        ):  # a curve that is not trusted: none
            lines.append(show(more["sentence"]))
    lines += [*_unrecognised(evaluation), *_drives(plan), "", f"model:   {show(folder / 'model')}"]
    if (folder / "report.html").exists():
        lines.append(f"report:  {show(folder / 'report.html')}")
    if plan["learnable"] and (evaluation.get("suggestions") or {}).get("listed"):
        then = f"; then: {show(relabel)}" if relabel else ""
        lines.append(
            f"look at: {show(folder / 'suggestions.csv')} (correct `label`, save it as "
            f"corrected.csv{then})"
        )
    use = f"headstart predict {shlex.quote(show(folder))} photo.jpg"
    lines.append(f"next:    {use if plan['learnable'] else _first_of_all(plan)}")
    return "\n".join(lines)


def _not_learnable(plan: dict[str, Any]) -> str:
    n = plan["size"]["n"]
    images = "This 1 image" if n == 1 else f"These {n:,} images"
    return (
        f"! {images} cannot show whether anything was learned: no stage of the network beats "
        "guessing by more than luck would. The scores below may be luck."
    )


def _first_of_all(plan: dict[str, Any]) -> str:
    """What may make the images learnable."""
    if min(plan["size"]["per_class"].values(), default=0) < FEW:
        return f"label more images ({FEW} or more per class), then fit again"
    return "look at some images of every class: can a person tell them apart?"


def evaluation_text(folder: Path, evaluation: dict[str, Any]) -> str:
    """What `headstart evaluate` found out: scores, the operating point, parts, readers."""
    n, unread, learned = evaluation["n"], len(evaluation["unreadable"]), evaluation["learned_from"]
    new = "new " if learned == 0 else ""
    lines = ["", f"On {n:,} {new}{'image' if n == 1 else 'images'}, with 95 % intervals:"]
    if learned:
        whole = "all of them" if learned == n else f"{learned:,} of them"
        lines.append(f"! The model learned from {whole}: these scores are too good.")
    lines += _scores(evaluation, evaluation["metric"])
    lines += [show(part["sentence"]) for part in evaluation["subgroups"]]
    lines += [show(study["sentence"]) for study in evaluation["readers"]]
    more = (evaluation["sets"], evaluation["unlike"])
    lines += [show(found["sentence"]) for found in more if found is not None]
    if unread:
        lines.append(f"{unread:,} could not be read (listed in evaluation.json)")
    lines += ["", f"stored:  {show(folder)}"]
    lines.append(f"next:    headstart report {shlex.quote(show(folder))}")
    return "\n".join(lines)


def _scores(evaluation: dict[str, Any], driving: str) -> list[str]:
    """The scores with their intervals, what drove the choices first, and what they can tell apart."""
    lines = []
    by_name = {metric["name"]: metric for metric in evaluation["metrics"]}
    names = dict.fromkeys((driving, *SHOWN))  # what drove the choices comes first
    for metric in (by_name[name] for name in names if name in by_name):
        value = "undefined" if metric["value"] is None else f"{metric['value']:.3f}"
        if metric["low"] is not None and metric["high"] is not None:
            value += f"  [{metric['low']:.3f}, {metric['high']:.3f}]"
        lines.append(f"  {_words(metric['name']):<18} {value}")
    if driving.startswith(THRESHOLD) or any(
        p.get("prevalence") for p in evaluation.get("operating", [])
    ):
        lines += _called(evaluation)
    if "resolvable" in evaluation:
        lines.append(show(evaluation["resolvable"]["sentence"]))
    return lines


def _called(evaluation: dict[str, Any]) -> list[str]:
    """Of two classes, what a threshold reaches for the rarer one (as far as that is known, else the
    second): the strictest that the images support, or why there is none."""
    points = evaluation.get("operating", [])
    share = {p["name"]: 0.5 for p in points}
    share |= {p["name"]: p["prevalence"] for p in points if p.get("prevalence")}
    if len(share) != 2:
        return []
    name = min(reversed(share), key=share.__getitem__)
    mine = [p for p in points if p["name"] == name and p["target"]["rate"] == "sensitivity"]
    made = [p for p in mine if not p["refused"]]
    chosen = max(made, key=lambda p: p["target"]["value"]) if made else mine[0]
    return [show(chosen["sentence"])]


def _unrecognised(evaluation: dict[str, Any]) -> list[str]:
    """Classes of which not one image was answered rightly."""
    lines, classes = [], evaluation["classes"]
    for k, row in enumerate(evaluation["confusion"]):
        if sum(row) and not row[k]:
            other = show(classes[row.index(max(row))])
            lines.append(
                f"No image of {show(classes[k])} was recognised (0 of {sum(row)}); most were taken "
                f"for {other}."
            )
    return lines


def _drives(plan: dict[str, Any]) -> list[str]:
    """Why not accuracy, where that was not asked for."""
    if plan["metric"] != "balanced_accuracy":
        return []
    return [
        "Balanced accuracy drives every choice: the largest class is over 3 times the smallest."
    ]


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
    return {"auc": "AUC", "log_loss": "log loss, less is better"}.get(name, name.replace("_", " "))
