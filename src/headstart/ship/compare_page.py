"""The page of a comparison: the table, score against seconds, pre-trained against random weights.

It renders what compare.json stores and computes nothing. As in the report, every string is cleaned
at the door and escaped by the template, and only our own scripts may run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headstart.run import read_json
from headstart.ship.chart_parts import (
    BLUE,
    GREY,
    INK,
    LEGEND_PX,
    ORANGE,
    Chart,
    Record,
    axis,
    finish,
    inline,
    is_share,
    named,
    number,
    record,
    records,
    titled,
)
from headstart.ship.charts import DOT, _by_epoch, _epochs
from headstart.ship.page import cleaned, environment, specs, texts, vega
from headstart.ship.report import render
from headstart.ship.report_names import SHORT

PALETTE = (BLUE, "#56a8d6", ORANGE, "#7a3b0a", "#2f8f6b", "#9a5fb0")
"""apart for colour-blind eyes: light and dark in each pair that a weak eye confuses"""
SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down")
NAMES = {
    "head_top": "new head, network frozen",
    "head_cut": "early stages and new head, frozen",
    "finetune": "whole network fine-tuned",
    "scratch": "whole network from random weights",
    "all_stages": "new head on all stages, frozen",
    "partial": "last stages fine-tuned",
}


def page_of(run_dir: Path) -> tuple[str, str]:
    """Name and HTML text of the page that a run folder has: of a comparison, or the report.

    Raises:
        RunFolderError: see `render_comparison` and `report.render`.
    """
    if (run_dir / "compare.json").is_file():
        return "compare.html", render_comparison(run_dir)
    return "report.html", render(run_dir)


def render_comparison(run_dir: Path) -> str:
    """The HTML text of the page of one comparison.

    Args:
        run_dir: a run folder with run.json and compare.json.

    Raises:
        RunFolderError: one of them is missing or no JSON object.
    """
    run, stored = (cleaned(read_json(run_dir / name)) for name in ("run.json", "compare.json"))
    charts = {chart.name: chart for chart in all_charts(stored) if chart is not None}
    found = record(stored.get("head_start"))
    saved = [row["sentence"] for row in records(found.get("curves")) if row.get("sentence")]
    steps = record(found.get("steps")).get("sentence")
    return str(
        environment()
        .get_template("compare.html")
        .render(
            name=str(run.get("name") or cleaned(run_dir.resolve().name)),
            run=run,
            versions={"headstart": run.get("headstart"), **record(run.get("versions"))},
            metric=str(stored.get("metric") or "accuracy"),
            unit="points" if is_share(stored.get("metric")) else "units of the score",
            sentence=stored.get("sentence"),
            preference=stored.get("preference"),
            preferred=stored.get("preferred"),
            rows=records(stored.get("rows")),
            pairs=records(stored.get("pairs")),
            notes=texts(stored.get("notes")),
            left_out=texts(stored.get("left_out")),
            saved=texts(saved),
            steps=steps,
            around=any(
                number(point.get("se")) is not None
                for row in records(found.get("curves"))
                for point in records(row.get("points"))
            ),
            names=NAMES,
            charts=charts,
            specs=specs(charts),
            vega=vega(),
        )
    )


def all_charts(stored: Record) -> tuple[Chart | None, ...]:
    """The pictures that the stored results allow."""
    return cost(stored), start(stored), images(stored)


def cost(stored: Record) -> Chart | None:
    """Score with its interval against the seconds that it took, one mark per strategy."""
    metric = str(stored.get("metric") or "accuracy")
    rows = [
        row
        for row in records(stored.get("rows"))
        if number(row.get("score")) is not None and (number(row.get("seconds")) or 0) > 0
    ]
    if not rows:
        return None
    import altair as alt

    labels = [NAMES.get(str(row.get("strategy")), named(row.get("name"))) for row in rows]
    values = [
        {
            "kind": place,
            "seconds": row["seconds"],
            "score": row["score"],
            "low": row["score"] if number(row.get("low")) is None else row["low"],
            "high": row["score"] if number(row.get("high")) is None else row["high"],
        }
        for place, row in enumerate(rows)
    ]
    x = alt.X(
        "seconds:Q",
        title="seconds to make it, on a logarithmic scale",
        scale=_logarithmic([row["seconds"] for row in rows]),
        axis=alt.Axis(tickCount=5, format=",.2~r", grid=False, labelOverlap=True),
    )
    y = alt.Y("low:Q", title=titled(metric), scale=alt.Scale(zero=False), axis=axis(metric))
    places = list(range(len(labels)))
    legend = alt.Legend(
        orient="top", columns=1, labelExpr="labels[datum.value]", labelLimit=LEGEND_PX
    )
    colour = alt.Color(
        "kind:N",
        title=None,
        scale=alt.Scale(domain=places, range=list(PALETTE[: len(labels)])),
        legend=legend,
    )
    shape = alt.Shape(
        "kind:N", title=None, scale=alt.Scale(domain=places, range=list(SHAPES[: len(labels)]))
    )
    base = alt.Chart(inline(values))
    drawn = alt.layer(
        base.mark_rule(strokeWidth=2).encode(x=x, y=y, y2="high:Q", color=colour),
        base.mark_point(filled=True, size=110, opacity=1).encode(
            x=x, y=alt.Y("score:Q"), color=colour, shape=shape.legend(legend)
        ),
    )
    said = "; ".join(
        f"{label} {abs(row['score']):.3f} in {row['seconds']:.0f} s"
        for label, row in zip(labels, rows, strict=True)
    )
    return Chart(
        "cost", finish(drawn, 300, labels), f"{titled(metric)} and seconds: {said}.", max_px=720
    )


def start(stored: Record) -> Chart | None:
    """Held-out score by epoch from pre-trained and from random weights; epoch 0 is the start."""
    metric = str(stored.get("metric") or "accuracy")
    values: list[Record] = []
    labels: list[str] = []
    level, per_epoch = None, 0
    for strategy, label in (("finetune", "pre-trained weights"), ("scratch", "random weights")):
        for run in records(stored.get("histories")):
            scores = _by_epoch(run.get("epochs"), "score", len(labels))
            if run.get("strategy") != strategy or not scores:
                continue
            before = [{"epoch": 0, "score": run.get("start_score")}]
            values += [*_by_epoch(before, "score", len(labels)), *scores]
            labels.append(label)
            per_epoch = int(number(run.get("steps_per_epoch")) or 0)
            if strategy == "finetune":
                level = number(run.get("start_score"))
    if not values:
        return None
    import altair as alt

    x = _epochs(values)
    if per_epoch:
        x = x.title(f"epoch, of {per_epoch:,} {'step' if per_epoch == 1 else 'steps'} each")
    y = alt.Y("value:Q", title=titled(metric), scale=alt.Scale(zero=False), axis=axis(metric))
    ends = [min(row["epoch"] for row in values), max(row["epoch"] for row in values)]
    rule = [
        {"epoch": end, "value": level, "kind": len(labels)} for end in ends if level is not None
    ]
    if rule:
        labels.append("where the pre-trained weights start")
    colour = _kinds(labels, [BLUE, ORANGE][: len(labels) - bool(rule)] + [GREY] * bool(rule))
    base = alt.Chart(inline(values)).encode(x=x, y=y, color=colour)
    drawn = alt.layer(
        alt.Chart(inline(rule))
        .encode(x=x, y=y, color=colour)
        .mark_line(strokeWidth=1.5, strokeDash=[4, 3]),
        base.mark_line(strokeWidth=2),
        base.mark_point(**DOT),
    )
    last = ", ".join(
        f"{labels[kind]} end at {abs(rows[-1]['value']):.3f}"
        for kind in range(len(labels) - bool(rule))
        if (rows := [row for row in values if row["kind"] == kind])
    )
    said = f"{titled(metric)} on held-out images by epoch: {last}."
    return Chart("start", finish(drawn, 260, labels), said, max_px=720)


def images(stored: Record) -> Chart | None:
    """Score of frozen strategies by the number of images, beside random weights with all of them."""
    found = record(stored.get("head_start"))
    metric = str(stored.get("metric") or "accuracy")
    values: list[Record] = []
    labels: list[str] = []
    for row in records(found.get("curves")):
        points = [
            {
                "n": point["n"],
                "value": point["score"],
                "kind": len(labels),
            }
            | ({} if se is None else {"low": point["score"] - se, "high": point["score"] + se})
            for point in records(row.get("points"))
            if (number(point.get("n")) or 0) > 0 and number(point.get("score")) is not None
            for se in [number(point.get("se"))]
        ]
        if points:
            values += points
            labels.append(SHORT.get(str(row.get("name")), named(row.get("name"))))
    level = number(found.get("scratch_score"))
    if not values:
        return None
    import altair as alt

    sizes = [row["n"] for row in values]
    x = alt.X(
        "n:Q",
        title="images learned from, on a logarithmic scale",
        scale=_logarithmic(sizes),
        axis=alt.Axis(values=sorted(set(sizes)), format=",d", grid=False, labelOverlap=True),
    )
    y = alt.Y("value:Q", title=titled(metric), scale=alt.Scale(zero=False), axis=axis(metric))
    ends = (min(sizes), max(sizes))
    rule = [{"n": end, "value": level, "kind": len(labels)} for end in ends if level is not None]
    if rule:
        labels.append("random weights, all images")
    colour = _kinds(labels, [BLUE, "#2f8f6b"][: len(labels) - bool(rule)] + [ORANGE] * bool(rule))
    base = alt.Chart(inline(values)).encode(x=x, color=colour)
    # No line where no standard error is known: one of no length would look like a sure score.
    around = alt.Chart(inline([row for row in values if "low" in row])).encode(x=x, color=colour)
    drawn = alt.layer(
        alt.Chart(inline(rule))
        .encode(x=x, y=y, color=colour)
        .mark_line(strokeWidth=1.5, strokeDash=[4, 3]),
        around.mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_line(strokeWidth=2).encode(y=y),
        base.mark_point(**DOT).encode(y=y),
    )
    said = f"{titled(metric)} of frozen strategies from {min(sizes):,} to {max(sizes):,} images."
    return Chart("images", finish(drawn, 260, labels), said, max_px=720)


def _logarithmic(values: list[Any]) -> Any:
    """A scale with some room at both ends."""
    import altair as alt

    low, high = min(values), max(values)
    room = max(1.1, (high / low) ** 0.06)
    return alt.Scale(type="log", domain=[low / room, high * room], nice=False)


def _kinds(labels: list[str], range_: list[str]) -> Any:
    """Colours by place, with a legend that a telephone has room for."""
    import altair as alt

    legend = alt.Legend(
        orient="top", columns=1, labelExpr="labels[datum.value]", labelLimit=LEGEND_PX
    )
    scale = alt.Scale(domain=list(range(len(labels))), range=range_ or [INK])
    return alt.Color("kind:N", title=None, scale=scale, legend=legend)
