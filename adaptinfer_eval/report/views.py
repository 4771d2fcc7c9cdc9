"""Other views of a table's lines: rows and notes, before they are written down in any form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adaptinfer_eval.bench.records import read_bench
from adaptinfer_eval.report.categories import Category, categories_of, category_rows, difference_text, most_different
from adaptinfer_eval.report.headings import heading, in_order
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.pareto import Picture, pareto
from adaptinfer_eval.report.split import split_notes, split_rows, splits_of
from adaptinfer_eval.report.table import Table, make_table
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.records import read_records

Rows = list[dict[str, str]]


def category_view(table: Table) -> tuple[Rows, list[str]]:
    """Scores by category, those where methods differ most first. SweepError where no column has categories."""
    found = [one for title in table.layout.headings for one in categories_of(table.lines, title, table.units)]
    if not found:
        raise SweepError("no column of the table has categories and a measured line with a budget")
    first = most_different(found)
    return category_rows([*first, *(one for one in found if one not in first)]), category_notes(first)


def category_notes(first: Sequence[Category]) -> list[str]:
    """`first`: those where methods differ most."""
    return [
        "In brackets: 95 % interval over the category's questions (bootstrap, the same draws for all lines); where all "
        "are equally right it has no width, which says little of few questions. Questions: of MME, images with two "
        "each; of MMBench, with all circular copies.",
        *(f"Most different, {place}: {difference_text(one)}." for place, one in enumerate(first, 1)),
    ]


def question_view(table: Table, folder: Path) -> tuple[Rows, list[str]]:
    """The questions that need the tokens and those that vanilla gets right. SweepError where vanilla is missing."""
    splits = splits_of(table.lines, folder, table.layout.headings)
    if not splits:
        raise SweepError(
            f"{folder} has no method and vanilla that were asked the same questions: finish the sweep first"
        )
    return split_rows(splits), split_notes(splits)


def pareto_view(folder: Path, bench: Path | None = None) -> tuple[list[Picture], list[str]]:
    """Accuracy over cost, of all tasks of the sweep in `folder`; `bench`: else the benchmark in that folder, if any.

    SweepError where no method has an accuracy ratio.
    """
    records = read_records(folder)
    columns = Layout(in_order(heading(record["task"]) for record in records))
    table = make_table(records, read_units(folder, records), columns)
    timed = read_bench(bench or folder) if bench or (folder / "bench").is_dir() else []
    pictures, notes = pareto(table.lines, table.ratios, timed)
    limited = any(cell.limited for line in table.lines for cell in line.cells.values())
    return pictures, [*(["Only the first questions of the tasks."] if limited else []), *notes]
