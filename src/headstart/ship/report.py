"""The report: one HTML file that tells a person what was found, what was done and how good it is.

It renders what the steps before have stored and computes nothing about the data. Every string in
those files may be hostile: all of them are cleaned once at the door, the template escapes each, and
a strict Content-Security-Policy lets only our own scripts run, each by its hash.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import math
import shlex
import unicodedata
from pathlib import Path
from typing import Any

from headstart.errors import InternalError
from headstart.run import read_json
from headstart.ship.chart_parts import MOST_CLASSES, Chart, Record, is_share, named
from headstart.ship.charts import all_charts

MISSING = "–"
OPTIONAL = ("data.json", "plan.json", "evaluation.json", "mistakes.json")
# Marks that reverse or reorder the text around them: a file name must not rewrite the sentence.
BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
SHOWN = 30  # rows of a long list; the rest is counted and stays in the JSON file
CASES = {
    1: "few and similar to the source",
    2: "few and different from the source",
    3: "many and similar to the source",
    4: "many and different from the source",
}
STRATEGIES = {
    "head_top": "kept the whole pre-trained network frozen and trained only a new last layer",
    "head_cut": "sliced off the later stages of the network, kept the early ones frozen and trained "
    "only a new last layer on their features",
    "finetune": "replaced the last layer and re-trained the whole network from its pre-trained weights",
    "scratch": "replaced the last layer and trained the whole network from random weights",
    "all_stages": "kept the whole pre-trained network frozen and trained one new layer on the "
    "features of every stage",
    "partial": "replaced the last layer and re-trained only the last stages of the network",
}
LIKENESS = {
    "similar": "similar to",
    "different": "different from",
    "unclear": "neither clearly similar to nor clearly different from",
}
MEANINGS = {
    "accuracy": "share of images classified correctly",
    "balanced_accuracy": "mean over the classes of the share found, so that rare classes count equally",
    "macro_f1": "mean over the classes of the balance between precision and recall",
    "log_loss": "how far the given probabilities are from the truth; 0 is perfect",
    "auc": "chance that an image of the class scores higher than one of another class",
    "top5_accuracy": "share of images whose true class is among the five most likely",
    "brier": "mean squared error of the probabilities; 0 is perfect",
    "ece": "mean distance between confidence and accuracy; 0 is perfect",
}


def render(run_dir: Path) -> str:
    """The HTML text of the report of one run folder.

    Args:
        run_dir: a run folder; only run.json must be there, and the report says what else is missing.

    Raises:
        RunFolderError: run.json is missing or is not a JSON object.
    """
    run = cleaned(read_json(run_dir / "run.json"))
    stored = {name.removesuffix(".json"): _optional(run_dir / name) for name in OPTIONAL}
    data, plan, evaluation = (_record(stored[name]) for name in ("data", "plan", "evaluation"))
    charts = all_charts(data, plan, evaluation)
    only_data = _record(run.get("settings")).get("command") == "check"
    return str(
        _environment()
        .get_template("report.html")
        .render(
            name=str(run.get("name") or data.get("root") or cleaned(run_dir.resolve().name)),
            run=run,
            versions={"headstart": run.get("headstart"), **_record(run.get("versions"))},
            data=data,
            plan=plan,
            evaluation=evaluation,
            mistakes=_gallery(stored["mistakes"]),
            only_data=only_data,
            missing=[
                f"{name}.json"
                for name, value in stored.items()
                if value is None and (name == "data" or not only_data)
            ],
            opening=[_found(data)]
            if only_data
            else [_found(data), _done(plan), _how_good(plan, evaluation)],
            confused=_confused(evaluation),
            charts=charts,
            specs=_specs(charts),
            vega=_vega(),
            commands=_commands(run_dir),
            kinds=CASES,
            strategies=STRATEGIES,
            meanings=MEANINGS,
            shown=SHOWN,
            most_classes=MOST_CLASSES,
        )
    )


# -- reading: nothing passes this door uncleaned --------------------------------------------------


def cleaned(value: Any) -> Any:
    """The same JSON value, safe to print: control characters, lone surrogates and marks that reverse
    text are escaped in every string and key; numbers that are not finite become None.

    >>> cleaned({"a\\u202eb": [float("nan"), "tab\\t"]})
    {'a\\\\u202eb': [None, 'tab\\\\t']}
    """
    if isinstance(value, str):
        return "".join(map(_printable, value))
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {cleaned(str(key)): cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return value


def _printable(character: str) -> str:
    hidden = unicodedata.category(character) in ("Cc", "Cs") or character in BIDI_CONTROLS
    return character.encode("unicode_escape").decode() if hidden else character


def _optional(path: Path) -> Any:
    """A cleaned JSON file, or None when it is missing or unreadable: the report then says so."""
    try:
        return cleaned(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _record(value: Any) -> Record:
    return value if isinstance(value, dict) else {}


def _gallery(stored: Any) -> list[Record]:
    """The mistakes, each with its thumbnail as a data address, or None when it is no WebP image."""
    rows = stored.get("mistakes", []) if isinstance(stored, dict) else stored or []
    return [{**row, "source": _webp(row.get("thumbnail"))} for row in rows]


def _webp(encoded: object) -> str | None:
    try:
        content = base64.b64decode(str(encoded or ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return None
    return "data:image/webp;base64," + base64.b64encode(content).decode()


# -- words ----------------------------------------------------------------------------------------


def _found(data: Record) -> str:
    """First sentence of the opening: what was found in the folder."""
    if data.get("n") is None:
        return "What was found in the data is not stored in this run folder."
    kinds = (
        ("unreadable", "file that could not be read", "files that could not be read"),
        ("duplicates", "group of copies", "groups of copies"),
        ("near_duplicates", "pair of near-duplicates", "pairs of near-duplicates"),
        ("shortcuts", "possible shortcut", "possible shortcuts"),
        ("leaks", "copy shared by training and test", "copies shared by training and test"),
        ("label_conflicts", "copy with two labels", "copies with two labels"),
    )
    amounts = [(len(data.get(key) or []), one, more) for key, one, more in kinds]
    said = [f"{n:,} {one if n == 1 else more}" for n, one, more in amounts if n]
    checked = any(data.get(key) is not None for key, _, _ in kinds)
    rest = (
        f"; the checks found {_listed(said)}"
        if said
        else "; the checks found no fault"
        if checked
        else ""
    )
    classes = len(data.get("classes") or [])
    return f"The folder holds {data['n']:,} images in {classes:,} classes{rest}."


def _done(plan: Record) -> str:
    """Second sentence: what headstart did about it."""
    strategy = plan.get("strategy")
    if not strategy:
        return "What was done with them is not stored in this run folder."
    size = _record(plan.get("size")).get("verdict") or "of unknown size"
    verdict = str(_record(plan.get("similarity")).get("verdict"))
    likeness = LIKENESS.get(verdict, "not compared with") + " what the network had learned from"
    case = f", which is case {plan['case']}" if plan.get("case") in CASES else ""
    return (
        f"The data set is {size} and {likeness}; headstart "
        f"{STRATEGIES.get(strategy, f'used the strategy {strategy}')}{case}."
    )


def _how_good(plan: Record, evaluation: Record) -> str:
    """Third sentence: how good the model is, and how sure that is."""
    metric = main_metric(plan, evaluation)
    if metric is None:
        return "How good the model is has not been measured, or is not stored in this run folder."
    value = score(metric.get("value"), metric.get("name"))
    n = metric.get("n") or evaluation.get("n")
    nested = str(evaluation.get("protocol")).startswith("nested")
    seen = (
        ", each judged without having been learned from"
        if nested
        else " that it had not learned from"
    )
    text = f"The model's {words(metric.get('name'))} is {value} on {count(n)} images{seen}"
    if metric.get("low") is not None and metric.get("high") is not None:
        text += f" (95\u00a0% interval {interval(metric)})"
    if plan.get("chance") is not None and metric.get("name") == plan.get("metric"):
        text += f"; guessing would reach {score(plan['chance'], metric.get('name'))}"
    return text + "."


def main_metric(plan: Record, evaluation: Record) -> Record | None:
    """The metric that drove the choices, or else the first one stored."""
    metrics: list[Record] = [
        row for row in evaluation.get("metrics") or [] if row.get("value") is not None
    ]
    driving = [row for row in metrics if row.get("name") == plan.get("metric")]
    return next(iter(driving or metrics), None)


def _listed(parts: list[str]) -> str:
    """'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _confused(evaluation: Record) -> list[Record]:
    """Which class was taken for which, most often first."""
    classes, matrix = evaluation.get("classes") or [], evaluation.get("confusion") or []
    pairs = [
        {"true": classes[i], "predicted": classes[j], "n": n, "share": n / sum(row)}
        for i, row in enumerate(matrix)
        for j, n in enumerate(row)
        if i != j and n and i < len(classes) and j < len(classes)
    ]
    return sorted(pairs, key=lambda pair: -float(pair["n"]))[:20]


def _commands(run_dir: Path) -> list[tuple[str, str]]:
    """What to type next, with this run's own folder in it."""
    # A leading dash would be read as an option, and quotes keep spaces and shell signs harmless.
    folder = str(run_dir) if not str(run_dir).startswith("-") else f"./{run_dir}"
    run = cleaned(shlex.quote(folder))
    return [
        ("Classify one photo", f"headstart predict {run} photo.jpg"),
        (
            "Classify a folder of photos into a table",
            f"headstart predict {run} photos --out photos.csv",
        ),
        ("Write this report again", f"headstart report {run}"),
    ]


# -- numbers, as the template's filters ------------------------------------------------------------


def count(value: object) -> str:
    """A whole number with thousands separated."""
    return f"{value:,}" if isinstance(value, int) else MISSING if value is None else str(value)


def score(value: object, metric: object = "accuracy") -> str:
    """A score: shares in per cent, all others with three decimals."""
    if not isinstance(value, int | float):
        return MISSING
    return f"{value:.1%}".replace("%", "\u00a0%") if is_share(metric) else f"{value:.3f}"


def interval(metric: object, name: object = None) -> str:
    """The two ends of a metric's interval, or a dash when there is none."""
    row = metric if isinstance(metric, dict) else {}
    low, high = row.get("low"), row.get("high")
    if low is None or high is None:
        return MISSING
    called = name or row.get("name")
    start = f"{100 * low:.1f}" if is_share(called) else score(low, called)
    return f"{start} to {score(high, called)}"


def words(name: object) -> str:
    """A stored name as words: balanced_accuracy becomes balanced accuracy."""
    return MISSING if not name else str(name).replace("_", " ")


def plain(value: object) -> str:
    """A setting's value as text."""
    if value is None:
        return MISSING
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# -- the page: escaping and the policy -------------------------------------------------------------


def _environment() -> Any:
    """Templates with autoescape on; what is not stored renders as nothing rather than failing."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("headstart", "ship"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def defined(value: object) -> object:
        return None if isinstance(value, jinja2.Undefined) else value

    for filter_ in (count, score, interval, words, plain, named):
        environment.filters[filter_.__name__] = lambda value, *rest, filter_=filter_: filter_(
            defined(value), *map(defined, rest)
        )
    environment.filters["csp_hash"] = _csp_hash
    return environment


def _csp_hash(source: str) -> Any:
    """The policy's name for an inline script or style: the SHA-256 of its exact text."""
    import markupsafe

    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return markupsafe.Markup(f"'sha256-{digest}'")  # Base64 holds nothing to escape


@functools.cache
def _vega() -> Any:
    """The drawing library as the text of a script element: the one text that is not escaped."""
    import markupsafe
    import vl_convert

    source = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in source.lower() or "<!--" in source:
        raise InternalError("The drawing library cannot stand inside a script element")
    return markupsafe.Markup(source)


def _specs(charts: dict[str, Chart]) -> Any:
    """All chart specifications as JSON that cannot leave its script element: no <, > or & in it."""
    import markupsafe

    text = json.dumps({name: chart.spec for name, chart in charts.items()}, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return markupsafe.Markup(text)
