"""The charts of the judgement: ROC and precision-recall, people, parts of the images, more images."""

from __future__ import annotations

from typing import Any

from headstart.ship.chart_parts import (
    BLUE,
    GREY,
    INK,
    LEGEND_PX,
    ORANGE,
    Chart,
    Record,
    axis,
    colours,
    finish,
    inline,
    is_share,
    legend_columns,
    named,
    number,
    places,
    record,
    records,
    titled,
)
from headstart.ship.report_judgement import MOST_COLOURED, front, parts, readers, sites

PALETTE = (BLUE, ORANGE, "#2f8f6b", "#8f56a6", "#4a9fd0", "#7a3b0a", "#a8870b", "#5b6670")
"""of the classes, apart for colour-blind eyes; more classes than these are grey, one of them blue"""
SIDE_PX = 330
MOST_STUDIES = 6
TWICE = 60
"""steps of the drawn power law"""
SEEN, FITTED, AHEAD = "measured", "fitted curve", "twice as many images"


def judge_charts(evaluation: Record, plan: Record) -> dict[str, Chart]:
    """Every chart that the stored judgement allows, by name."""
    made = (
        roc(evaluation),
        precision_recall(evaluation),
        *reader_charts(evaluation),
        *part_charts(evaluation),
        learning_curve(evaluation, plan),
    )
    return {chart.name: chart for chart in made if chart is not None}


# -- curves of the classes -------------------------------------------------------------------------


def roc(evaluation: Record) -> Chart | None:
    """Sensitivity against false alarms for every class, with what the thresholds reached."""
    points = [
        {"class": k, "x": 1 - specificity, "y": sensitivity}
        for k, row in _points(evaluation)
        if (specificity := _value(row, "specificity")) is not None
        and (sensitivity := _value(row, "sensitivity")) is not None
    ]
    return _curves(
        "roc",
        evaluation,
        ("specificity", "sensitivity"),
        ("false alarms: share of the other classes", "share found (sensitivity)"),
        points,
    )


def precision_recall(evaluation: Record) -> Chart | None:
    """Precision against recall for every class, with the place of each threshold on its curve."""
    curves = records(evaluation.get("curves"))
    points = []
    for k, row in _points(evaluation):
        places_ = [
            point
            for point in _path(curves[k], "sensitivity", "precision")
            if point["threshold"] is not None and point["threshold"] >= row["threshold"]
        ]
        if places_:
            points.append({"class": k, "x": places_[-1]["x"], "y": places_[-1]["y"]})
    return _curves(
        "precision_recall",
        evaluation,
        ("sensitivity", "precision"),
        ("share found (recall)", "share of the calls that are right (precision)"),
        points,
    )


def _points(evaluation: Record) -> list[tuple[int, Record]]:
    """The thresholds that could be chosen, each with the place of its class among the curves."""
    place = {str(row.get("name")): k for k, row in enumerate(records(evaluation.get("curves")))}
    return [
        (place[str(row["name"])], row)
        for row in records(evaluation.get("operating"))
        if row.get("refused") is not True
        and str(row.get("name")) in place
        and number(row.get("threshold")) is not None
    ]


def _value(row: Record, key: str) -> float | None:
    return number(record(row.get(key)).get("value"))


def _path(curve: Record, across: str, up: str) -> list[Record]:
    """The stored points of one curve in their order; those without a rate are left out."""
    columns = [curve.get(key) for key in ("threshold", across, up)]
    if not all(isinstance(column, list) for column in columns):
        return []
    return [
        {"threshold": number(t), "x": 1 - x if across == "specificity" else x, "y": y}
        for t, x, y in zip(*columns, strict=False)
        if number(x) is not None and number(y) is not None
    ]


def _curves(
    name: str, evaluation: Record, keys: tuple[str, str], titles: tuple[str, str], points: Any
) -> Chart | None:
    """One line per class; the parameter `shown` is the class to bring forward, -1 for all."""
    stored = records(evaluation.get("curves"))
    values = [
        {"class": k, "x": point["x"], "y": point["y"], "order": order}
        for k, row in enumerate(stored)
        for order, point in enumerate(_path(row, *keys))
    ]
    if not values:
        return None
    import altair as alt

    labels = [named(row.get("name")) for row in stored]
    unit = alt.Scale(domain=[0, 1])
    share = alt.Axis(format="~%", tickCount=5)
    x = alt.X("x:Q", title=titles[0], scale=unit, axis=share)
    y = alt.Y("y:Q", title=titles[1], scale=unit, axis=share)
    forward = "shown < 0 || shown == datum.class"
    look = {
        "color": _class_colour(labels),
        "opacity": alt.condition(forward, alt.value(1), alt.value(0.25)),
    }
    base = alt.Chart(alt.NamedData("curves")).encode(
        x=x, y=y, detail="class:N", order="order:Q", **look
    )
    step = "step-before" if name == "precision_recall" else "linear"
    on_top = base.transform_filter("shown == datum.class")
    layers = [
        base.mark_line(interpolate=step, strokeWidth=1.8),
        on_top.mark_line(interpolate=step, strokeWidth=3),
    ]
    if name == "roc":
        chance = inline([{"x": 0, "y": 0}, {"x": 1, "y": 1}])
        layers.insert(
            0, alt.Chart(chance).mark_line(color=GREY, strokeDash=[4, 4]).encode(x=x, y=y)
        )
    if points:
        marks = alt.Chart(inline(points)).encode(x=x, y=y, **look)
        layers.append(marks.mark_point(shape="diamond", filled=True, size=75, stroke="white"))
    drawn = alt.layer(*layers).add_params(alt.param(name="shown", value=front(evaluation)))
    said = "; ".join(
        f"{label} {_value(row, 'auc' if name == 'roc' else 'average_precision') or 0:.3f}"
        for label, row in zip(labels, stored, strict=True)
    )
    what = "ROC curves; areas" if name == "roc" else "Precision-recall curves; average precision"
    spec = finish(drawn, SIDE_PX, labels, {"curves": values})
    return Chart(name, spec, f"{what}: {said}.", max_px=470)


def _class_colour(labels: list[str]) -> Any:
    """A colour per class with a legend; of too many classes only the one that is brought forward."""
    import altair as alt

    many = len(labels)
    if many > MOST_COLOURED:
        return alt.condition("shown == datum.class", alt.value(BLUE), alt.value(GREY))
    legend = alt.Legend(
        orient="bottom", columns=legend_columns(labels), labelExpr="labels[datum.value]", labelLimit=LEGEND_PX // 2,
        symbolType="stroke", symbolStrokeWidth=3,
    )  # fmt: skip
    scale = alt.Scale(domain=list(range(many)), range=list(PALETTE[:many]))
    return alt.Color("class:N", title=None, scale=scale, legend=legend)


# -- people beside the model -----------------------------------------------------------------------


def reader_charts(evaluation: Record) -> list[Chart]:
    """The model's curve of one class, and every reader beside it with the 95 % intervals."""
    curves = {str(row.get("name")): row for row in records(evaluation.get("curves"))}
    made = []
    for study in [one for one in readers(evaluation) if not one.get("refused")][:MOST_STUDIES]:
        here = [row for row in records(evaluation.get("operating")) if _is_of(row, study)]
        chart = _reader_chart(study, record(curves.get(str(study["name"]))), here[:1])
        made += [chart] if chart else []
    return made


def _is_of(point: Record, study: Record) -> bool:
    """Whether a study compares with this operating point."""
    return (point.get("name"), point.get("threshold")) == (study["name"], study["threshold"])


def _reader_chart(study: Record, curve: Record, chosen: list[Record]) -> Chart | None:
    kinds = ("the model at every threshold", "a reader", "the mean of the readers")
    values = [
        _cross(row, kinds[2 if row.get("mean") else 1])
        for row in study["rows"]
        if row["sensitivity"] and row["specificity"]
    ]
    line = [
        {"x": point["x"], "y": point["y"], "order": order, "kind": kinds[0]}
        for order, point in enumerate(_path(curve, "specificity", "sensitivity"))
    ]
    if not values:
        return None
    import altair as alt

    unit, share = alt.Scale(domain=[0, 1]), alt.Axis(format="~%", tickCount=5)
    x = alt.X("x:Q", title="false alarms (1 - specificity)", scale=unit, axis=share)
    y = alt.Y("y:Q", title="share found (sensitivity)", scale=unit, axis=share)
    colour = colours("kind", list(kinds), (BLUE, GREY, ORANGE), columns=1)
    base = alt.Chart(inline(values)).encode(color=colour)
    size = alt.condition(f"datum.kind == '{kinds[2]}'", alt.value(170), alt.value(60))
    drawn = alt.layer(
        alt.Chart(inline(line))
        .mark_line(strokeWidth=2.5)
        .encode(x=x, y=y, order="order:Q", color=colour),
        base.mark_rule(opacity=0.6).encode(x=x, y=alt.Y("low_y:Q"), y2="high_y:Q"),
        base.mark_rule(opacity=0.6).encode(x=alt.X("low_x:Q"), x2="high_x:Q", y=y),
        base.mark_point(filled=True, opacity=1, stroke="white").encode(x=x, y=y, size=size),
    )
    point = [
        {"x": 1 - quiet, "y": found}
        for row in chosen
        if (quiet := _value(row, "specificity")) is not None
        and (found := _value(row, "sensitivity")) is not None
    ]
    if point:
        mark = {"shape": "diamond", "filled": True, "size": 130, "opacity": 1, "color": INK}
        drawn += alt.Chart(inline(point)).mark_point(**mark).encode(x=x, y=y)
    said = f"{len(values) - 1} readers beside the curve of the model for {named(study['name'])}."
    return Chart(study["chart"], finish(drawn, SIDE_PX), said, max_px=520)


def _cross(row: Record, kind: str) -> Record:
    """A reader's point and the ends of its two intervals."""
    found, quiet = row["sensitivity"], row["specificity"]
    low_y, high_y = (_end(found, end) for end in ("low", "high"))
    high_x, low_x = (1 - _end(quiet, end) for end in ("low", "high"))
    ends = {"low_y": low_y, "high_y": high_y, "low_x": low_x, "high_x": high_x}
    return {"x": 1 - quiet["value"], "y": found["value"], "kind": kind, **ends}


def _end(row: Record, end: str) -> float:
    """An end of an interval, or the value itself where there is none."""
    value = number(row.get(end))
    return float(row["value"] if value is None else value)


# -- parts of the images ---------------------------------------------------------------------------


def part_charts(evaluation: Record) -> list[Chart]:
    """A dot with its interval for every value of a column, and for every site that was held out; the
    worst one stands out."""
    overall = {row.get("name"): row for row in records(evaluation.get("metrics"))}
    made = [
        _part_chart(column, record(overall.get(column["metric"]))) for column in parts(evaluation)
    ]
    if held_out := sites(evaluation):
        made.append(_part_chart(held_out, held_out["mean"]))
    return [chart for chart in made if chart is not None]


def _part_chart(column: Record, overall: Record) -> Chart | None:
    rows = [row for row in column["rows"] if row["score"]]
    if not rows:
        return None
    import altair as alt

    kinds = ["the worst", "the others", "too few images to say"]
    labels = [f"{named(row['value'])} ({row['n']})" for row in rows]
    values = [
        {
            "place": place,
            "kind": kinds[0 if row["worst"] else 2 if row["small"] else 1],
            "value": row["score"]["value"],
            "low": _end(row["score"], "low"),
            "high": _end(row["score"], "high"),
        }
        for place, row in enumerate(rows)
    ]
    name = column["metric"]
    shades = dict(zip(kinds, (ORANGE, BLUE, GREY), strict=True))
    present = [kind for kind in kinds if any(value["kind"] == kind for value in values)]
    base = alt.Chart(inline(values)).encode(
        y=alt.Y("place:N", title=None, **places(labels, labelLimit=160)),
        color=colours("kind", present, [shades[kind] for kind in present]),
    )
    scale = alt.Scale(zero=False)
    title = f"{titled(name)}, with its 95 % interval"
    layers = [
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=title, scale=scale, axis=axis(name)), x2="high:Q"
        ),
        base.mark_point(filled=True, size=80, opacity=1).encode(x="value:Q"),
    ]
    whole = number(overall.get("value"))
    if whole is not None:
        line = alt.Chart(inline([{"value": whole}]))
        layers.insert(0, line.mark_rule(color=GREY, strokeDash=[5, 4]).encode(x="value:Q"))
    said = f"{titled(name)} for {len(rows)} values of {named(column['column'])}."
    drawn = finish(alt.layer(*layers), 26 * len(labels), labels)
    return Chart(column["chart"], drawn, said, max_px=720)


# -- more images -----------------------------------------------------------------------------------


def learning_curve(evaluation: Record, plan: Record) -> Chart | None:
    """Score by the number of images, the power law through it, and what twice as many would bring."""
    stored = record(evaluation.get("learning_curve"))
    law = [number(stored.get(key)) for key in ("a", "b", "c", "n", "gain", "low", "high")]
    points = [
        {"n": row["n"], "value": row["score"], "low": row["score"] - row["se"],
         "high": row["score"] + row["se"], "kind": SEEN}
        for row in records(stored.get("points"))
        if all(number(row.get(key)) is not None for key in ("n", "score", "se")) and row["n"] > 0
    ]  # fmt: skip
    if not points or any(value is None for value in law):
        return None
    a, b, c, n, gain, low, high = (float(value or 0) for value in law)
    first = min(row["n"] for row in points)
    if not 0 < first < n or abs(c) > 10:
        return None
    import altair as alt

    name = str(plan.get("metric") or stored.get("criterion") or "accuracy")

    def at(images: float) -> float:
        return float(a - b * images**-c)

    steps = [first * (2 * n / first) ** (k / TWICE) for k in range(TWICE + 1)]
    known = [{"n": x, "value": at(x), "kind": FITTED} for x in (*(x for x in steps if x < n), n)]
    beyond = [{"n": x, "value": at(x), "kind": AHEAD} for x in (n, *(x for x in steps if x > n))]
    top = at(n)
    aim = [{"n": 2 * n, "value": top + gain, "low": top + low, "high": top + high, "kind": AHEAD}]
    x = alt.X(
        "n:Q",
        title="images learned from, on a logarithmic scale",
        scale=alt.Scale(type="log", domain=[first / 1.1, 2.2 * n], nice=False),
        axis=alt.Axis(
            values=[*(row["n"] for row in points), 2 * n],
            format=",.3~r",
            grid=False,
            labelOverlap="greedy",
        ),
    )
    y = alt.Y("value:Q", title=titled(name), scale=alt.Scale(zero=False), axis=axis(name))
    colour = colours("kind", [SEEN, FITTED, AHEAD], (INK, BLUE, ORANGE))

    def drawn(values: list[Record]) -> Any:
        return alt.Chart(inline(values)).encode(x=x, color=colour)

    layers = alt.layer(
        drawn(known).mark_line(strokeWidth=2).encode(y=y),
        drawn(beyond).mark_line(strokeWidth=2, strokeDash=[5, 4]).encode(y=y),
        drawn([*points, *aim]).mark_rule(strokeWidth=1.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        drawn([*points, *aim]).mark_point(filled=True, size=55, opacity=1).encode(y=y),
    )
    unit = "points" if is_share(name) else "units"
    size = 100 * gain if is_share(name) else gain
    said = f"{titled(name)} by the number of images; twice as many would add {size:.1f} {unit}."
    return Chart("learning_curve", finish(layers, 280), said, max_px=720)
