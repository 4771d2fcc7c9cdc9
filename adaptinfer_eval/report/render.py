"""A table as Markdown, CSV or LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import fmean

from tabulate import tabulate

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.averages import RATIO
from adaptinfer_eval.report.headings import digits
from adaptinfer_eval.report.rows import Line, spread
from adaptinfer_eval.report.table import MISFIT, Table
from adaptinfer_eval.sweep.config import SweepError

ACC_RATIO = "Acc. ratio (%)"
Row = dict[str, str]


def render(table: Table, form: str) -> str:
    """The table as `md`, `csv` or `tex`, the notes below it (in csv and tex as comments)."""
    rows = csv_rows(table) if form == "csv" else stacked_rows(table)
    return written(rows, table.notes, form)


def written(rows: Sequence[Row], notes: Sequence[str], form: str, texts: int = 1) -> str:
    """Rows of the same columns, with notes; `texts`: columns, from the left, that hold no numbers.

    SweepError for an unknown form.
    """
    if form == "csv":
        body = io.StringIO()
        lines = csv.DictWriter(body, rows[0], lineterminator="\n")
        lines.writeheader()
        lines.writerows(rows)
        return body.getvalue() + _comments("#", notes)
    sides = [*["left"] * texts, *["right"] * (len(rows[0]) - texts)]
    if form == "md":
        return f"{_aligned(rows, sides, 'github')}\n\n" + "\n".join(notes)
    if form == "tex":
        return f"{_aligned(rows, sides, 'latex_booktabs')}\n" + _comments("%", notes)
    raise SweepError(f"unknown format {form!r}: md, csv or tex")


def _aligned(rows: Sequence[Row], sides: Sequence[str], form: str) -> str:
    return tabulate(rows, "keys", form, colalign=sides, disable_numparse=True)


def _comments(sign: str, notes: Sequence[str]) -> str:
    """Also the later lines of a note are comments: an error's text may have several."""
    return "\n".join(f"{sign} {line}" for note in notes for line in note.splitlines())


def stacked_rows(table: Table) -> list[Row]:
    """Below a measured line its published values and the differences, where there are any."""
    rows = []
    for number, line in enumerate(table.lines):
        ratio = table.ratios[number]
        between = f"{ratio.interval[0]:.1f}–{ratio.interval[1]:.1f}" if ratio and ratio.interval else "–"
        if line.method == "vanilla":
            between = ""  # it is what the others are compared with
        scores = {title: _cell(line, title) for title in table.layout.headings} | _average(table, line)
        shown = "–" if ratio is None else f"{ratio.value:.1f}" + _plus_minus(RATIO, ratio.spread)
        measured = {**scores, ACC_RATIO: shown, "95 % interval": between, "Group": ratio.group if ratio else ""}
        head = _head(table, line)
        rows.append({**head, **measured, **_audit(table, line)})
        printed, differences = _compared(table, number)
        for name, values in (("published", printed), ("difference", differences)):
            if values:
                rows.append({**dict.fromkeys(rows[-1], ""), "Method": name, **values})
    return rows


def csv_rows(table: Table) -> list[Row]:
    """A line each; what there is beside the measured score has columns of its own."""
    rows = []
    spreads = any(len(line.members) > 1 for line in table.lines)
    average = [table.average.column] if table.average else []
    titles = [*table.layout.headings, *average, ACC_RATIO]
    for number, line in enumerate(table.lines):
        ratio = table.ratios[number]
        low, high = (f"{end:.1f}" for end in ratio.interval) if ratio and ratio.interval else ("", "")
        row = {**_head(table, line), **{title: _cell(line, title, "") for title in table.layout.headings}}
        row |= _average(table, line)
        row |= {ACC_RATIO: "–" if ratio is None else f"{ratio.value:.1f}", "Ratio low": low, "Ratio high": high}
        row |= {"Group": ratio.group if ratio else "", **_audit(table, line), **_shares(line)}
        if spreads:
            deviations = {title: _plus_minus(title, _spread(line, title), "") for title in table.layout.headings}
            deviations |= dict.fromkeys(average, "")
            deviations[ACC_RATIO] = _plus_minus(RATIO, ratio.spread if ratio else None, "")
            row |= {f"{title} ±": deviations[title] for title in titles}
        if table.published:
            printed, differences = _compared(table, number)
            row |= {f"{title} published": printed.get(title, "") for title in titles}
            row |= {f"{title} difference": differences.get(title, "") for title in titles}
        rows.append(row)
    return rows


def _head(table: Table, line: Line) -> Row:
    measured = line.tokens != float("inf")
    location = {"Pruning loc.": line.place.location} if table.layout.locations else {}
    return {"Method": line.place.title, **location, "Avg. tokens": budget_text(line.tokens) if measured else "–"}


def _audit(table: Table, line: Line) -> Row:
    """Means over the line's measured tasks, each counting alike."""
    unit, size = table.flops
    forms = {"entering": ("Entering", "{:.1f}", 1.0), "leaving": ("Leaving", "{:.1f}", 1.0)}
    forms |= {"flops": (unit, "{:.3g}", 0.5 / size)}
    return {
        title: form.format(scale * fmean(values)) if (values := line.audits(key)) else "–"
        for key, (title, form, scale) in forms.items()
    }


def _shares(line: Line) -> Row:
    """In percent of the prompts' vision tokens."""
    found = {"Entering (%)": line.shares("entering"), "Leaving (%)": line.shares("leaving")}
    return {title: f"{100 * fmean(values):.1f}" if values else "–" for title, values in found.items()}


def _cell(line: Line, title: str, plus_minus: str = " ±") -> str:
    """The score, `*` where it is not of the whole task; without one, what is wrong."""
    cell = line.cells[title]
    if cell.score is None:
        return cell.status
    deviation = _plus_minus(title, _spread(line, title), plus_minus) if plus_minus else ""
    return _number(title, cell.score) + deviation + ("*" if cell.limited else "")


def _average(table: Table, line: Line) -> Row:
    """In the lineage's own column, where it has one."""
    if table.average is None:
        return {}
    value = table.average_of(line)
    return {table.average.column: "–" if value is None else _number(table.average.column, value)}


def _spread(line: Line, title: str) -> float | None:
    cell = line.cells[title]
    return spread(list(cell.scores.values())) if cell.status == "done" else None


def _plus_minus(title: str, deviation: float | None, sign: str = " ±") -> str:
    return "" if deviation is None else sign + _number(title, deviation)


def _number(title: str, value: float, sign: str = "") -> str:
    """With as many decimals as the column has; never -0."""
    return f"{round(value, digits(title)) + 0.0:{sign}.{digits(title)}f}"


def _compared(table: Table, number: int) -> tuple[Row, Row]:
    """Published values and the differences to them, by column, `*` where not the whole task was asked.

    Empty where nothing is published for the line.
    """
    line, ratio = table.lines[number], table.ratios[number]
    printed = table.published.row(line) if table.published else {}
    found: Mapping[str, float | None] = {
        **{title: cell.score for title, cell in line.cells.items()},
        **({table.average.column: table.average_of(line)} if table.average else {}),
        RATIO: ratio.value if ratio else None,
    }
    shared = {title: value for title, value in printed.items() if title in found}
    differences = {
        title: value - shared[title] for title, value in found.items() if title in shared and value is not None
    }
    limited = {title: cell.limited for title, cell in line.cells.items()}
    stars = {title: "*" if limited.get(title, any(limited.values())) else "" for title in found}
    columns = {title: ACC_RATIO if title == RATIO else title for title in found}
    return (
        {columns[title]: _number(title, value) + _misfit(table, line, title) for title, value in shared.items()},
        {columns[title]: _number(title, value, "+") + stars[title] for title, value in differences.items()},
    )


def _misfit(table: Table, line: Line, title: str) -> str:
    known = table.published
    tokens = known.tokens(line) if known else None
    if known is None or tokens is None or known.average is None or title != known.average.column:
        return ""
    return MISFIT if known.misfit(line.place.name, tokens) is not None else ""
