"""The report's charts: each function turns stored results into one Vega-Lite specification."""

from __future__ import annotations

from typing import Any

from headstart.ship.chart_parts import (
    BLUE,
    GREY,
    INK,
    MOST_CLASSES,
    ORANGE,
    PALE,
    Chart,
    Record,
    axis,
    finish,
    named,
    places,
    two_colours,
)


def all_charts(data: Record, plan: Record, evaluation: Record) -> dict[str, Chart]:
    """Every chart that the stored results allow, by name; a chart without its data is left out."""
    made = (
        class_counts(data),
        quadrant(plan),
        depth_curve(plan),
        candidates(plan),
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
    """One bar per class; the test part is stacked after the training part."""
    import altair as alt

    values: list[Record] = []
    for place, row in enumerate(rows):
        train, test = row.get("train"), row.get("test")
        if train is None or test is None:
            train, test = row["total"], 0
        values.append({"class": place, "part": "training", "from": 0, "to": train})
        values.append({"class": place, "part": "test", "from": train, "to": train + test})
    chart = (
        alt.Chart(alt.Data(values=values))
        .mark_bar(height={"band": 0.72})
        .encode(
            x=alt.X("to:Q", title="images", axis=alt.Axis(tickMinStep=1)),
            x2="from:Q",
            y=alt.Y("class:N", title=None, **places(labels)),
            color=two_colours("part", ["training", "test"]),
        )
    )
    return finish(chart, 24 * len(labels), labels)


def _ranked_counts(totals: list[int]) -> Record:
    """How the class sizes fall from the largest to the smallest."""
    import altair as alt

    values = [{"rank": rank, "images": n} for rank, n in enumerate(totals, start=1)]
    chart = (
        alt.Chart(alt.Data(values=values))
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


def quadrant(plan: Record) -> Chart | None:
    """Where the data set lies between the four cases: size across, distance from the source up."""
    size, similarity = plan.get("size") or {}, plan.get("similarity") or {}
    n, shift = size.get("n"), similarity.get("bn_shift")
    if not n:
        return None
    import altair as alt

    small, large = size.get("small_below") or 1_000, size.get("large_above") or 10_000
    limits = similarity.get("thresholds") or {}
    similar, different = limits.get("similar_below"), limits.get("different_from")
    low, high = similarity.get("low"), similarity.get("high")
    left, right = min(10, small / 10, n / 2), max(large * 100, n * 5)
    top = max(1.0, 1.1 * (high or shift or 0), 1.5 * (different or 0))
    layers = [
        *_quadrant_bands((left, small, large, right), (0, similar, different, top)),
        _quadrant_names((left, small, large, right), top),
        *_quadrant_point(n, shift, low, high, on_right=n > (left * right) ** 0.5 * 5),
    ]
    words = f"{n} images" if shift is None else f"{n} images, BatchNorm shift {shift:.2f}"
    return Chart(
        "quadrant",
        finish(alt.layer(*layers), 300),
        f"The four cases as quadrants; this data set lies at {words}: "
        f"{size.get('verdict', 'unknown')} in size and {similarity.get('verdict', 'unknown')} "
        "in similarity.",
        max_px=680,
    )


def _quadrant_bands(x: tuple[float, ...], y: tuple[float | None, ...]) -> list[Any]:
    """The grey bands between the thresholds, where both sides race, and the threshold lines."""
    import altair as alt

    left, small, large, right = x
    bottom, similar, different, top = y
    bands = [{"left": small, "right": large, "low": bottom, "high": top}]
    lines: list[tuple[str, float]] = [("x", small), ("x", large)]
    if similar is not None and different is not None:
        bands.append({"left": left, "right": right, "low": similar, "high": different})
        lines += [("y", similar), ("y", different)]
    band = (
        alt.Chart(alt.Data(values=bands))
        .mark_rect(color=PALE)
        .encode(
            x=alt.X(
                "left:Q",
                title="images (logarithmic)",
                scale=alt.Scale(type="log", domain=[left, right], nice=False),
                axis=alt.Axis(format="~s", values=[10**k for k in range(10)], grid=False),
            ),
            x2="right:Q",
            y=alt.Y(
                "low:Q",
                title="BatchNorm shift (0 = like the source)",
                scale=alt.Scale(domain=[0, top], nice=False),
                axis=alt.Axis(grid=False, tickCount=5),
            ),
            y2="high:Q",
        )
    )
    rules = [
        alt.Chart(alt.Data(values=[{way: value}]))
        .mark_rule(color=GREY, strokeDash=[4, 3])
        .encode(**{way: f"{way}:Q"})
        for way, value in lines
    ]
    return [band, *rules]


def _quadrant_names(x: tuple[float, ...], top: float) -> Any:
    """The names of the four cases, near the outer edges, where they hide no point."""
    import altair as alt

    left, small, large, right = x
    at_left, at_right = (left * small) ** 0.5, (large * right) ** 0.5
    values = [
        {"x": at_left, "y": 0.1 * top, "label": ["Case 1", "small, similar"]},
        {"x": at_left, "y": 0.95 * top, "label": ["Case 2", "small, different"]},
        {"x": at_right, "y": 0.1 * top, "label": ["Case 3", "large, similar"]},
        {"x": at_right, "y": 0.95 * top, "label": ["Case 4", "large, different"]},
    ]
    return (
        alt.Chart(alt.Data(values=values))
        .mark_text(fontSize=12, color="#4a5763", lineHeight=15)
        .encode(x="x:Q", y="y:Q", text="label:N")
    )


def _quadrant_point(
    n: int, shift: float | None, low: float | None, high: float | None, *, on_right: bool
) -> list[Any]:
    """The data set itself with its interval; only a vertical line when the shift is unknown."""
    import altair as alt

    if shift is None:
        line = alt.Chart(alt.Data(values=[{"x": n}]))
        return [line.mark_rule(color=ORANGE, strokeWidth=3).encode(x="x:Q")]
    row = {"x": n, "y": shift, "low": low, "high": high, "label": "your images"}
    base = alt.Chart(alt.Data(values=[row])).encode(x="x:Q")
    layers = [
        base.mark_point(filled=True, size=130, color=ORANGE, opacity=1).encode(y="y:Q"),
        base.mark_text(
            align="right" if on_right else "left",
            dx=-12 if on_right else 12,
            color=ORANGE,
            fontWeight="bold",
            fontSize=13,
        ).encode(y="y:Q", text="label:N"),
    ]
    if low is not None and high is not None:
        layers.insert(0, base.mark_rule(color=ORANGE, strokeWidth=3).encode(y="low:Q", y2="high:Q"))
    return layers


def depth_curve(plan: Record) -> Chart | None:
    """How well a new last layer does on the features of each stage, shallow to deep."""
    curve = [row for row in plan.get("depth_curve") or [] if row.get("score") is not None]
    if not curve:
        return None
    import altair as alt

    joined = plan.get("all_stages") or {}
    rows = [{**row, "kind": "new images (folds)"} for row in curve]
    if joined.get("score") is not None:
        rows.append({**joined, "stage": "all stages", "kind": "new images (folds)"})
    labels = [named(row.get("stage")) for row in rows]
    held = [_whisker(row, place) for place, row in enumerate(rows)]
    seen = [
        {"place": place, "value": row["train_score"], "kind": "training images"}
        for place, row in enumerate(curve)
        if row.get("train_score") is not None
    ]
    metric = str(plan.get("metric") or "accuracy")
    x = alt.X(
        "place:O", title="stage, shallow to deep", **places(labels, labelAngle=-40, grid=False)
    )
    y = alt.Y(
        "value:Q", title=metric.replace("_", " "), scale=alt.Scale(zero=False), axis=axis(metric)
    )
    colour = two_colours("kind", ["new images (folds)", "training images"])
    line, point = {"strokeWidth": 2}, {"filled": True, "size": 60, "opacity": 1}
    layers = [
        alt.Chart(alt.Data(values=seen)).mark_line(strokeDash=[5, 4], **line),
        alt.Chart(alt.Data(values=held[: len(curve)])).mark_line(**line),
        alt.Chart(alt.Data(values=held)).mark_rule(strokeWidth=2).encode(y="low:Q", y2="high:Q"),
        alt.Chart(alt.Data(values=held)).mark_point(**point),
    ]
    encoded = [
        layer.encode(x=x, color=colour) if index == 2 else layer.encode(x=x, y=y, color=colour)
        for index, layer in enumerate(layers)
    ]
    best = max(held, key=lambda row: float(row["value"]))
    return Chart(
        "depth_curve",
        finish(alt.layer(*encoded, *_chance(plan.get("chance"))), 280, labels),
        f"{metric.replace('_', ' ')} by stage over {len(curve)} stages; "
        f"best: {labels[best['place']]} with {best['value']:.3f}.",
    )


def _whisker(row: Record, place: int) -> Record:
    """One score with the ends of its whisker, one standard error to each side."""
    error = row.get("se") or 0.0
    score = row["score"]
    kind = row.get("kind")
    return {
        "place": place,
        "kind": kind,
        "value": score,
        "low": score - error,
        "high": score + error,
    }


def _chance(chance: float | None) -> list[Any]:
    """The line of blind guessing."""
    if chance is None:
        return []
    import altair as alt

    base = alt.Chart(alt.Data(values=[{"value": chance, "label": "guessing"}])).encode(y="value:Q")
    return [
        base.mark_rule(color=GREY, strokeDash=[2, 3]),
        base.mark_text(align="left", dx=4, dy=-7, color="#5b6670").encode(
            x=alt.value(0), text="label:N"
        ),
    ]


def candidates(plan: Record) -> Chart | None:
    """Every candidate's cross-validated score with one standard error to each side."""
    rows = [row for row in plan.get("candidates") or [] if row.get("score") is not None]
    if not rows:
        return None
    import altair as alt

    labels = [named(row.get("name")) for row in rows]
    kinds = ["chosen", "not chosen"]
    values = [
        _whisker({**row, "kind": kinds[row.get("name") != plan.get("chosen")]}, place)
        for place, row in enumerate(rows)
    ]
    metric = str(plan.get("metric") or "accuracy")
    title = f"{metric.replace('_', ' ')}, cross-validated"
    scale = alt.Scale(zero=False)
    base = alt.Chart(alt.Data(values=values)).encode(
        y=alt.Y("place:N", title=None, **places(labels)),
        color=two_colours("kind", kinds, [ORANGE, BLUE]),
    )
    whiskers = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=title, scale=scale, axis=axis(metric)), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=80, opacity=1).encode(x="value:Q")
    return Chart(
        "candidates",
        finish(alt.layer(whiskers, points), 26 * len(labels), labels),
        f"{title}, for {len(rows)} candidates; the table below holds the same numbers.",
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
    bare = {"ticks": False, "domain": False}
    across = places(labels, orient="top", labelAngle=angle, labelLimit=110, **bare)
    base = alt.Chart(alt.Data(values=values)).encode(
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
        alt.Chart(alt.Data(values=diagonal))
        .mark_line(color=GREY, strokeDash=[4, 4])
        .encode(x=x, y=y),
        alt.Chart(alt.Data(values=values)).mark_line(color=BLUE, strokeWidth=1.5).encode(x=x, y=y),
        alt.Chart(alt.Data(values=values))
        .mark_point(filled=True, color=BLUE, opacity=0.85)
        .encode(x=x, y=y, size=alt.Size("n:Q", scale=dots, legend=None)),
    )
    said = "; ".join(
        f"{row['confidence']:.0%} given, {row['accuracy']:.0%} right ({row['n']} images)"
        for row in values
        if row["accuracy"] is not None
    )
    return Chart("reliability", finish(chart, 320), f"Reliability diagram: {said}.", max_px=460)
