"""Efficacy against locality, one mark per run, as an SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultraedit.comparison.formatting import seconds, size
from ultraedit.comparison.result import Cost
from ultraedit.comparison.state import Comparison
from ultraedit.comparison.table import UNEDITED
from ultraedit.evaluation.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's, which people tell apart who do not see all colours, and two more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5E4FA2")
GREY = "#555555"
MARKERS = "osD^vPph"
WIDTH, HEIGHT = 8.0, 5.0  # inches
MARK = 9.0  # points across
# Letters as outlines, which look the same everywhere.
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "ultraedit", "svg.fonttype": "path", "text.hinting": "none", "font.size": 10,
}  # fmt: skip
# An axis that is zoomed shows at least so much of [0, 1].
LEAST_SPAN = 0.2


@dataclass(frozen=True)
class Point:
    """A mark.

    Attributes:
        x, y: Locality and efficacy, in [0, 1].
        label: In the legend.
        colour: Of the mark.
        marker: Its shape.
        hollow: All edits were one turn.
    """

    x: float
    y: float
    label: str
    colour: str
    marker: str
    hollow: bool = False


def picture(comparison: Comparison) -> str | None:
    """The picture; None where no run has both an efficacy and a locality.

    The same comparison gives the same text.
    """
    points = points_of(comparison)
    unedited = _position(comparison.unedited)
    if not points or unedited is None:
        return None
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
        draw(figure, [*points, Point(*unedited, UNEDITED, GREY, "X")], comparison)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def points_of(comparison: Comparison) -> list[Point]:
    """A point per run that is done; runs of one method share colour and shape."""
    methods = list(dict.fromkeys(run.method for run in comparison.plan.runs))
    points = []
    for run in comparison.plan.runs:
        result = comparison.results.get(run.name)
        position = _position(None if result is None else result.report)
        if result is not None and position is not None:
            number = methods.index(run.method) % len(COLOURS)
            label = f"{run.title}\n{_cost(result.cost)}"
            style = COLOURS[number], MARKERS[number]
            points.append(Point(*position, label, *style, hollow=run.at_once))
    return points


def draw(figure: Figure, points: Sequence[Point], comparison: Comparison) -> None:
    """Everything; the last point is the unedited model's."""
    axes = figure.add_subplot()
    plan = comparison.plan
    axes.set_title(
        f"{plan.model}: {plan.edits:,} edits in turns of {plan.turn_size:,}",
        loc="left", parse_math=False,
    )  # fmt: skip
    for point in points:
        axes.plot(
            [point.x], [point.y], point.marker, color=point.colour, markersize=MARK,
            markerfacecolor="white" if point.hollow else point.colour, markeredgewidth=1.6,
            label=point.label,
        )  # fmt: skip
    for name, values in (("x", [p.x for p in points]), ("y", [p.y for p in points])):
        low, high = limits(values)
        getattr(axes, f"set_{name}lim")(low, high)
        ticks = getattr(axes, f"get_{name}ticks")()
        getattr(axes, f"set_{name}ticks")(
            [t for t in ticks if max(low, 0) <= t <= min(high, 1 + 1e-9)]
        )
    axes.set_xlabel(_axis("locality: agreement with the unedited model, by token", axes.get_xlim()))
    axes.set_ylabel(_axis("efficacy: token accuracy", axes.get_ylim()))
    axes.grid(color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(
        loc="outside right upper", frameon=False, labelspacing=0.8,
        title="time per edit, peak memory\nbeyond the loaded model", title_fontsize=9,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def limits(values: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: all of [0, 1], or a part where the values lie close together."""
    low, high = min(values), max(values)
    if high - low > 0.6:
        low, high = 0.0, 1.0
    else:
        pad = max(0.25 * (high - low), (LEAST_SPAN - (high - low)) / 2)
        low, high = max(low - pad, 0.0), min(high + pad, 1.0)
    # Marks on the edge are to be seen whole.
    return low - 0.03 * (high - low), high + 0.03 * (high - low)


def _position(report: Report | None) -> tuple[float, float] | None:
    """Locality and efficacy by token, where both are known."""
    if report is None:
        return None
    kept, learned = report.after.get("locality", {}), report.after.get("efficacy", {})
    if "agreement" not in kept or "token_accuracy" not in learned:
        return None
    return kept["agreement"], learned["token_accuracy"]


def _cost(cost: Cost) -> str:
    memory = "" if cost.memory_bytes is None else f", {size(cost.memory_bytes)}"
    return f"{seconds(cost.seconds_per_edit)}/edit{memory}"


def _axis(what: str, shown: tuple[float, float]) -> str:
    return f"{what} (the axis does not begin at 0)" if shown[0] > 0 else what
