"""Trend over budgets as geometry for an inline SVG: which line goes where. Pure functions; colours are the CSS's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from adaptinfer_eval.methods.schedule import budget_text, budgets_text
from adaptinfer_eval.report.headings import Record
from adaptinfer_eval.report.trend import Panel, Point, trends
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.units import Units

MARKS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",  # disc
    "M-3.6-3.6h7.2v7.2h-7.2z",  # square
    "M0-4.8 4.6 3.4h-9.2z",  # triangle
    "M0-5 5 0 0 5-5 0z",  # diamond
    "M0 4.8 4.6-3.4h-9.2z",  # triangle, point down
    "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",  # plus
    "M-4.5-4.5h9l-9 9h9z",  # hourglass
    "M0-5 4.8-1.5 2.9 4h-5.8l-4.8-5.5z",  # pentagon
    "M-4.8 0 3.4-4.6v9.2z",  # triangle, point to the left
    "M-4.5-1.2h9v2.4h-9z",  # bar
)
"""Shapes around the origin: lines stay apart without colour."""


DODGE = 2.5
"""Pixels between the marks of neighbouring methods at one budget, so that intervals do not hide each other."""
EDGE = 22
"""Pixels between an end of the axis and the first budget."""


class Mark(NamedTuple):
    x: float
    y: float
    interval: Sequence[float]
    text: str


class Line(NamedTuple):
    """A method's line. `style`: its number in the whole page, for colour and mark."""

    title: str
    style: int
    shape: str
    path: str
    marks: Sequence[Mark]
    label_y: float


class Tick(NamedTuple):
    at: float
    text: str


@dataclass(frozen=True)
class Plot:
    """Everything that the template draws, in pixels of a `width` × `height` view box."""

    title: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    lines: Sequence[Line]
    wide: bool
    hundred: float
    x_title: str = "vision tokens per layer"
    front: str = ""
    """The Pareto front, of a plot over cost: its marks are not joined, and their names are in a legend."""


def trend_plots(records: Sequence[Record], units: Mapping[str, Units], headings: Sequence[str]) -> list[Plot]:
    """The mean over tasks, then every task where there are several; empty where no method has a ratio."""
    try:
        panels = trends(records, units, headings).panels
    except SweepError:  # nothing to compare yet
        return []
    panels = [panel for panel in panels if panel.series]
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    return [
        plot(panels[0], names, 760, 430, wide=True),
        *(plot(panel, names, 360, 236, wide=False) for panel in panels[1:]),
    ]


def legend(plots: Sequence[Plot]) -> list[Line]:
    """Every method once, in the order of the styles."""
    lines = {line.style: line for view in plots for line in view.lines}
    return [lines[style] for style in sorted(lines)]


def plot(panel: Panel, names: Sequence[str], width: float, height: float, *, wide: bool) -> Plot:
    """The plot of a panel with at least one point; `names`: all methods of the page, in the order of their styles.

    `wide`: with 95 % intervals, and the methods' names at the ends of their lines.
    """
    left, right, top, bottom = 44.0, width - (124 if wide else 14), 14.0, height - (50 if wide else 30)
    points = [point for series in panel.series.values() for point in series]
    budgets = sorted({point.tokens for point in points})
    ends = [end for point in points for end in (point.ratio.interval or ()) if wide]
    values = [100.0, *ends, *(point.ratio.value for point in points)]
    extent = max(values) - min(values)
    step = next((step for step in (2, 5, 10, 20, 50, 100) if extent / step <= 6), 500)
    floor, ceiling = min(values) - 0.04 * extent - 1, max(values) + 0.04 * extent

    def across(budget: float, style: float) -> float:
        span = math.log(budgets[-1] / budgets[0])
        share = math.log(budget / budgets[0]) / span if span else 0.5
        dodge = (style - (len(names) - 1) / 2) * DODGE if wide else 0
        return round(left + EDGE + share * (right - left - 2 * EDGE) + dodge, 1)

    def up(value: float) -> float:
        return round(bottom - (value - floor) / (ceiling - floor) * (bottom - top), 1)

    def line(name: str, series: Sequence[Point]) -> Line:
        style = names.index(name)
        marks = [
            Mark(
                across(point.tokens, style),
                up(point.ratio.value),
                [up(end) for end in point.ratio.interval or () if wide],
                f"{name}, {budgets_text([point.tokens], 'tokens')}: {point.ratio.value:.1f} %",
            )
            for point in series
        ]
        path = "M" + "L".join(f"{mark.x} {mark.y}" for mark in marks)
        return Line(name, style, MARKS[style % len(MARKS)], path, marks, marks[-1].y)

    lines = [line(name, series) for name, series in panel.series.items()]
    middle = (len(names) - 1) / 2
    return Plot(
        title=panel.title,
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=[Tick(across(budget, middle), budget_text(budget)) for budget in budgets],
        y_ticks=[
            Tick(up(tick), f"{tick:g}") for tick in range(step * math.ceil(floor / step), math.floor(ceiling) + 1, step)
        ],
        lines=_labels_apart(lines, top, bottom) if wide else lines,
        wide=wide,
        hundred=up(100),
    )


def _labels_apart(lines: Sequence[Line], top: float, bottom: float, gap: float = 15) -> list[Line]:
    """The same lines with the heights of their names moved until they are `gap` apart, in the order of their ends."""
    order = sorted(range(len(lines)), key=lambda index: lines[index].label_y)
    heights = [lines[index].label_y for index in order]
    for _ in range(200):
        for upper, lower in pairwise(range(len(heights))):
            overlap = gap - (heights[lower] - heights[upper])
            if overlap > 0:
                heights[upper] -= overlap / 2
                heights[lower] += overlap / 2
        heights = [min(max(height, top), bottom) for height in heights]
    moved = dict(zip(order, heights, strict=True))
    return [line._replace(label_y=round(moved[index], 1)) for index, line in enumerate(lines)]
