"""Accuracy over cost as geometry for an inline SVG, as the trends are. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adaptinfer_eval.methods.schedule import budgets_text
from adaptinfer_eval.report.page.plot import EDGE, MARKS, Line, Mark, Plot, Tick, legend
from adaptinfer_eval.report.pareto import Picture, Spot

WIDTH, HEIGHT = 760.0, 400.0
STEPS = (1, 2, 5, 10, 20, 50)


def cost_plots(pictures: Sequence[Picture]) -> tuple[list[Plot], list[Line]]:
    """A plot for each picture, and their legend."""
    names = list(dict.fromkeys(name for picture in pictures for name in picture.series))
    plots = [_plot(picture, names) for picture in pictures]
    return plots, legend(plots)


def _plot(picture: Picture, names: Sequence[str]) -> Plot:
    left, right, top, bottom = 44.0, WIDTH - 14, 14.0, HEIGHT - 50
    costs = [spot.cost for spot in picture.spots]
    values = [100.0, *(end for spot in picture.spots for end in (spot.ratio.interval or (spot.ratio.value,)))]
    low, high = min(costs), max(costs)
    floor, ceiling = min(values) - 2, max(values) + 2

    def across(cost: float) -> float:
        share = (cost - low) / (high - low) if high > low else 0.5
        return round(left + EDGE + share * (right - left - 2 * EDGE), 1)

    def up(value: float) -> float:
        return round(bottom - (value - floor) / (ceiling - floor) * (bottom - top), 1)

    def line(name: str, spots: Sequence[Spot]) -> Line:
        style = names.index(name)
        marks = [
            Mark(
                across(spot.cost),
                up(spot.ratio.value),
                [up(end) for end in spot.ratio.interval or ()],
                f"{name}, {budgets_text([spot.tokens], 'tokens')}: {spot.ratio.value:.1f} % for {spot.cost:.1f} %"
                + (", on the Pareto front" if spot in picture.front else ""),
            )
            for spot in spots
        ]
        return Line(name, style, MARKS[style % len(MARKS)], "", marks, marks[-1].y)

    corners = [(across(spot.cost), up(spot.ratio.value)) for spot in picture.front]
    path = f"M{corners[0][0]} {corners[0][1]}" + "".join(f"H{x}V{y}" for x, y in corners[1:])
    return Plot(
        title=picture.title,
        width=WIDTH,
        height=HEIGHT,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=[Tick(across(tick), f"{tick:g}") for tick in _ticks(low, high)],
        y_ticks=[Tick(up(tick), f"{tick:g}") for tick in _ticks(floor, ceiling)],
        lines=[line(name, spots) for name, spots in picture.series.items()],
        wide=True,
        hundred=up(100),
        x_title=picture.axis,
        front=path,
    )


def _ticks(low: float, high: float) -> list[int]:
    """Round numbers between two others, at most eight."""
    step = next((step for step in STEPS if (high - low) / step <= 8), 100)
    return list(range(step * math.ceil(low / step), math.floor(high) + 1, step))
