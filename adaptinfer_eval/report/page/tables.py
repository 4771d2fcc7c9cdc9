"""A sweep's lines as the page's tables. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.beside import Beside
from adaptinfer_eval.report.categories import Category
from adaptinfer_eval.report.headings import digits
from adaptinfer_eval.report.page.view import Cell, Column, Row, Table
from adaptinfer_eval.report.pareto import relative_flops
from adaptinfer_eval.report.ratios import Ratio
from adaptinfer_eval.report.rows import Cell as Measured
from adaptinfer_eval.report.rows import Line, spread, vanilla_of
from adaptinfer_eval.report.split import Split, split_rows
from adaptinfer_eval.report.table import Table as MadeTable

ABSENT = Cell("–")


def budget_of(line: Line) -> str:
    """What a budget filter knows a line by; empty for vanilla, which every other line is compared with."""
    return "" if line.method == "vanilla" or not np.isfinite(line.tokens) else f"{line.tokens:g}"


def results_table(made: MadeTable) -> Table:
    """A row per line: its score in every task, the accuracy ratio with its interval, and what it computed."""
    headings, (unit, size) = made.layout.headings, made.flops
    lettered = any(ratio and ratio.group for ratio in made.ratios)
    columns = [
        Column("Method", numeric=False),
        Column("Avg. tokens"),
        *map(Column, headings),
        Column("Acc. ratio (%)"),
        Column("95 % interval"),
        *([Column("Group", numeric=False)] if lettered else []),
        Column("Entering"),
        Column("Leaving"),
        Column(unit),
    ]
    rows = []
    for line, ratio in zip(made.lines, made.ratios, strict=True):
        cells = [
            *_head(line),
            *(_score(heading, line.cells[heading]) for heading in headings),
            _with_spread(ratio.value, ratio.spread, "{:.1f}") if ratio else ABSENT,
            _interval(ratio),
            *([Cell(ratio.group if ratio else "")] if lettered else []),
            number(_mean(line, "entering"), "{:.1f}"),
            number(_mean(line, "leaving"), "{:.1f}"),
            number(_mean(line, "flops"), "{:.3f}", 0.5 / size),
        ]
        rows.append(Row(line.place.title, budget_of(line), cells))
    return Table("results-table", "Scores on the papers’ scale, and accuracy relative to vanilla", columns, rows)


def cost_table(made: MadeTable) -> Table:
    """A row per line: its schedule, and what was traced and timed."""
    unit, size = made.flops
    vanilla = vanilla_of(made.lines)
    columns = [
        Column("Method", numeric=False),
        Column("Avg. tokens"),
        Column("Schedule", numeric=False),
        *map(Column, ("Entering", "Entering (%)", "Leaving", "Leaving (%)", unit)),
        *map(Column, ("FLOPs, % of vanilla", "Seconds per request", "Tokens generated")),
    ]
    rows = []
    for line in made.lines:
        relative = relative_flops(line, vanilla) if vanilla else None
        cells = [
            *_head(line),
            Cell(" | ".join(_schedules(line)) or "–"),
            number(_mean(line, "entering"), "{:.2f}"),
            number(_share(line, "entering"), "{:.1f}", 100),
            number(_mean(line, "leaving"), "{:.2f}"),
            number(_share(line, "leaving"), "{:.1f}", 100),
            number(_mean(line, "flops"), "{:.3f}", 0.5 / size),
            number(relative, "{:.1f}"),
            number(_mean(line, "seconds"), "{:.4f}"),
            number(_mean(line, "generated_tokens"), "{:.1f}"),
        ]
        rows.append(Row(line.place.title, budget_of(line), cells))
    return Table("cost-table", "What each setting computed: means over requests, then over tasks", columns, rows)


def category_table(lines: Sequence[Line], heading: str, categories: Sequence[Category]) -> Table:
    """A row per budget and category, a column per line, each score with its interval."""
    titles = list(dict.fromkeys(title for one in categories for title in one.scores))
    columns = [Column("Category", numeric=False), *map(Column, ("Questions", "Avg. tokens", *titles))]
    rows = []
    for one in sorted(categories, key=lambda one: -one.budget):
        scores = [one.scores.get(title) for title in titles]
        cells = [Cell(score.text(), score.value) if score else ABSENT for score in scores]
        head = [Cell(one.name), Cell(str(one.questions), one.questions), _tokens(one.budget)]
        rows.append(Row("", f"{one.budget:g}", [*head, *cells]))
    part = " (first questions only)" if any(line.cells[heading].limited for line in lines) else ""
    return Table(f"categories-{heading.lower()}", f"{heading} by category{part}", columns, rows)


def split_table(splits: Sequence[Split]) -> Table:
    """A row per line and column: scores on the questions that need the tokens, and what was kept and lost."""
    made = split_rows(splits)
    columns = [Column(title, numeric=title not in ("Method", "Column")) for title in made[0]]
    rows = []
    for one, row in zip(splits, made, strict=True):
        cells = [Cell(text, _leading(text)) for text in row.values()]
        cells[1] = _tokens(one.tokens)
        rows.append(Row(one.title, f"{one.tokens:g}", cells))
    return Table("split-table", "Right answers in percent, and answers that pruning changed", columns, rows)


def _leading(text: str) -> float | None:
    """The number that a text begins with: 76.0 of `76.0 (66.9–83.2)`."""
    try:
        return float(text.partition(" ")[0])
    except ValueError:
        return None


def beside_table(beside: Beside) -> Table:
    """A row per line and sweep, and below them the differences."""
    texts = ("Method", "Sweep")
    columns = [Column(title, numeric=title not in texts) for title in beside.rows[0]]
    rows = [Row(row["Method"], "", [Cell(text) for text in row.values()]) for row in beside.rows]
    return Table("beside-table", "The same lines in several sweeps", columns, rows)


def number(value: float | None, form: str, scale: float = 1.0) -> Cell:
    return ABSENT if value is None else Cell(form.format(scale * value), scale * value)


def _head(line: Line) -> tuple[Cell, Cell]:
    return Cell(line.place.title), _tokens(line.tokens) if np.isfinite(line.tokens) else ABSENT


def _tokens(budget: float) -> Cell:
    return Cell(budget_text(budget), budget)


def _mean(line: Line, key: str) -> float | None:
    return fmean(values) if (values := line.audits(key)) else None


def _share(line: Line, key: str) -> float | None:
    return fmean(values) if (values := line.shares(key)) else None


def _schedules(line: Line) -> list[str]:
    return list(dict.fromkeys(r["audit"]["schedule"] for cell in line.cells.values() for r in cell.measured))


def _score(heading: str, cell: Measured) -> Cell:
    if cell.score is None:
        return Cell(cell.status)
    form = f"{{:.{digits(heading)}f}}"
    return _with_spread(cell.score, spread(list(cell.scores.values())), form)._replace(mark="*" * cell.limited)


def _with_spread(value: float, deviation: float | None, form: str) -> Cell:
    """`deviation`: standard deviation over the seeds of a line that is the mean of several."""
    return Cell(form.format(value) + (f" ± {form.format(deviation)}" if deviation is not None else ""), value)


def _interval(ratio: Ratio | None) -> Cell:
    if ratio is None or ratio.interval is None or ratio.interval[0] == ratio.interval[1]:
        return ABSENT
    return Cell("{:.1f} – {:.1f}".format(*ratio.interval), ratio.interval[0])
