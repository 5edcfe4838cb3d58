"""The map of the images as a chart: a mark for each, coloured by its class, wrong answers outlined."""

from __future__ import annotations

from collections import Counter
from typing import Any

from headstart.ship.chart_parts import INK, LEGEND_PX, Chart, Record, finish, legend_columns, named
from headstart.ship.report_pictures import placed

MOST_COLOURS = 20
"""more cannot be told apart; the classes with the fewest images are then grey"""
COLOURS = (
    "#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#b79a20", "#9d755d",
    "#ff9da6", "#439894", "#9ecae9", "#88d27a", "#ffbf79", "#d6a5c9", "#79706e", "#83bcb6",
    "#d8b5a5", "#8b5fbf", "#5b6670", "#d67195",
)  # fmt: skip
OTHERS = "all other classes"
LARGEST_PX = 640


def feature_map(stored: Record) -> Chart | None:
    """The stored map; its marks carry the place `i` of their image in the list beside the chart.

    Args:
        stored: what `explain.map.map_json` made.
    """
    points, classes = placed(stored)
    if not points:
        return None
    import altair as alt

    most = [k for k, _ in Counter(row["label"] for row in points).most_common(MOST_COLOURS)]
    shown = sorted(most) if len(classes) > MOST_COLOURS else list(range(len(classes)))
    place = {k: colour for colour, k in enumerate(shown)}
    labels = [named(classes[k]) for k in shown]
    range_ = list(COLOURS[: len(labels)])
    if len(classes) > MOST_COLOURS:
        labels.append(OTHERS)
        range_.append("#c4cad0")
    values = [
        {"i": i, "x": row["x"], "y": row["y"], "k": place.get(row["label"], len(shown)),
         "wrong": row["wrong"]}
        for i, row in enumerate(points)
    ]  # fmt: skip
    bare = alt.Axis(labels=False, ticks=False, domain=False, grid=False)
    square = alt.Scale(domain=[-1.06, 1.06], nice=False)
    legend = alt.Legend(
        orient="bottom",
        columns=legend_columns(labels),
        labelExpr="labels[datum.value]",
        labelLimit=LEGEND_PX // 2,
    )
    base = alt.Chart(alt.NamedData("points")).encode(
        x=alt.X("x:Q", title=None, scale=square, axis=bare),
        y=alt.Y("y:Q", title=None, scale=square, axis=bare),
    )
    colour: Any = alt.Color(
        "k:N",
        title=None,
        scale=alt.Scale(domain=list(range(len(labels))), range=range_),
        legend=legend,
    )
    drawn = alt.layer(
        base.transform_filter("!datum.wrong")
        .mark_point(filled=True, shape="circle", size=34, opacity=0.8)
        .encode(color=colour),
        base.transform_filter("datum.wrong")
        .mark_point(filled=True, shape="diamond", size=80, opacity=1, stroke=INK, strokeWidth=1.4)
        .encode(color=colour),
    ).properties(view=alt.ViewBackground(fill="#fafbfc", stroke="#d9dfe4"))
    wrong = sum(row["wrong"] for row in points)
    said = (
        f"Map of {len(points):,} images of {len(classes)} classes, {wrong:,} of them answered "
        "wrongly. The arrow keys walk from image to image, W goes to the next wrong one."
    )
    spec = finish(drawn, LARGEST_PX, labels, {"points": values})
    return Chart("map", spec, said, max_px=LARGEST_PX)
