"""The report's sentences about the data, the decision and the training."""

from __future__ import annotations

import re

from headstart.ship.chart_parts import Record, number, record, records
from headstart.ship.plan_charts import PROBED, kind_of
from headstart.ship.report_names import (
    CASES,
    FINDINGS,
    LIKENESS,
    OPERATIONS,
    PARTS,
    RETRAINED,
    RULE,
    STRATEGIES,
    way_words,
)
from headstart.ship.report_numbers import count, interval, score, signed, spread, words


def found(data: Record) -> str:
    """First sentence of the opening: what was found in the folder."""
    if data.get("n") is None:
        return "What was found in the data is not stored in this run folder."
    by_finding = {name: len(rows) for name, rows in found_paths(data).items()}
    kinds = (
        (
            len(data.get("unreadable") or []),
            "file that could not be read",
            "files that could not be read",
        ),
        (by_finding["conflict"], "picture with two labels", "pictures with two labels"),
        (
            by_finding["leak"],
            "picture shared by training and test",
            "pictures shared by training and test",
        ),
        (by_finding["near"], "pair of near-duplicates", "pairs of near-duplicates"),
        (by_finding["copy"], "group of copies", "groups of copies"),
        (len(data.get("shortcuts") or []), "possible shortcut", "possible shortcuts"),
    )
    said = [f"{n:,} {one if n == 1 else more}" for n, one, more in kinds if n]
    checked = any(data.get(key) is not None for key in ("unreadable", "duplicates", "leaks"))
    rest = (
        f"; the checks found {listed(said)}"
        if said
        else "; the checks found no fault"
        if checked
        else ""
    )
    classes = len(data.get("classes") or [])
    return f"The folder holds {data['n']:,} images in {classes:,} classes{rest}."


def found_paths(data: Record) -> dict[str, list[list[str]]]:
    """Names of the files that show one picture, each pair or group under the gravest finding."""
    found: dict[str, list[list[str]]] = {name: [] for name in FINDINGS}
    conflicts, leaks = (data.get(key) or [] for key in ("label_conflicts", "leaks"))
    found["conflict"] += conflicts
    found["leak"] += [group for group in leaks if group not in conflicts]
    for pair in data.get("near_duplicates") or []:
        name = "conflict" if pair.get("conflict") else "leak" if pair.get("leak") else "near"
        found[name].append(pair.get("paths") or [])
    grave = [*conflicts, *leaks]
    found["copy"] += [group for group in data.get("duplicates") or [] if group not in grave]
    return found


def done(plan: Record) -> str:
    """Second sentence: what headstart did about it."""
    strategy = plan.get("strategy")
    if not strategy:
        return "What was done with them is not stored in this run folder."
    return (
        f"{_likeness(plan)}; headstart "
        f"{STRATEGIES.get(strategy, f'used the strategy {strategy}')}{_case(plan)}."
    )


def planned(plan: Record) -> str:
    """Second sentence about a plan: what the rule of thumb says; nothing has been chosen yet."""
    prior = plan.get("case_prior")
    cases = [case for case in prior if case in RULE] if isinstance(prior, list) else []
    if not cases:
        return "What the plan is, is not stored in this run folder."
    rule = " or ".join(f"case {case} ({RULE[case]})" for case in cases)
    forced = plan.get("forced")
    then = (
        f"{_flag(forced)} was given, so headstart fit would do that"
        if forced
        else "headstart fit would check it"
        if len(cases) == 1
        else "headstart fit would let the images decide"
    )
    return f"{_likeness(plan)}. By the rule of thumb this is {rule}; {then}."


def _likeness(plan: Record) -> str:
    size = record(plan.get("size")).get("verdict") or "of unknown size"
    verdict = str(record(plan.get("similarity")).get("verdict"))
    likeness = LIKENESS.get(verdict, "not compared with") + " what the network had learned from"
    return f"The data set is {size} and {likeness}"


def _case(plan: Record) -> str:
    case = f", which is case {plan['case']}" if plan.get("case") in CASES else ""
    return case + (f" ({_flag(plan['forced'])} was given)" if plan.get("forced") else "")


def _flag(forced: object) -> str:
    """A flag that is broken after its first hyphen is hard to read."""
    return str(forced).replace("-", "\u2011").replace(" ", "\u00a0")


def how_good(plan: Record, evaluation: Record) -> str:
    """Third sentence: how good the model is, and how sure that is."""
    metric = main_metric(plan, evaluation)
    if metric is None:
        return "How good the model is has not been measured, or is not stored in this run folder."
    value = score(metric.get("value"), metric.get("name"))
    n = metric.get("n") or evaluation.get("n")
    seen = ", each judged without having been learned from"
    if not is_nested(evaluation):
        seen = learned_words(evaluation, "it")
    text = f"The model's {words(metric.get('name'))} is {value} on {count(n)} images{seen}"
    if metric.get("low") is not None and metric.get("high") is not None:
        text += f" (95\u00a0% interval {interval(metric)})"
    if plan.get("chance") is not None and metric.get("name") == plan.get("metric"):
        text += f"; guessing would reach {score(plan['chance'], metric.get('name'))}"
    return text + "."


def is_nested(evaluation: Record) -> bool:
    """Whether every image was judged by models that had made all choices without it."""
    return str(evaluation.get("protocol")).startswith("nested")


def learned_words(evaluation: Record, model: str) -> str:
    """How many of the judged images `model` had learned from; empty where nobody knows."""
    if "learned_from" not in evaluation:  # of `fit`: never
        return f" that {model} had not learned from"
    learned, n = number(evaluation["learned_from"]), number(evaluation.get("n"))
    if learned is None:
        return ""
    if learned == 0:
        return f" that {model} had not learned from"
    some = "all" if n is not None and learned >= n else count(learned)
    return f", {some} of which {model} had learned from"


def main_metric(plan: Record, evaluation: Record) -> Record | None:
    """The metric that drove the choices, or else the first one stored."""
    metrics: list[Record] = [
        row for row in evaluation.get("metrics") or [] if row.get("value") is not None
    ]
    driving = [row for row in metrics if row.get("name") == plan.get("metric")]
    return next(iter(driving or metrics), None)


def listed(parts: list[str]) -> str:
    """'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def tried(plan: Record) -> dict[str, list[Record]]:
    """The candidates, best first: those tried with their real heads, and those only probed."""
    rows = [
        row for row in plan.get("candidates") or [] if isinstance(row.get("score"), int | float)
    ]
    rows.sort(key=lambda row: -row["score"])
    probed = [row for row in rows if kind_of(row, plan.get("chosen")) == PROBED]
    return {"full": [row for row in rows if row not in probed], "probed": probed}


def names_of(plan: Record) -> list[tuple[str, str]]:
    """The parts that occur in the candidates' names, each with its meaning."""
    names = [str(row.get("name")) for row in records(plan.get("candidates"))]
    found = []
    for pattern, meaning in PARTS.items():
        hits = [hit[0] for name in names if (hit := re.search(pattern, name))]
        found += [(hit.rstrip("@"), meaning) for hit in dict.fromkeys(hits)]
    return found


def estimates(plan: Record, evaluation: Record, nested: Record) -> list[Record]:
    """What each figure is an estimate of: its name, its value, its spread, and the protocol."""
    rows: list[Record] = []
    metric, name = main_metric(plan, evaluation), plan.get("metric") or "accuracy"
    if metric is not None:
        label = f"{words(metric.get('name'))} of the model"
        value = f"{score(metric.get('value'), metric.get('name'))} ({interval(metric)})"
        rows.append({"figure": label, "value": value, "protocol": evaluation.get("protocol")})
    naive = nested.get("naive") or {}
    chosen = [row for row in plan.get("candidates") or [] if row.get("name") == plan.get("chosen")]
    if naive.get("score") is not None:
        text = "cross-validated, selection not nested: too good by the luck of the choice"
        value = f"{score(naive['score'], name)} {spread(naive.get('se'), name)}"
        rows.append({"figure": f"naive {words(name)}", "value": value, "protocol": text})
    elif chosen and plan.get("chosen"):
        row, many = chosen[0], len(plan.get("candidates") or [])
        text = (
            f"{row.get('method')}; the mixture with the start was chosen on the same fold, so a "
            "little too good"
            if row.get("strategy") in RETRAINED
            else "cross-validated on the images learned from, selection not nested: the best of "
            f"{many} candidates, so too good by the luck of the choice"
        )
        value = f"{score(row.get('score'), name)} {spread(row.get('se'), name)}"
        rows.append({"figure": "score of the chosen candidate", "value": value, "protocol": text})
    if plan.get("depth_curve"):
        text = (
            "ridge regression on the images learned from, each left out in turn with its group; the "
            "best of several penalties counts"
        )
        rows.append(
            {"figure": "scores by stage, first looks, baselines", "value": "", "protocol": text}
        )
    for row in (evaluation.get("protocols") or [])[1:]:
        figures = ", ".join(words(str(f).split(".")[-1]) for f in row.get("figures") or [])
        rows.append({"figure": figures, "value": "", "protocol": row.get("protocol")})
    return rows


def inner_choices(nested: Record) -> str:
    """What the inner selections chose, as a sentence; empty without a nested estimate."""
    rows = nested.get("chosen") or []
    if not rows:
        return ""
    said = [f"{row.get('name')} {count(row.get('times'))}\u00a0×" for row in rows]
    return f"The repeated selections chose {listed(said)}."


def augmentations(training: Record, run: Record, metric: object) -> list[Record]:
    """What each operation does to an image, what that did to the start's score, and if it is used."""
    asked = augmentations_asked(run)
    rows = []
    for row in records(training.get("augmentations")):
        name, used = str(row.get("operation")), row.get("used") is True
        gain, se = number(row.get("gain")), number(row.get("se"))
        effect = f"{signed(gain, metric)} {spread(se, metric)}"
        if asked or name == "crop":
            effect = "not tested"
        rows.append({"label": OPERATIONS.get(name, words(name)), "effect": effect, "used": used})
    return rows


def augmentations_asked(run: Record) -> bool:
    """Whether the user has said how the images shall be varied."""
    return str(record(run.get("settings")).get("augment") or "auto") != "auto"


def mixtures(training: Record) -> list[str]:
    """What was kept of each way to train: alpha is the share of what was trained."""
    said = []
    for row in records(training.get("verified")):
        alpha, way = number(row.get("alpha")), way_words(row)
        if alpha is not None:
            averaged = row.get("average") == "average"
            what = "averaged over the training" if averaged else "as they were at the end"
            share = f"{score(alpha).replace('.0', '')} the trained weights, {what}"
            rest = "" if alpha == 1 else f", and {score(1 - alpha).replace('.0', '')} the start"
            said.append(f"{way[0].upper()}{way[1:]}: alpha {alpha:g}, that is {share}{rest}.")
    return said


def trained_again(training: Record) -> bool:
    """Whether the better way was trained once more, or is handed over as it was verified."""
    return training.get("epochs") not in [
        row.get("epochs") for row in records(training.get("verified"))
    ]


def confused(evaluation: Record) -> list[Record]:
    """Which class was taken for which, most often first."""
    classes, matrix = evaluation.get("classes") or [], evaluation.get("confusion") or []
    pairs = [
        {"true": classes[i], "predicted": classes[j], "n": n, "share": n / sum(row)}
        for i, row in enumerate(matrix)
        for j, n in enumerate(row)
        if i != j and n and i < len(classes) and j < len(classes)
    ]
    return sorted(pairs, key=lambda pair: -float(pair["n"]))[:20]


def evaluated(evaluation: Record, run: Record) -> list[str]:
    """The first two sentences about a finished model on labelled images."""
    n, classes = evaluation.get("n"), len(evaluation.get("classes") or [])
    if n is None:
        return ["What the model was judged on is not stored in this run folder."]
    settings = record(run.get("settings"))
    model, data = settings.get("model"), settings.get("data") or settings.get("table")
    shown = f"the model {model}" if isinstance(model, str) else "a finished model"
    of = f" of {data}" if isinstance(data, str) else ""
    unread = len(records(evaluation.get("unreadable")))
    rest = f"; {unread:,} more could not be read" if unread else ""
    # Where it had learned from them before, this would be half of the truth.
    learned = "" if number(evaluation.get("learned_from")) else "; nothing was learned from them"
    return [
        f"{n:,} labelled images{of} were shown to {shown}, which tells {classes:,} classes apart"
        f"{rest}.",
        f"It answered each of them once{learned}.",
    ]
