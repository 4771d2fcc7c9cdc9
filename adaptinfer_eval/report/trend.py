"""Accuracy ratio over budgets, one series per method: the paper's Figure 5, from records to numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.headings import Record, heading, in_order
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.ratios import Ratio, ratios_of
from adaptinfer_eval.report.rows import Line, lines_of, vanilla_of
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.units import Units

PAPER_TASKS = ("MME", "TextVQA")
"""The two panels of the paper's figure."""


@dataclass(frozen=True)
class Point:
    tokens: float
    """Vision tokens per layer: the budget."""
    ratio: Ratio


@dataclass(frozen=True)
class Panel:
    """`series`: points by increasing tokens, by the method's title, in the tables' order."""

    title: str
    series: dict[str, list[Point]]


@dataclass(frozen=True)
class Trends:
    panels: list[Panel]
    vanilla_tokens: float
    notes: list[str]
    """What a reader must know: that only the first questions were asked, and which settings have no point."""


def trends(records: Sequence[Record], units: Mapping[str, Units], tasks: Sequence[str] = PAPER_TASKS) -> Trends:
    """One panel for the mean over the sweep's tasks, and one for each of `tasks` (headings) that is among several.

    A setting without a ratio (a cell that is missing, failed or cannot run) has no point. SweepError where no method
    has one.
    """
    found = {heading(record["task"]) for record in records}
    headings = in_order(found)
    layout = Layout(headings)
    lines = lines_of(records, layout)
    mean = ratios_of(lines, headings, units)
    vanilla = vanilla_of(lines)
    if vanilla is None or not any(ratio for line, ratio in zip(lines, mean, strict=True) if line is not vanilla):
        raise SweepError("no method was measured on the same questions as vanilla: finish the sweep first")
    panels = [_panel(lines, mean, f"Mean of {', '.join(headings)}" if len(headings) > 1 else headings[0], layout)]
    for title in tasks:
        if title in headings and len(headings) > 1:
            panels.append(_panel(lines, ratios_of(lines, [title], units), title, layout))
    absent = [line for line, ratio in zip(lines, mean, strict=True) if ratio is None]
    return Trends(panels, vanilla.tokens, [*_limits(lines), *_absent(absent)])


def _panel(lines: Sequence[Line], ratios: Sequence[Ratio | None], title: str, layout: Layout) -> Panel:
    series: dict[str, list[Point]] = {}
    for line, ratio in zip(lines, ratios, strict=True):
        if ratio is None or line.method == "vanilla":
            continue
        name = _series_title(line, layout)
        if any(point.tokens == line.tokens for point in series.get(name, [])):
            name = line.place.title
        series.setdefault(name, []).append(Point(line.tokens, ratio))
    return Panel(title, {name: sorted(points, key=lambda point: point.tokens) for name, points in series.items()})


def _series_title(line: Line, layout: Layout) -> str:
    """The line's title without its schedule: a budget that is met by an explicit one is a point like the others."""
    record = next(record for cell in line.cells.values() for record in cell.records.values())
    options = {key: value for key, value in record["options"].items() if key != "schedule"}
    return layout.place({**record, "options": options}).title


def _limits(lines: Sequence[Line]) -> list[str]:
    limited = [record for line in lines for cell in line.cells.values() if cell.limited for record in cell.measured]
    asked = sorted({record["questions"] for record in limited})
    return [f"Only the first {' or '.join(map(str, asked))} questions of a task."] if asked else []


def _absent(lines: Sequence[Line]) -> list[str]:
    names = [
        line.place.title + (f" at {budget_text(line.place.budget)}" if line.place.budget else "") for line in lines
    ]
    return [f"Not measured: {', '.join(names)}."] if names else []
