"""What the pages with charts share: cleaning at the door, escaping, the policy, the drawing library.

Every string in a run folder may be hostile. All of them are cleaned once, the templates escape
each, and a strict Content-Security-Policy lets only our own scripts run, each by its hash. Such a
page extends `sections/base.html`.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import math
import unicodedata
from pathlib import Path
from typing import Any

from headstart.errors import InternalError
from headstart.ship import report_numbers
from headstart.ship.chart_parts import Chart, named, number

# Marks that reverse or reorder the text around them: a file name must not rewrite the sentence.
BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
PICTURES = {b"RIFF": "webp", b"\x89PNG": "png"}
"""how the kinds of pictures that a page may hold begin"""
FILTERS = (
    report_numbers.count,
    report_numbers.score,
    report_numbers.percent,
    report_numbers.interval,
    report_numbers.spread,
    report_numbers.points,
    report_numbers.signed,
    report_numbers.words,
    report_numbers.begun,
    report_numbers.plain,
    report_numbers.duration,
    number,
    named,
)


def cleaned(value: Any) -> Any:
    """The same JSON value, safe to print: control characters, lone surrogates and marks that reverse
    text are escaped in every string and key; numbers that are not finite become None.

    >>> cleaned({"a\\u202eb": [float("nan"), "tab\\t"]})
    {'a\\\\u202eb': [None, 'tab\\\\t']}
    """
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else _printable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {cleaned(str(key)): cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return value


def _printable(text: str) -> str:
    def hidden(sign: str) -> bool:
        return unicodedata.category(sign) in ("Cc", "Cs") or sign in BIDI_CONTROLS

    return "".join(
        sign.encode("unicode_escape").decode() if hidden(sign) else sign for sign in text
    )


def optional(path: Path) -> Any:
    """A cleaned JSON file, or None when it is missing or unreadable: the page then says so."""
    try:
        return cleaned(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None


def picture(encoded: object) -> str | None:
    """A stored picture (Base64) as a data address; None when it is neither WebP nor PNG.

    >>> picture("iVBORw0KGgo="), picture("PHN2Zz4=")
    ('data:image/png;base64,iVBORw0KGgo=', None)
    """
    if not isinstance(encoded, str):
        return None
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    kind = PICTURES.get(content[:4])
    if kind is None or (kind == "webp" and content[8:12] != b"WEBP"):
        return None
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def texts(value: object) -> list[str]:
    """The strings in a stored list."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []


@functools.cache
def environment() -> Any:
    """Templates with autoescape on; what is not stored renders as nothing rather than failing."""
    import jinja2

    # The style of all pages lies with the step that draws the first of them.
    steps = [jinja2.PackageLoader("headstart", step) for step in ("ship", "explain")]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(steps),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def defined(value: object) -> object:
        return None if isinstance(value, jinja2.Undefined) else value

    for filter_ in FILTERS:
        made.filters[filter_.__name__] = lambda value, *rest, filter_=filter_: filter_(
            defined(value), *map(defined, rest)
        )
    made.filters["csp_hash"] = _csp_hash
    return made


def _csp_hash(source: str) -> Any:
    """The policy's name for an inline script or style: the SHA-256 of its exact text."""
    import markupsafe

    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return markupsafe.Markup(f"'sha256-{digest}'")  # Base64 holds nothing to escape


@functools.cache
def vega() -> Any:
    """The drawing library as the text of a script element: the one text that is not escaped."""
    import markupsafe
    import vl_convert

    source = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    if "</script" in source.lower() or "<!--" in source:
        raise InternalError("The drawing library cannot stand inside a script element")
    return markupsafe.Markup(source)


def specs(charts: dict[str, Chart]) -> Any:
    """All chart specifications for the script element `chart-specs`."""
    return json_block({name: chart.spec for name, chart in charts.items()})


def json_block(value: Any) -> Any:
    """A value as JSON that cannot leave its script element: no <, > or & in it."""
    import markupsafe

    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return markupsafe.Markup(text)
