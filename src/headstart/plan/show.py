"""The decision and the result as plain text for the terminal."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from headstart.data.check import named_classes
from headstart.errors import show
from headstart.plan.folds import VERIFYING

BAR = 40
LISTED = 10
WIDE, HIGH = 58, 13
"""characters and lines of the plane of the four cases"""
NAMES = {1: "new head", 2: "early stages", 3: "fine-tune", 4: "from scratch"}
DONE = {
    "head_top": "a new head on the whole network, frozen",
    "head_cut": "the network cut after stage {cut}, and a new head on what is left, frozen",
    "all_stages": "a new head on the features of every stage, nothing cut, frozen",
    "partial": "a new head and the later stages; the early ones stay as they were pre-trained",
    "finetune": "a new head and the whole network, from its pre-trained weights",
    "scratch": "a new head and the whole network, from random weights",
}
SHOWN = ("accuracy", "balanced_accuracy", "auc")


def plan_text(plan: dict[str, Any]) -> str:
    """The decision: case, numbers, reasons, the depth profile, what would flip it."""
    lines = ["", *_quadrant(plan), "", *(show(reason) for reason in plan["reasons"]), ""]
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
    lines += [*_remarks(plan), "", "What would flip it:"]
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
        ("content of several files", "contents of several files", _equal(data["duplicates"])),
        (
            "content under two classes",
            "contents under two classes",
            _equal(data["label_conflicts"]),
        ),
        (
            "content on both sides of your split",
            "contents on both sides of your split",
            _equal(data["leaks"]),
        ),
        (
            "pair of near-duplicates",
            "pairs of near-duplicates",
            [f"{' ~ '.join(p['paths'])} ({_near_words(p)})" for p in data["near_duplicates"]],
        ),
        (
            "class that looks like one of the source's",
            "classes that look like one of the source's",
            [f"{o['class']} ~ {o['source']} ({o['share']:.0%})" for o in data["source_overlap"]],
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
    words += ["two classes"] if pair["conflict"] else []
    words += ["both sides of your split"] if pair["leak"] else []
    return ", ".join(words)


def fit_text(folder: Path, plan: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """The result: what was done, how good it is, where it lies, what to do next."""
    done = DONE.get(plan["strategy"], plan["strategy"]).format(cut=show(plan["cut"]))
    lines = ["", f"Trained: {done} ({_case(plan['case'])}).", _agreement(plan)]
    lines += [f"  {show(sentence)}" for sentence in plan["switch"]]
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
    lines += [*_unrecognised(evaluation), *_remarks(plan), "", f"model:   {show(folder / 'model')}"]
    if (folder / "report.html").exists():
        lines.append(f"report:  {show(folder / 'report.html')}")
    if (evaluation.get("suggestions") or {}).get("listed"):
        lines.append(
            f"look at: {show(folder / 'suggestions.csv')} (correct `label`, then fit --relabel)"
        )
    lines.append(f"next:    headstart predict {shlex.quote(show(folder))} photo.jpg")
    return "\n".join(lines)


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
    if not plan["learnable"]:
        return f"The rule of thumb said case {prior}, but nothing was learned (see below):"
    if plan["case"] in plan["case_prior"]:
        return f"The rule of thumb said case {prior}, and the data agree:"
    return f"The rule of thumb said case {prior}; the data decided:"


def _case(case: int | None) -> str:
    return f"case {case}" if case else "none of the four cases"


def _words(name: str) -> str:
    return {"auc": "AUC", "log_loss": "log loss, less is better"}.get(name, name.replace("_", " "))


@dataclass(frozen=True, slots=True)
class _Plane:
    """Where sizes and shifts lie on a plane of WIDE characters and HIGH lines."""

    left: float
    right: float
    top: float
    limits: tuple[float, ...]
    """similar below, different from; empty where they are not known"""

    def column(self, images: float) -> int:
        return round((WIDE - 1) * log(images / self.left) / log(self.right / self.left))

    def row(self, shift: float) -> int:
        """A narrow band between the limits would not show, so every zone has lines of its own."""
        zone = HIGH // 2 - 2
        if not self.limits:
            return round((HIGH - 1) * (1 - min(max(shift, 0) / self.top, 1)))
        similar, different = self.limits
        if shift >= different:
            return round(zone * (1 - min((shift - different) / (self.top - different), 1)))
        return HIGH // 2 if shift >= similar else HIGH - 1 - round(zone * max(shift, 0) / similar)

    @property
    def borders(self) -> dict[int, float]:
        """The limits by their lines."""
        return dict(zip((HIGH // 2 + 1, HIGH // 2 - 1), self.limits, strict=False))


def _quadrant(plan: dict[str, Any]) -> list[str]:
    """The plane of size and shift: the four cases, the thresholds, this data set and its interval."""
    size, similarity = plan["size"], plan["similarity"]
    n, shift = size["n"], similarity["bn_shift"]
    small, large = max(2, size["small_below"]), max(3, size["large_above"])
    limits = tuple(sorted((similarity["thresholds"] or {}).values()))
    highest = similarity["high"] or shift or 0
    plane = _Plane(
        left=min(10, small / 10, n / 2),
        right=max(large * 100, n * 5),
        top=max(1.0, 1.25 * highest, 1.5 * max(limits, default=0)),
        limits=limits,
    )
    lines = _drawn(plane, small, large, plan["case_prior"])
    if shift is None:
        first, last = 0, HIGH - 1
    else:
        low = shift if similarity["low"] is None else similarity["low"]
        first, last = plane.row(highest), plane.row(low)
    for at in range(first, last + 1):
        lines[at][plane.column(n)] = "┃"
    if shift is not None:
        lines[plane.row(shift)][plane.column(n)] = "●"
    marks = {
        at: f"{value:.2f}" for at, value in {0: plane.top, HIGH - 1: 0, **plane.borders}.items()
    }
    return [
        "  BatchNorm shift ↑, images to learn from →",
        *(f"  {marks.get(at, ''):>4} │{''.join(line)}".rstrip() for at, line in enumerate(lines)),
        *_axis(plane),
        _point_text(plan),
    ]


def _drawn(plane: _Plane, small: int, large: int, prior: Sequence[int]) -> list[list[str]]:
    """The plane without the data set: borders, and the names of the cases; the rule's own marked."""
    lines = [[" "] * WIDE for _ in range(HIGH)]
    for at in plane.borders:
        lines[at] = ["┈"] * WIDE
    middle, right = plane.column(small), plane.column(large)
    for line in lines:
        line[middle] = line[right] = "┊"
    places = {2: (0, 0), 4: (0, right + 1), 1: (HIGH - 1, 0), 3: (HIGH - 1, right + 1)}
    for case, (at, start) in places.items():
        _write(lines[at], start, f"{'▶' if case in prior else ' '} {case} {NAMES[case]}")
    _write(lines[0], middle + 1, " medium")
    if plane.borders:
        _write(lines[HIGH // 2], WIDE - 8, "unclear")
    return lines


def _axis(plane: _Plane) -> list[str]:
    """The axis of sizes with its powers of ten."""
    axis, labels = ["─"] * WIDE, [" "] * (WIDE + 2)
    for power in range(10):
        if plane.left <= 10**power <= plane.right:
            axis[plane.column(10**power)] = "┴"
            _write(labels, plane.column(10**power), _short(10**power))
    return [f"       └{''.join(axis)}", f"        {''.join(labels)}".rstrip()]


def _point_text(plan: dict[str, Any]) -> str:
    """This data set's place in words."""
    size, similarity = plan["size"], plan["similarity"]
    text = f"{size['n']:,} images to learn from ({size['verdict']}), shift "
    if similarity["bn_shift"] is None:
        return f"  ┃ your images: {text}not measured"
    text += f"{similarity['bn_shift']:.2f}"
    if similarity["low"] is not None and similarity["high"] is not None:
        text += f" [{similarity['low']:.2f}, {similarity['high']:.2f}]"
    return f"  ● your images: {text} ({similarity['verdict']})"


def _write(line: list[str], start: int, text: str) -> None:
    """Put text into a line of the plane, as far as it reaches."""
    for k, character in enumerate(text, start):
        if 0 <= k < len(line):
            line[k] = character


def _short(number: int) -> str:
    """1k for a thousand, 1M for a million."""
    for size, letter in ((10**9, "G"), (10**6, "M"), (1000, "k")):
        if number >= size:
            return f"{number // size}{letter}"
    return str(number)
