"""The papers' tables from a sweep's records.

The accuracy ratio is the paper's: the mean over tasks of score / vanilla's score, with vanilla from the same
sweep. A cell that is missing or failed is shown as such and leaves its line without a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptinfer_eval.report.averages import RATIO, Average
from adaptinfer_eval.report.headings import Record
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.notes import notes_of
from adaptinfer_eval.report.parts import with_parts
from adaptinfer_eval.report.published import Published, published
from adaptinfer_eval.report.ratios import Ratio, ratios_of
from adaptinfer_eval.report.rows import Line, in_order, lines_of, unmeasured
from adaptinfer_eval.report.units import flops_unit
from adaptinfer_eval.sweep.units import Units

MISFIT = "†"
"""Marks a printed average that is not that of the numbers in its row."""


@dataclass(frozen=True)
class Table:
    """A table's numbers, before they are written down in any form."""

    layout: Layout
    lines: list[Line]
    ratios: list[Ratio | None]
    published: Published | None
    """Only where the sweep may be compared with it."""
    flops: tuple[str, float]
    """Unit of the FLOPs column, and its size in multiply-adds."""
    notes: list[str]
    units: Mapping[str, Units]
    """Scores by unit of every record in `lines`."""
    lineage: str = ""

    @property
    def average(self) -> Average | None:
        """A column of its own: that of the published numbers, where it is not the accuracy ratio."""
        average = self.published.average if self.published else None
        return average if average and average.column != RATIO else None

    def average_of(self, line: Line) -> float | None:
        """The line's, as the lineage defines it; None where a column of it is not measured."""
        scores = {title: cell.score for title, cell in line.cells.items() if cell.score is not None}
        return self.average.value(scores, {}) if self.average else None


def make_table(records: Sequence[Record], units: Mapping[str, Units], layout: Layout, lineage: str = "") -> Table:
    """One line per setting; `units`: scores by unit of every measured record's id. `lineage`: else the layout's.

    SweepError where two tasks of the sweep have the same heading, and for an unknown lineage.
    """
    lineage = lineage or layout.lineage
    records, units = with_parts(records, units, layout.headings)
    known = published(layout, lineage)
    mismatch = known.mismatch(records) if known else ""
    lines = lines_of(records, layout)
    if known and not mismatch:
        lines = in_order([*lines, *_unmeasured(lines, layout, known)])
    ratios = ratios_of(lines, layout.headings, units)
    return Table(
        layout,
        lines,
        ratios,
        None if mismatch else known,
        flops_unit(max((record["audit"]["flops"] for record in records if record["status"] == "done"), default=0) / 2),
        notes_of(lines, ratios, layout, known, lineage, mismatch, _wholes(lines, units)),
        units,
        lineage,
    )


def _wholes(lines: Sequence[Line], units: Mapping[str, Units]) -> list[str]:
    """Columns whose scores are no means over questions."""
    measured = [
        (title, record["id"]) for line in lines for title, cell in line.cells.items() for record in cell.measured
    ]
    return list(dict.fromkeys(title for title, name in measured if units[name].combine == "whole"))


def _unmeasured(lines: Sequence[Line], layout: Layout, known: Published) -> list[Line]:
    """The published lines that the table shows, and that none of `lines` is a measurement of."""
    measured = {(line.place.name, known.tokens(line)) for line in lines}
    wanted = [
        (name, tokens)
        for name, tokens in known.lines()
        if name in layout.rows and (name == "vanilla" or not layout.budgets or tokens in layout.budgets)
    ]
    return [
        unmeasured(layout.published_place(name, tokens), layout)
        for name, tokens in wanted
        if (name, tokens) not in measured
    ]
