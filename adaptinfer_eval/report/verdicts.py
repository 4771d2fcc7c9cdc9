"""What reproduces: every number that a table's lineage prints, beside what was measured, and one word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.averages import RATIO
from adaptinfer_eval.report.bootstrap import Floats, interval, mean_units, resampled_scores
from adaptinfer_eval.report.headings import Record, digits
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.published import Published, published
from adaptinfer_eval.report.ratios import Ratio
from adaptinfer_eval.report.rows import Line
from adaptinfer_eval.report.table import Table, make_table
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.units import Units

AGREES, DIFFERS, NOT_MEASURED = "agrees", "differs", "not measured"
Interval = tuple[float, float]


@dataclass(frozen=True)
class Verdict:
    """A published number. `measured` and `interval`, 95 % over questions, are None where it was not measured."""

    title: str
    tokens: float
    column: str
    published: float
    measured: float | None = None
    interval: Interval | None = None
    rounding: float = 0.0
    """How far the printed number may be from the exact one."""

    @property
    def word(self) -> str:
        if self.measured is None:
            return NOT_MEASURED
        low, high = self.interval or (self.measured, self.measured)
        return AGREES if low - self.rounding <= self.published <= high + self.rounding else DIFFERS


def verdicts_of(
    records: Sequence[Record], units: Mapping[str, Units], layout: Layout, lineage: str = ""
) -> tuple[list[Verdict], list[str]]:
    """One of every number that the lineage prints in the table's columns, and notes.

    SweepError where it prints none. What was asked of the first questions only counts as not measured.
    """
    lineage = lineage or layout.lineage
    known = published(layout, lineage)
    if known is None:
        raise SweepError(f"{lineage} prints no numbers for this table: choose another with --lineage")
    table = make_table(records, units, replace(layout, rows=tuple(known.rows), budgets=()), lineage)
    why = known.mismatch(records)
    if why:  # nothing of this sweep is a measurement of them
        table = make_table([], {}, replace(layout, rows=tuple(known.rows), budgets=()), lineage)
    found = [
        verdict
        for line, ratio in zip(table.lines, table.ratios, strict=True)
        if (tokens := known.tokens(line)) is not None
        for verdict in _of_line(table, known, line, ratio, tokens)
    ]
    words = Counter(verdict.word for verdict in found)
    counted = ", ".join(f"{word} {words[word]}" for word in (AGREES, DIFFERS, NOT_MEASURED))
    notes = [
        f"{len(found)} numbers of {lineage}, {known.source}; {known.model}: {counted}.",
        "agrees: the published number, but for rounding, is inside the measured score's 95 % interval over questions; "
        "not measured: there is no sweep of the whole task with this checkpoint, method, budget and these settings.",
    ]
    return found, [*notes, *([f"Nothing of this sweep is compared: {why}."] if why else [])]


def verdict_rows(found: Sequence[Verdict]) -> list[dict[str, str]]:
    rows = []
    for one in found:
        places = digits(one.column)
        between = "–" if one.interval is None else "–".join(f"{end:.{places}f}" for end in one.interval)
        rows.append(
            {
                "Method": one.title,
                "Avg. tokens": budget_text(one.tokens),
                "Column": "Acc. ratio (%)" if one.column == RATIO else one.column,
                "Published": f"{one.published:.{places}f}",
                "Measured": "–" if one.measured is None else f"{one.measured:.{places}f}",
                "95 % interval": between,
                "Difference": "–" if one.measured is None else f"{one.measured - one.published:+.{places}f}",
                "Verdict": one.word,
            }
        )
    return rows


def _of_line(table: Table, known: Published, line: Line, ratio: Ratio | None, tokens: float) -> list[Verdict]:
    """Of the numbers of a row that stand in one of the table's columns."""
    measured = {} if any(cell.limited for cell in line.cells.values()) else _measured(table, known, line, ratio)
    columns = {*line.cells, RATIO, *([table.average.column] if table.average else [])}
    found = []
    for column, number in known.row(line).items():
        if column in columns and not (column == RATIO and line.method == "vanilla"):  # which is 100 by definition
            score, between = measured.get(column, (None, None))
            rounding = 0.5 * 10.0 ** -known.digits()[column]
            found.append(Verdict(line.place.title, tokens, column, number, score, between, rounding))
    return found


def _measured(
    table: Table, known: Published, line: Line, ratio: Ratio | None
) -> dict[str, tuple[float, Interval | None]]:
    """By column: what was measured, with its interval."""
    found: dict[str, tuple[float, Interval | None]] = {}
    drawn: dict[str, Floats] = {}
    for title, cell in line.cells.items():
        if cell.score is not None:
            scored = mean_units([table.units[record["id"]] for record in cell.measured])
            whole = scored.combine == "whole"
            drawn[title] = np.array([np.nan]) if whole else resampled_scores([scored], title)[:, 0]
            found[title] = cell.score, interval(drawn[title])
    average = table.average
    if average and (value := table.average_of(line)) is not None:
        parts = [drawn[title] / average.divide.get(title, 1.0) for title in average.of]
        found[average.column] = value, interval(np.mean(parts, axis=0))
    if ratio and known.average and set(known.average.of) == set(line.cells):  # else it is a ratio of other columns
        found[RATIO] = ratio.value, ratio.interval
    return found
