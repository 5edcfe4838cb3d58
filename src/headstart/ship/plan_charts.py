"""The charts of the decision: the quadrant, the depth curve with its control, the candidates."""

from __future__ import annotations

import re
from typing import Any

from headstart.ship.chart_parts import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    Chart,
    Record,
    axis,
    colours,
    finish,
    inline,
    named,
    places,
    titled,
)

SOFT = "#4a5763"
WARM = "#fbe9da"
MOST_CANDIDATES = 20
"""rows of the chart; the table holds all of them"""
LINE = 20
"""characters of a candidate's name in one line of the chart"""
HEIGHT_PX, NAMES_PX = 384, 62
"""of the quadrants: the whole height, and the rows at top and bottom that hold the cases' names"""
HELD, SEEN, RANDOM = "new images", "training images", "random weights"
CHOSEN, TRIED, PROBED = "chosen", "tried in full", "first look only"


# -- the quadrant ----------------------------------------------------------------------------------


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
    top = max(1.0, 1.25 * (high or shift or 0), 1.5 * (different or 0))
    # No shift can lie in the rows of the names: nothing drawn for the data ever meets them.
    room = top * NAMES_PX / (HEIGHT_PX - 2 * NAMES_PX)
    x, y = (left, small, large, right), (-room, similar, different, top + room)
    interval = "" if low is None or high is None else f" ({low:.2f} to {high:.2f})"
    said = "shift not measured" if shift is None else f"shift {shift:.2f}{interval}"
    layers = [
        *_quadrant_bands(x, y, plan.get("case_prior") or []),
        _quadrant_names(x, y, plan.get("case_prior") or []),
        *_quadrant_point(x, top, n, (shift, low, high)),
    ]
    return Chart(
        "quadrant",
        finish(alt.layer(*layers), HEIGHT_PX),
        f"The four cases as quadrants; this data set lies at {n:,} images, {said}: "
        f"{size.get('verdict', 'unknown')} in size and {similarity.get('verdict', 'unknown')} "
        "in similarity.",
        max_px=720,
    )


def _quadrant_bands(
    x: tuple[float, ...], y: tuple[float, float | None, float | None, float], prior: list[int]
) -> list[Any]:
    """The rule's own case in a warm tint, the grey bands in which both sides race, their borders."""
    import altair as alt

    left, small, large, right = x
    bottom, similar, different, top = y
    # Without thresholds nobody knows which shift is large: each case then has the whole height.
    above = bottom if different is None else different
    sides = {1: (left, small, bottom, top if similar is None else similar)}
    sides[2] = (left, small, above, top)
    sides[3] = (large, right, sides[1][2], sides[1][3])
    sides[4] = (large, right, sides[2][2], sides[2][3])
    boxes = [(*sides[case], WARM) for case in prior if case in sides]
    boxes.append((small, large, bottom, top, PALE))
    lines: list[tuple[str, float | None]] = [("x", small), ("x", large)]
    if similar is not None and different is not None:
        boxes.append((left, right, similar, different, PALE))
        lines += [("y", similar), ("y", different)]
    keys = ("left", "right", "low", "high", "fill")
    rects = (
        alt.Chart(inline([dict(zip(keys, box, strict=True)) for box in boxes]))
        .mark_rect()
        .encode(
            x=alt.X(
                "left:Q",
                title="images to learn from (logarithmic)",
                scale=alt.Scale(type="log", domain=[left, right], nice=False),
                axis=alt.Axis(format="~s", values=[10**k for k in range(10)], grid=False),
            ),
            x2="right:Q",
            y=alt.Y(
                "low:Q",
                title="BatchNorm shift (0 = like the source)",
                scale=alt.Scale(domain=[bottom, top], nice=False),
                axis=alt.Axis(
                    grid=False, values=_ticks(top + bottom, similar, different), format=".2~f"
                ),
            ),
            y2="high:Q",
            color=alt.Color("fill:N", scale=None),
        )
    )
    rules = [
        alt.Chart(inline([{way: value}]))
        .mark_rule(color=GREY, strokeDash=[4, 3])
        .encode(**{way: f"{way}:Q"})
        for way, value in lines
    ]
    return [rects, *rules]


def _ticks(top: float, similar: float | None, different: float | None) -> list[float]:
    """The thresholds themselves, and round values that stay clear of them."""
    limits = [limit for limit in (similar, different) if limit is not None]
    round_ones = [k / 5 for k in range(int(top * 5 + 1e-9) + 1)]
    clear = [t for t in round_ones if all(abs(t - limit) > 0.07 for limit in limits)]
    return sorted([*clear, *limits])


def _quadrant_names(x: tuple[float, ...], y: tuple[Any, ...], prior: list[int]) -> Any:
    """The names of the four cases and of the band, in rows of their own at top and bottom."""
    import altair as alt

    left, small, large, right = x
    at_left, at_right = (left * small) ** 0.5, (large * right) ** 0.5
    rows = [
        (1, at_left, "bottom", ["Case 1", "small, similar", "new head"]),
        (2, at_left, "top", ["Case 2", "small, different", "early stages"]),
        (3, at_right, "bottom", ["Case 3", "large, similar", "fine-tune"]),
        (4, at_right, "top", ["Case 4", "large, different", "from scratch"]),
        (0, (small * large) ** 0.5, "top", ["medium"]),
    ]
    layers = []
    for case, place, edge, label in rows:
        row = {"x": place, "y": y[-1] if edge == "top" else y[0], "label": label}
        style = {"fontSize": 12, "color": SOFT, "lineHeight": 15, "baseline": "top"}
        mark = alt.Chart(inline([row])).mark_text(
            **style,
            dy=6 if edge == "top" else -3 - 15 * len(label),
            fontWeight=700 if case in prior else 400,
        )
        layers.append(mark.encode(x="x:Q", y="y:Q", text="label:N"))
    return alt.layer(*layers)


def _quadrant_point(
    x: tuple[float, ...],
    top: float,
    n: int,
    measured: tuple[float | None, float | None, float | None],
) -> list[Any]:
    """The data set itself with its interval; only a vertical line when the shift is unknown."""
    from math import log

    import altair as alt

    shift, low, high = measured
    along = log(n / x[0]) / log(x[-1] / x[0])  # 0 at the left edge, 1 at the right one
    at = 0.5 * top if shift is None else shift
    said = ["your images"] if shift is not None else ["your images,", "shift unknown"]
    row = {"x": n, "y": shift, "low": low, "high": high, "at": at, "said": said}
    base = alt.Chart(inline([row])).encode(x="x:Q")
    whisker = {"color": ORANGE, "strokeWidth": 2.5}
    layers = []
    if shift is None:
        layers.append(base.mark_rule(**whisker).encode())
    elif low is not None and high is not None:
        layers.append(base.mark_rule(**whisker).encode(y="low:Q", y2="high:Q"))
        layers += [
            base.mark_tick(orient="horizontal", size=18, thickness=2.5, color=ORANGE).encode(y=end)
            for end in ("low:Q", "high:Q")
        ]
    if shift is not None:
        point = base.mark_point(filled=True, size=60, color=ORANGE, opacity=1)
        layers.append(point.encode(y="y:Q"))
    # Beside the point, on the side with more room; the whisker's ends reach 9 px to each side.
    side = {"align": "left", "dx": 15} if along < 0.55 else {"align": "right", "dx": -15}
    text = {**side, "baseline": "middle", "fontSize": 13, "lineHeight": 16, "fontWeight": "bold"}
    halo = base.mark_text(**text, stroke="white", strokeWidth=4)
    label = base.mark_text(**text, color=ORANGE)
    return [*layers, *(mark.encode(y="at:Q", text="said:N") for mark in (halo, label))]


# -- the depth curve -------------------------------------------------------------------------------


def depth_curve(plan: Record) -> Chart | None:
    """How well a new last layer does on the features of each stage, shallow to deep.

    The control, where it is stored, is the same network with random weights: what its build alone
    knows, without anything learned from the source.
    """
    curve = [row for row in plan.get("depth_curve") or [] if row.get("score") is not None]
    if not curve:
        return None
    import altair as alt

    rows = list(curve)
    joined = plan.get("all_stages") or {}
    if joined.get("score") is not None:
        rows.append({**joined, "stage": "all stages"})
    labels = [named(row.get("stage")) for row in rows]
    held = [_whisker({**row, "kind": HELD}, place) for place, row in enumerate(rows)]
    seen = [
        {"place": place, "value": row["train_score"], "kind": SEEN}
        for place, row in enumerate(curve)
        if row.get("train_score") is not None
    ]
    control = _control(plan, curve)
    metric = str(plan.get("metric") or "accuracy")
    x = alt.X(
        "place:O", title="stage, shallow to deep", **places(labels, labelAngle=-40, grid=False)
    )
    y = alt.Y("value:Q", title=titled(metric), scale=alt.Scale(zero=False), axis=axis(metric))
    kinds = [HELD, SEEN, RANDOM] if control else [HELD, SEEN]
    colour = colours("kind", kinds, [BLUE, ORANGE, GREY])
    line, point = {"strokeWidth": 2}, {"filled": True, "opacity": 1}

    def drawn(values: list[Record]) -> Any:
        return alt.Chart(inline(values)).encode(x=x, color=colour)

    layers = [
        drawn(seen).mark_line(strokeDash=[5, 4], **line).encode(y=y),
        drawn(held[: len(curve)]).mark_line(**line).encode(y=y),
        drawn(held).mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q"),
        drawn(held).mark_point(**point, size=60).encode(y=y),
    ]
    if control:
        layers = [
            alt.Chart(inline(control))
            .mark_area(color=GREY, opacity=0.25)
            .encode(x=x, y="low:Q", y2="high:Q"),
            drawn(control).mark_line(strokeWidth=1.5).encode(y=y),
            drawn(control).mark_point(**point, size=30).encode(y=y),
            *layers,
        ]
    best = max(held, key=lambda row: float(row["value"]))
    said = (
        f"; with random weights at most {abs(max(r['value'] for r in control)):.3f}"
        if control
        else ""
    )
    return Chart(
        "depth_curve",
        finish(alt.layer(*layers, *_level(plan.get("chance"), "guessing")), 290, labels),
        f"{metric.replace('_', ' ')} by stage over {len(curve)} stages; "
        f"best: {labels[best['place']]} with {abs(best['value']):.3f}{said}.",
    )


def _control(plan: Record, curve: list[Record]) -> list[Record]:
    """The control's scores at the places of the stages of the same name."""
    place = {row.get("stage"): k for k, row in enumerate(curve)}
    return [
        _whisker({**row, "kind": RANDOM}, place[row["stage"]])
        for row in plan.get("depth_control") or []
        if row.get("score") is not None and row.get("stage") in place
    ]


def _whisker(row: Record, place: int) -> Record:
    """One score with the ends of its whisker, one standard error to each side."""
    error, score = row.get("se") or 0.0, row["score"]
    ends = {"low": score - error, "high": score + error}
    return {"place": place, "kind": row.get("kind"), "value": score, **ends}


def _level(value: float | None, label: str) -> list[Any]:
    """A horizontal line to compare with."""
    if value is None:
        return []
    import altair as alt

    base = alt.Chart(inline([{"value": value, "label": label}])).encode(y="value:Q")
    return [
        base.mark_rule(color=GREY, strokeDash=[2, 3]),
        base.mark_text(align="left", dx=4, dy=-7, color="#5b6670").encode(
            x=alt.value(0), text="label:N"
        ),
    ]


# -- the candidates --------------------------------------------------------------------------------


def candidates(plan: Record) -> Chart | None:
    """Every candidate's score with one standard error to each side, the best baseline as a line."""
    rows = [row for row in plan.get("candidates") or [] if row.get("score") is not None]
    if not rows:
        return None
    import altair as alt

    chosen = plan.get("chosen")
    rows.sort(key=lambda row: (row.get("name") != chosen, -row["score"]))
    rows = sorted(rows[:MOST_CANDIDATES], key=lambda row: -row["score"])
    labels = ["\n".join(_lines(named(row.get("name")))) for row in rows]
    values = [
        _whisker({**row, "kind": kind_of(row, chosen)}, place) for place, row in enumerate(rows)
    ]
    lines = max(label.count("\n") + 1 for label in labels)
    present = {value["kind"] for value in values}
    shades = {CHOSEN: ORANGE, TRIED: BLUE, PROBED: GREY}
    kinds = [kind for kind in shades if kind in present]
    metric = str(plan.get("metric") or "accuracy")
    title = f"{titled(metric)} on images held out"
    base = alt.Chart(inline(values)).encode(
        y=alt.Y("place:N", title=None, **places(labels, labelLimit=140, parted="\\n")),
        color=colours("kind", kinds, [shades[kind] for kind in kinds], columns=1),
    )
    scale = alt.Scale(zero=False)
    whiskers = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=title, scale=scale, axis=axis(metric)), x2="high:Q"
    )
    points = base.mark_point(filled=True, size=80, opacity=1).encode(x="value:Q")
    layers = alt.layer(*_baseline_line(plan), whiskers, points)
    return Chart(
        "candidates",
        finish(layers, (10 + 14 * lines) * len(labels), labels),
        f"{title}, for {len(rows)} candidates; the table below holds the same numbers.",
    )


def _lines(name: str) -> list[str]:
    """A long name in lines, broken where a part of it begins: `all_stages+spread` `@288px`."""
    lines = [""]
    for part in re.split(r"(?<=, )|(?=[+@])", name):
        if lines[-1] and len(lines[-1]) + len(part) > LINE:
            lines.append("")
        lines[-1] += part
    return lines


def kind_of(row: Record, chosen: object) -> str:
    """Whether a candidate was chosen, tried with its real head, or only probed."""
    if row.get("name") == chosen and chosen is not None:
        return CHOSEN
    return PROBED if str(row.get("method")).startswith("ridge") else TRIED


def _baseline_line(plan: Record) -> list[Any]:
    """What does without a network, to compare with."""
    rows = [row for row in plan.get("baselines") or [] if row.get("score") is not None]
    if not rows:
        return []
    import altair as alt

    best = max(rows, key=lambda row: float(row["score"]))
    line = alt.Chart(inline([{"value": best["score"]}]))
    return [line.mark_rule(color=GREY, strokeDash=[5, 4], strokeWidth=1.5).encode(x="value:Q")]
