"""What the report's charts share: colours, labels, axes and the finish of a specification.

Axes count places (0, 1, 2, ...) and look each label up in a list. Vega keeps ticks and groups under
their value in plain objects, so that a class called `__proto__` as a value would break the chart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]

MOST_CLASSES = 40  # above this, one row per class is no longer readable in a chart
BLUE, ORANGE, GREY, PALE, INK = "#0b6aa2", "#c8500a", "#8a949e", "#eef1f4", "#1d2a35"
LEGEND_PX = 260  # of a legend's longest entry: what a telephone has room for
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
LARGEST = 1e15  # no figure of ours comes near; above it nothing is counted or drawn
AS_SHARE = ("accuracy", "balanced_accuracy", "top5_accuracy", "sens", "spec")


@dataclass(frozen=True)
class Chart:
    """One drawing: a Vega-Lite specification, its words for those who cannot see it, its limits."""

    name: str
    spec: Record
    alt: str
    min_px: int = 0
    max_px: int = 0


def record(value: Any) -> Record:
    """A stored object, or an empty one where something else was stored."""
    return value if isinstance(value, dict) else {}


def records(value: Any) -> list[Record]:
    """The objects in a stored list; whatever else stands there is left out."""
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []


def number(value: Any) -> float | None:
    """A stored number, or None where something else was stored, or none that a chart can hold."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return value if plain and abs(value) < LARGEST else None


def is_share(metric: object) -> bool:
    """Whether a metric is a share of images, and so reads best in per cent."""
    return str(metric).startswith(AS_SHARE)


def titled(metric: str) -> str:
    """A metric's name as an axis says it."""
    said = metric.replace("_", " ")
    return f"{said} (less is better)" if metric == "log_loss" else said


def named(name: object) -> str:
    """A name as a label; an empty one would look like a fault of the page."""
    return str(name) if name is not None and str(name).strip() else "(no name)"


def axis(metric: str) -> Any:
    """An axis in per cent for shares, in plain numbers otherwise.

    A log loss is stored negated, so that more is better; nobody wants to read the sign.
    """
    import altair as alt

    if metric == "log_loss":
        return alt.Axis(labelExpr="format(abs(datum.value), '.2~f')", tickCount=5)
    return alt.Axis(format="~%", tickCount=5) if is_share(metric) else alt.Axis(tickCount=5)


def places(labels: list[str], parted: str | None = None, **axis: Any) -> Record:
    """Scale and axis of a row of places whose labels stand in the chart's parameter `labels`.

    Args:
        parted: where a label is broken into lines; nowhere when None.
    """
    import altair as alt

    label = "labels[datum.value]"
    if parted is not None:
        label = f"split({label}, '{parted}')"
    return {
        "sort": None,
        "scale": alt.Scale(domain=list(range(len(labels)))),
        "axis": alt.Axis(labelExpr=label, labelOverlap=False, **axis),
    }


def colours(
    field: str, kinds: list[str], range_: Sequence[str] = (BLUE, ORANGE), columns: int = 2
) -> Any:
    """Kinds of marks in colours that stay apart for colour-blind eyes, with a legend on top.

    Args:
        columns: of the legend; three are too wide for a telephone.
    """
    import altair as alt

    scale = alt.Scale(domain=kinds, range=list(range_)[: len(kinds)])
    legend = alt.Legend(orient="top", columns=columns, labelLimit=LEGEND_PX)
    return alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)


def inline(values: Sequence[Record]) -> Any:
    """Rows of values for a chart; as a tuple, which altair does not copy again with every layer."""
    import altair as alt

    return alt.Data(values=tuple(values))


def legend_columns(labels: Sequence[str]) -> int:
    """Columns of a legend at the foot of a chart, so that a telephone has room for them."""
    longest = min(max(map(len, labels), default=1), 18)
    return max(1, min(10, LEGEND_PX // (26 + 7 * longest)))


def finish(
    chart: Any,
    height: int,
    labels: Sequence[str] = (),
    rows: dict[str, list[Record]] | None = None,
) -> Record:
    """Full width of its place on the page, one font, quiet axes; as plain JSON values.

    Args:
        rows: values of the chart's named data: altair would copy each row a dozen times.
    """
    import altair as alt

    text = {"labelFont": FONT, "titleFont": FONT, "labelFontSize": 12, "titleFontSize": 12}
    axis = {"domainColor": "#b9c1c8", "tickColor": "#b9c1c8", "gridColor": "#e8ecef"}
    styled = (
        chart.properties(
            width="container",
            height=height,
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
        )
        .configure(font=FONT, background="transparent", padding=4)
        .configure_view(stroke=None)
        .configure_axis(
            **text,
            **axis,
            labelColor=INK,
            titleColor="#4a5763",
            titleFontWeight="normal",
            labelLimit=130,
        )
        .configure_legend(**text, labelColor=INK, titleColor="#4a5763", titleFontWeight="normal")
    )
    if labels:
        styled = styled.add_params(alt.param(name="labels", value=list(labels)))
    # Every part was validated when it was made; once more for the whole takes most of the time.
    spec: Record = styled.to_dict(validate=False)
    return spec | ({"datasets": rows} if rows else {})
