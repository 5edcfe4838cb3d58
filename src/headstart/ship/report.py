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
from headstart.explain.stored import surgery_of_json
from headstart.explain.surgery_diagram import draw_surgery
from headstart.run import read_json
from headstart.ship import report_words
from headstart.ship.chart_parts import MOST_CLASSES, Chart, Record, is_share, named, number, record
from headstart.ship.charts import all_charts
from headstart.ship.plan_charts import MOST_CANDIDATES

EXPECTED = ("data.json", "plan.json", "evaluation.json", "mistakes.json")
# Not of every run, so no reason to complain.
SOMETIMES = ("findings.json", "nested.json", "surgery.json", "training.json")
# Marks that reverse or reorder the text around them: a file name must not rewrite the sentence.
BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
SHOWN = 30  # rows of a long list; the rest is counted and stays in the JSON file


def render(run_dir: Path) -> str:
    """The HTML text of the report of one run folder.

    Args:
        run_dir: a run folder; only run.json must be there, and the report says what else is missing.

    Raises:
        RunFolderError: run.json is missing or is not a JSON object.
    """
    run = cleaned(read_json(run_dir / "run.json"))
    files = (*EXPECTED, *SOMETIMES)
    stored = {name.removesuffix(".json"): _optional(run_dir / name) for name in files}
    data, plan, evaluation, nested, training = (
        record(stored[name]) for name in ("data", "plan", "evaluation", "nested", "training")
    )
    charts = all_charts(data, plan, evaluation, training)
    only_data = record(run.get("settings")).get("command") == "check"
    opening = [report_words.found(data)]
    if not only_data:
        opening += [report_words.done(plan), report_words.how_good(plan, evaluation)]
    return str(
        _environment()
        .get_template("report.html")
        .render(
            name=str(run.get("name") or data.get("root") or cleaned(run_dir.resolve().name)),
            run=run,
            versions={"headstart": run.get("headstart"), **record(run.get("versions"))},
            data=data,
            plan=plan,
            evaluation=evaluation,
            findings=_findings(data, record(stored["findings"])),
            mistakes=_gallery(stored["mistakes"]),
            only_data=only_data,
            missing=[
                name
                for name in EXPECTED
                if stored[name.removesuffix(".json")] is None
                and (name == "data.json" or not only_data)
            ],
            opening=opening,
            tried=report_words.tried(plan),
            unit="points" if is_share(plan.get("metric")) else "units of the score",
            estimates=report_words.estimates(plan, evaluation, nested),
            inner_choices=report_words.inner_choices(nested),
            confused=report_words.confused(evaluation),
            charts=charts,
            specs=_specs(charts),
            surgery=_surgery(record(stored["surgery"])),
            training=training,
            augmentations=report_words.augmentations(training, run, plan.get("metric")),
            mixtures=report_words.mixtures(training),
            asked=report_words.augmentations_asked(run),
            training_notes=_texts(training.get("notes")),
            retrained=plan.get("strategy") in report_words.RETRAINED,
            name_parts=report_words.names_of(plan),
            short=report_words.SHORT,
            vega=_vega(),
            commands=_commands(run_dir),
            kinds=report_words.CASES,
            strategies=report_words.STRATEGIES,
            meanings=report_words.MEANINGS,
            happened=report_words.KINDS,
            shown=SHOWN,
            most_classes=MOST_CLASSES,
            most_candidates=MOST_CANDIDATES,
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


def _gallery(stored: Any) -> list[Record]:
    """The mistakes, each with its thumbnail as a data address, or None when it is no WebP image."""
    rows = stored.get("mistakes", []) if isinstance(stored, dict) else stored or []
    return [{**row, "source": _webp(row.get("thumbnail"))} for row in rows]


def _findings(data: Record, stored: Record) -> list[Record]:
    """What shows one picture twice, by kind: all names, and some pairs side by side."""
    pairs = [
        {**pair, "images": [{**side, "source": _webp(side.get("thumbnail"))} for side in sides]}
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
            report_words.found_paths(data).items(), report_words.FINDINGS.values(), strict=True
        )
        if paths
    ]


def _texts(value: object) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


def _webp(encoded: object) -> str | None:
    try:
        content = base64.b64decode(str(encoded or ""), validate=True)
    except (binascii.Error, ValueError):
        return None
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        return None
    return "data:image/webp;base64," + base64.b64encode(content).decode()


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

    for filter_ in (
        report_words.count,
        report_words.score,
        report_words.interval,
        report_words.spread,
        report_words.points,
        report_words.words,
        report_words.plain,
        report_words.duration,
        number,
        named,
    ):
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


def _surgery(stored: Record) -> Any:
    """The drawing of what was done to the network; made by us, every string in it escaped."""
    import markupsafe

    surgery = surgery_of_json(stored)
    return None if surgery is None else markupsafe.Markup(draw_surgery(surgery))


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
