"""The papers' tables from a sweep's records.

The accuracy ratio is the paper's: the mean over tasks of score / vanilla's score, with vanilla from the same
sweep. A cell that is missing or failed is shown as such and leaves its line without a ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from adaptinfer_eval.report import DEFAULT_LINEAGE
from adaptinfer_eval.report.layouts import Layout, Record
from adaptinfer_eval.report.notes import notes_of
from adaptinfer_eval.report.published import Published, published
from adaptinfer_eval.report.ratios import Ratio, ratios_of
from adaptinfer_eval.report.rows import Line, lines_of
from adaptinfer_eval.report.units import flops_unit
from adaptinfer_eval.sweep.units import Units


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


def make_table(
    records: Sequence[Record], units: Mapping[str, Units], layout: Layout, lineage: str = DEFAULT_LINEAGE
) -> Table:
    """One line per setting; `units`: scores by unit of every measured record's id.

    SweepError where two tasks of the sweep have the same heading, and for an unknown lineage.
    """
    lines = lines_of(records, layout)
    ratios = ratios_of(lines, layout.headings, units)
    known = published(layout, lineage)
    mismatch = known.mismatch(records) if known else ""
    return Table(
        layout,
        lines,
        ratios,
        None if mismatch else known,
        flops_unit(max((record["audit"]["flops"] for record in records if record["status"] == "done"), default=0) / 2),
        notes_of(lines, ratios, layout, known, lineage, mismatch),
    )
