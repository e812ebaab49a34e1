"""Efficacy against locality, one labelled point per run, as an SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ultraedit.comparison.formatting import seconds, size
from ultraedit.comparison.labels import nearest, place
from ultraedit.comparison.result import Cost
from ultraedit.comparison.state import Comparison
from ultraedit.comparison.table import UNEDITED
from ultraedit.evaluation.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's, which people tell apart who do not see all colours, and two more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#5E4FA2")
GREY = "#555555"
WIDTH, HEIGHT = 8.0, 6.0  # inches
MARK = 9.0  # points across
# SVG has 72 points to the inch, and so have the labels' measures then.
DPI = 72
# Letters as outlines, which look the same everywhere, and are as wide as they are measured to be.
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
        label: Beside it, one or two lines.
        colour: Of the mark.
        hollow: All edits were one turn.
    """

    x: float
    y: float
    label: str
    colour: str
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
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
        draw(figure, [*points, Point(*unedited, UNEDITED, GREY)], comparison)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def points_of(comparison: Comparison) -> list[Point]:
    """A point per run that is done; runs of one method share a colour."""
    methods = list(dict.fromkeys(run.method for run in comparison.plan.runs))
    points = []
    for run in comparison.plan.runs:
        result = comparison.results.get(run.name)
        position = _position(None if result is None else result.report)
        if result is not None and position is not None:
            colour = COLOURS[methods.index(run.method) % len(COLOURS)]
            title = f"{run.method}, all at once" if run.at_once else run.method
            label = f"{title}\n{_cost(result.cost)}"
            points.append(Point(*position, label, colour, run.at_once))
    return points


def draw(figure: Figure, points: Sequence[Point], comparison: Comparison) -> None:
    """Everything; the last point is the unedited model's."""
    axes = figure.add_subplot()
    plan = comparison.plan
    axes.set_title(
        f"{plan.model}: {plan.edits:,} edits in turns of {plan.turn_size:,}",
        loc="left", pad=18, parse_math=False,
    )  # fmt: skip
    axes.annotate(
        "beside each mark: time per edit, peak memory beyond the loaded model", (0, 1),
        xycoords="axes fraction", xytext=(0, 5), textcoords="offset points", fontsize=9, color=GREY,
    )  # fmt: skip
    for point in points[:-1]:
        face = "white" if point.hollow else point.colour
        _mark(axes, point, marker="o", markerfacecolor=face, markeredgewidth=1.6)
    _mark(axes, points[-1], marker="X", markerfacecolor=GREY)
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
    if any(point.hollow for point in points):
        _legend(figure)
    _label(figure, axes, points)


def limits(values: Sequence[float]) -> tuple[float, float]:
    """What an axis shows: all of [0, 1], or a part where the values lie close together."""
    low, high = min(values), max(values)
    if high - low > 0.6:
        low, high = 0.0, 1.0
    else:
        pad = max(0.25 * (high - low), (LEAST_SPAN - (high - low)) / 2)
        low, high = max(low - pad, 0.0), min(high + pad, 1.0)
    # Marks on the edge are to be seen whole, and the best ones to have room for their labels.
    return low - 0.03 * (high - low), high + 0.1 * (high - low)


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


def _mark(axes: Axes, point: Point, **style: Any) -> None:
    axes.plot(
        [point.x], [point.y], linestyle="none", markersize=MARK, markeredgecolor=point.colour,
        zorder=3, **style,
    )  # fmt: skip


def _legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {
        "linestyle": "none", "marker": "o", "markersize": MARK, "markeredgecolor": GREY,
        "markeredgewidth": 1.6,
    }  # fmt: skip
    handles = [
        Line2D([], [], markerfacecolor=GREY, label="turn by turn", **style),
        Line2D([], [], markerfacecolor="white", label="all edits in one turn", **style),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)


def _label(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Labels where they cover nothing, with a line to those that are not next to their mark."""
    # Only a figure that is laid out has places; they hold while the layout is not made again.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    texts = [
        axes.annotate(
            point.label, (point.x, point.y), xytext=(0, 0), textcoords="offset points", fontsize=9,
            color="#222222", ha="left", va="bottom", linespacing=1.15, parse_math=False, zorder=4,
        )
        for point in points
    ]  # fmt: skip
    sizes = []
    for text in texts:
        extent = text.get_window_extent()
        sizes.append((extent.width, extent.height))
    marks = [tuple(axes.transData.transform((point.x, point.y))) for point in points]
    inside = axes.get_window_extent()
    boxes = place(marks, sizes, (inside.x0, inside.y0, inside.x1, inside.y1), MARK / 2)
    for text, point, (x, y), box in zip(texts, points, marks, boxes, strict=True):
        text.set_position((box[0] - x, box[1] - y))
        near_x, near_y = nearest((x, y), box)
        if math.dist((x, y), (near_x, near_y)) > 1.4 * MARK:
            axes.annotate(
                "", (point.x, point.y), xytext=(near_x - x, near_y - y),
                textcoords="offset points", zorder=2,
                arrowprops={
                    "arrowstyle": "-", "color": point.colour, "linewidth": 0.8, "shrinkA": 0,
                    "shrinkB": 0,
                },
            )  # fmt: skip
