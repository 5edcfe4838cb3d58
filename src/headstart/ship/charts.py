"""The charts of data, training and quality: each function turns stored results into one specification."""

from __future__ import annotations

from typing import Any

from headstart.ship.chart_parts import (
    BLUE,
    GREY,
    INK,
    MOST_CLASSES,
    ORANGE,
    Chart,
    Record,
    axis,
    colours,
    finish,
    inline,
    named,
    number,
    places,
    records,
    titled,
)
from headstart.ship.plan_charts import candidates, depth_curve, quadrant
from headstart.ship.report_names import way_words

LOSS, RATE = "loss on the training images", "learning rate, on a scale of its own"
WAYS = (BLUE, ORANGE, GREY, "#54a24b", "#b279a2", "#9d755d")
WAY_PX = 310  # of a way's name with its size and its rate
DOT: Record = {"filled": True, "size": 50, "opacity": 1}


def all_charts(data: Record, plan: Record, evaluation: Record, trained: Record) -> dict[str, Chart]:
    """Every chart that the stored results allow, by name; a chart without its data is left out."""
    made = (
        class_counts(data),
        quadrant(plan),
        depth_curve(plan),
        candidates(plan),
        training(trained),
        training_score(trained, plan),
        confusion(evaluation),
        reliability(evaluation),
    )
    return {chart.name: chart for chart in made if chart is not None}


def class_counts(data: Record) -> Chart | None:
    """Images per class, split into training and test; one falling line when the classes are many."""
    rows = [row for row in data.get("counts") or [] if row.get("total") is not None]
    if not rows:
        return None
    labels = [named(row.get("class")) for row in rows]
    totals = [row["total"] for row in rows]
    most, least = totals.index(max(totals)), totals.index(min(totals))
    alt_text = (
        f"Images per class for {len(rows)} classes: most in {labels[most]} ({totals[most]}), "
        f"fewest in {labels[least]} ({totals[least]})."
    )
    if len(rows) > MOST_CLASSES:
        return Chart("class_counts", _ranked_counts(sorted(totals, reverse=True)), alt_text)
    return Chart("class_counts", _count_bars(labels, rows), alt_text)


def _count_bars(labels: list[str], rows: list[Record]) -> Record:
    """One bar per class; the test part, where there is one, is stacked after the training part."""
    import altair as alt

    values: list[Record] = []
    for place, row in enumerate(rows):
        train, test = row.get("train"), row.get("test")
        if train is None or test is None:
            train, test = row["total"], 0
        values.append({"class": place, "part": "training", "from": 0, "to": train})
        if test:
            values.append({"class": place, "part": "test", "from": train, "to": train + test})
    tested = any(value["part"] == "test" for value in values)
    chart = (
        alt.Chart(inline(values))
        .mark_bar(height={"band": 0.72})
        .encode(
            x=alt.X("to:Q", title="images", axis=alt.Axis(tickMinStep=1)),
            x2="from:Q",
            y=alt.Y("class:N", title=None, **places(labels)),
            color=colours("part", ["training", "test"]) if tested else alt.value(BLUE),
        )
    )
    return finish(chart, 24 * len(labels), labels)


def _ranked_counts(totals: list[int]) -> Record:
    """How the class sizes fall from the largest to the smallest."""
    import altair as alt

    values = [{"rank": rank, "images": n} for rank, n in enumerate(totals, start=1)]
    chart = (
        alt.Chart(inline(values))
        .mark_area(color=BLUE, opacity=0.75, line=True, interpolate="step-after")
        .encode(
            x=alt.X(
                "rank:Q",
                title="classes, largest first",
                scale=alt.Scale(domain=[1, len(totals)], nice=False),
            ),
            y=alt.Y("images:Q", title="images in the class"),
        )
    )
    return finish(chart, 220)


def training(trained: Record) -> Chart | None:
    """The loss by epoch, over the course of the learning rate on a scale of its own."""
    losses = _by_epoch(trained.get("epochs"), "loss", LOSS)
    if not losses:
        return None
    import altair as alt

    rates = _by_epoch(trained.get("epochs"), "rate", RATE)
    x = _epochs([*losses, *rates])
    colour = colours("kind", [LOSS, RATE] if rates else [LOSS], [BLUE, GREY], columns=1)
    y = alt.Y("value:Q", title="loss", scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=5))
    # The rate's height means nothing beside the loss, only its course does: it has no axis.
    bare = alt.Y("value:Q", title=None, scale=alt.Scale(zero=True), axis=None)
    loss = alt.Chart(inline(losses)).encode(x=x, y=y, color=colour)
    rate = alt.Chart(inline(rates)).encode(x=x, y=bare, color=colour)
    drawn = alt.layer(loss.mark_line(strokeWidth=2), loss.mark_point(**DOT))
    if rates:
        below = rate.mark_line(strokeWidth=1.5, strokeDash=[4, 3])
        drawn = alt.layer(below, drawn).resolve_scale(y="independent")
    return Chart(
        "training",
        finish(drawn, 240),
        f"Loss by epoch over {len(losses)} epochs: {losses[0]['value']:.3g} in the first, "
        f"{losses[-1]['value']:.3g} in the last.",
        max_px=720,
    )


def training_score(trained: Record, plan: Record) -> Chart | None:
    """The score by epoch on held-out images, for every way that was tried; epoch 0 is the start."""
    runs = records(trained.get("verified"))
    if trained.get("epochs") not in [run.get("epochs") for run in runs]:
        names = {"strategy": plan.get("strategy"), "name": plan.get("chosen")}
        runs = [*runs, {**trained, **names}]
    values: list[Record] = []
    labels: list[str] = []
    for run in runs:
        before = [{"epoch": 0, "score": run.get("start_score")}]
        scores = _by_epoch(run.get("epochs"), "score", len(labels))
        if scores:
            values += [*_by_epoch(before, "score", len(labels)), *scores]
            labels.append(way_words(run))
    if not values:
        return None
    import altair as alt

    metric = str(plan.get("metric") or "accuracy")
    scale = alt.Scale(domain=list(range(len(labels))), range=list(WAYS[: len(labels)]))
    legend = alt.Legend(orient="top", columns=1, labelExpr="labels[datum.value]", labelLimit=WAY_PX)
    base = alt.Chart(inline(values)).encode(
        x=_epochs(values),
        y=alt.Y("value:Q", title=titled(metric), scale=alt.Scale(zero=False), axis=axis(metric)),
        color=alt.Color("kind:N", title=None, scale=scale, legend=legend),
    )
    drawn = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(**DOT))
    return Chart(
        "training_score",
        finish(drawn, 240, labels),
        f"{titled(metric)} on held-out images by epoch, for {len(labels)} "
        f"{'way' if len(labels) == 1 else 'ways'} to train; the last is "
        f"{abs(values[-1]['value']):.3f}.",
        max_px=720,
    )


def _by_epoch(rows: object, key: str, kind: str | int) -> list[Record]:
    """One figure of every epoch that has it."""
    return [
        {"epoch": row["epoch"], "value": row[key], "kind": kind}
        for row in records(rows)
        if number(row.get("epoch")) is not None and number(row.get(key)) is not None
    ]


def _epochs(values: list[Record]) -> Any:
    """The axis of epochs: whole numbers only, and at least two, so that one point has a place."""
    import altair as alt

    first, last = (int(pick(row["epoch"] for row in values)) for pick in (min, max))
    last = max(last, first + 1)
    return alt.X(
        "epoch:Q",
        title="epoch",
        scale=alt.Scale(domain=[first, last], nice=False),
        axis=alt.Axis(
            values=list(range(first, last + 1, -(-(last - first) // 8))), format="d", grid=False
        ),
    )


def confusion(evaluation: Record) -> Chart | None:
    """The confusion matrix: rows are true classes, colour is the share of the row."""
    matrix, classes = evaluation.get("confusion") or [], evaluation.get("classes") or []
    if not matrix or len(matrix) != len(classes) or len(classes) > MOST_CLASSES:
        return None
    import altair as alt

    labels = [named(name) for name in classes]
    values = [
        {"true": i, "predicted": j, "n": n, "share": n / (sum(row) or 1)}
        for i, row in enumerate(matrix)
        for j, n in enumerate(row)
    ]
    cell = 52 if len(labels) <= 6 else 34 if len(labels) <= 15 else 20
    short = len(labels) <= 4 and max(map(len, labels)) <= 10
    angle = 0 if short else -40 if len(labels) <= 15 else -90
    bare: Record = {"ticks": False, "domain": False}
    across = places(labels, orient="top", labelAngle=angle, labelLimit=110, **bare)
    base = alt.Chart(inline(values)).encode(
        x=alt.X("predicted:N", title="predicted", **across),
        y=alt.Y("true:N", title="true class", **places(labels, **bare)),
    )
    colour = alt.Color(
        "share:Q",
        title="share of the true class",
        scale=alt.Scale(domain=[0, 1], range=["#f4f7fa", "#0a4f7c"]),
        legend=alt.Legend(orient="bottom", format=".0%", gradientLength=160),
    )
    ink = alt.condition("datum.share > 0.5", alt.value("white"), alt.value(INK))
    shown = base.transform_filter("datum.n > 0")
    layers = alt.layer(
        base.mark_rect(stroke="white").encode(color=colour),
        shown.mark_text(fontSize=9 if cell == 20 else 13).encode(text="n:Q", color=ink),
    )
    errors = sum(map(sum, matrix)) - sum(row[i] for i, row in enumerate(matrix))
    return Chart(
        "confusion",
        finish(layers, cell * len(labels), labels),
        f"Confusion matrix of {len(labels)} classes over {sum(map(sum, matrix))} images, "
        f"{errors} of them wrong; the table of confused pairs holds the largest numbers.",
        min_px=len(labels) * (17 if cell == 20 else 24) + 170 if len(labels) > 6 else 0,
        max_px=len(labels) * (cell + 30) + 170,
    )


def reliability(evaluation: Record) -> Chart | None:
    """Whether a confidence of 80 % means being right 80 % of the time."""
    bins = (evaluation.get("calibration") or {}).get("reliability") or []
    rows = [row for row in bins if row.get("n") and row.get("confidence") is not None]
    if not rows:
        return None
    import altair as alt

    values = [{key: row.get(key) for key in ("confidence", "accuracy", "n")} for row in rows]
    unit = alt.Scale(domain=[0, 1])
    x = alt.X("confidence:Q", title="confidence given", scale=unit, axis=axis("accuracy"))
    y = alt.Y("accuracy:Q", title="share that was right", scale=unit, axis=axis("accuracy"))
    diagonal = [{"confidence": 0, "accuracy": 0}, {"confidence": 1, "accuracy": 1}]
    dots = alt.Scale(type="sqrt", range=[30, 500], domain=[0, max(row["n"] for row in values)])
    chart = alt.layer(
        alt.Chart(inline(diagonal)).mark_line(color=GREY, strokeDash=[4, 4]).encode(x=x, y=y),
        alt.Chart(inline(values)).mark_line(color=BLUE, strokeWidth=1.5).encode(x=x, y=y),
        alt.Chart(inline(values))
        .mark_point(filled=True, color=BLUE, opacity=0.85)
        .encode(x=x, y=y, size=alt.Size("n:Q", scale=dots, legend=None)),
    )
    said = "; ".join(
        f"{row['confidence']:.0%} given, {row['accuracy']:.0%} right ({row['n']} images)"
        for row in values
        if row["accuracy"] is not None
    )
    return Chart("reliability", finish(chart, 320), f"Reliability diagram: {said}.", max_px=460)
