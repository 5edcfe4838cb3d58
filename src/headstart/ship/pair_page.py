"""The page of two runs side by side. It renders what pair.json stores and computes nothing."""

from __future__ import annotations

from typing import Any

from headstart.ship.chart_parts import (
    BLUE,
    INK,
    LEGEND_PX,
    ORANGE,
    Chart,
    Record,
    finish,
    is_share,
    number,
    places,
    record,
    records,
)
from headstart.ship.page import cleaned, environment, specs, texts, vega
from headstart.ship.report_numbers import words

LONG = 300
"""characters of a setting that are shown; all of it is in pair.json"""


def render_pair(stored: Record) -> str:
    """The HTML text of the page of two runs.

    Args:
        stored: what `pairing.compare_runs` found.
    """
    told = cleaned(stored)
    charts = {chart.name: chart for chart in (scores(told),) if chart is not None}
    names = [*texts(told.get("names")), "", ""][:2]
    paired, right = record(told.get("paired")), record(told.get("only_right"))
    return str(
        environment()
        .get_template("pair.html")
        .render(
            names=names,
            runs=records(told.get("runs")),
            sentence=told.get("sentence"),
            facts=_facts(records(told.get("runs"))),
            settings=[_short(row) for row in records(told.get("settings"))],
            data=[_short(row) for row in records(told.get("data"))],
            scores=records(told.get("scores")),
            n=paired.get("n"),
            differences=records(paired.get("differences")),
            right=right,
            sides=[record(right.get(side)) for side in ("first", "second")],
            notes=texts(told.get("notes")),
            charts=charts,
            specs=specs(charts),
            vega=vega(),
        )
    )


def _facts(runs: list[Record]) -> list[tuple[str, list[Any]]]:
    """The facts of both runs, row by row; rows that neither run has are left out."""
    rows = [
        (words(key), [run.get(key) for run in runs])
        for key in (
            "command", "case", "strategy", "cut", "chosen", "backbone", "size_px", "metric", "n",
            "protocol", "seconds", "status",
        )
    ]  # fmt: skip
    return [row for row in rows if any(value is not None for value in row[1])]


def _short(row: Record) -> Record:
    """A row whose values fit a table."""
    return row | {side: _cut(row.get(side)) for side in ("first", "second")}


def _cut(value: Any) -> Any:
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, str) and len(value) > LONG:
        return value[:LONG] + "…"
    return value


def scores(stored: Record) -> Chart | None:
    """Every score that is a share, of both runs, each with its interval on the images that judged it."""
    names = [*texts(stored.get("names")), "", ""][:2]
    values: list[Record] = []
    labels: list[str] = []
    for row in records(stored.get("scores")):
        sides = [record(row.get(side)) for side in ("first", "second")]
        known = [side for side in sides if number(side.get("value")) is not None]
        if not known or not _is_bounded(row.get("name")):
            continue
        for run, side in enumerate(sides):
            value = number(side.get("value"))
            if value is not None:
                low, high = number(side.get("low")), number(side.get("high"))
                values.append(
                    {
                        "place": len(labels),
                        "run": run,
                        "value": value,
                        "low": value if low is None else low,
                        "high": value if high is None else high,
                    }
                )
        labels.append(words(row.get("name")))
    if not values:
        return None
    import altair as alt

    # Runs and scores are places; their names stand in one list that the axes look them up in.
    legend = alt.Legend(
        orient="top",
        columns=1,
        labelExpr=f"labels[{len(labels)} + datum.value]",
        labelLimit=LEGEND_PX,
    )
    colour = alt.Color(
        "run:N", title=None, scale=alt.Scale(domain=[0, 1], range=[BLUE, ORANGE]), legend=legend
    )
    # A second sign of the run beside its colour.
    shape = alt.Shape(
        "run:N",
        title=None,
        scale=alt.Scale(domain=[0, 1], range=["circle", "diamond"]),
        legend=legend,
    )
    rows = places([*labels], labelLimit=150)
    y = alt.Y("place:N", title=None, **rows)
    aside = alt.YOffset("run:N", scale=alt.Scale(domain=[0, 1], paddingOuter=0.6))
    x = alt.X("low:Q", title="score", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=5))
    base = alt.Chart(alt.Data(values=values))
    drawn = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q", y=y, yOffset=aside, color=colour),
        base.mark_point(filled=True, size=90, opacity=1, stroke=INK, strokeWidth=0).encode(
            x=alt.X("value:Q", title="score"), y=y, yOffset=aside, color=colour, shape=shape
        ),
    )
    said = "; ".join(
        f"{labels[row['place']]} of {names[row['run']]} {row['value']:.3f}" for row in values
    )
    spec = finish(drawn, 44 * len(labels), [*labels, *names])
    return Chart("scores", spec, f"Scores of both runs: {said}.", max_px=720)


def _is_bounded(name: object) -> bool:
    """Whether a score lies between 0 and 1, so that it can share an axis with the others."""
    return is_share(name) or str(name).startswith(("auc", "macro_f1"))
