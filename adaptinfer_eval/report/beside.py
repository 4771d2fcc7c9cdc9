"""Several sweeps side by side: what was asked alike is aligned, what was not is said, nothing is averaged over them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from adaptinfer_eval.methods.schedule import budget_text
from adaptinfer_eval.report.bootstrap import differ, mean_units, resampled_scores
from adaptinfer_eval.report.headings import Record, digits, heading, in_order
from adaptinfer_eval.report.layouts import Layout
from adaptinfer_eval.report.parts import with_parts
from adaptinfer_eval.report.ratios import Ratio, ratios_of
from adaptinfer_eval.report.rows import Cell, Line, lines_of
from adaptinfer_eval.report.rows import in_order as lines_in_order
from adaptinfer_eval.report.units import read_units
from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.records import read_records
from adaptinfer_eval.sweep.units import Units

Key = tuple[str, str, float | None]
COMPARED = ("backbone", "pretrained", "checkpoint", "model_args", "dtype", "limit", "versions", "engine")
"""What sweeps may be compared across; that it differs is said."""
MEANING = ("count", "per")
"""What a budget means: lines that differ in it are not one."""


@dataclass(frozen=True)
class Swept:
    """A sweep by the name of its folder."""

    name: str
    records: Sequence[Record]
    units: Mapping[str, Units]
    headings: tuple[str, ...]
    layout: Layout

    @cached_property
    def lines(self) -> dict[Key, Line]:
        found = lines_of(self.records, self.layout)
        return {(line.place.title, line.place.location, line.place.budget): line for line in found}

    def ratios(self, headings: Sequence[str]) -> dict[Key, Ratio | None]:
        if not headings:
            return dict.fromkeys(self.lines)
        found = ratios_of(list(self.lines.values()), headings, self.units)
        return dict(zip(self.lines, found, strict=True))


@dataclass(frozen=True)
class Beside:
    """A row for each line of each sweep, and below them the differences to the first that has it."""

    headings: tuple[str, ...]
    rows: list[dict[str, str]]
    notes: list[str]


def read_swept(folders: Sequence[Path], layout: Layout | None = None) -> list[Swept]:
    """The sweeps in `folders`; their columns are the layout's, or all of their tasks'. SweepError for one twice."""
    names = [folder.resolve().name for folder in folders]
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise SweepError("--results names a folder twice")
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    read = [(name, folder, read_records(folder)) for name, folder in zip(names, folders, strict=True)]
    titles = in_order({heading(record["task"]) for _, _, records in read for record in records})
    columns = layout or Layout(titles)
    found = []
    for name, folder, records in read:
        parts, units = with_parts(records, read_units(folder, records), columns.headings)
        found.append(Swept(name, parts, units, columns.headings, columns))
    return found


def side_by_side(sweeps: Sequence[Swept]) -> Beside:
    """SweepError where none of the columns was measured in any of them."""
    headings = tuple(title for title in sweeps[0].headings if any(_has(sweep, title) for sweep in sweeps))
    if not headings:
        raise SweepError(f"no sweep has one of the columns {', '.join(sweeps[0].headings)}: choose another table")
    shared = [title for title in headings if _asked_alike(sweeps, title)]
    ratios = [sweep.ratios(shared) for sweep in sweeps]
    placed = {key: line for sweep in reversed(sweeps) for key, line in sweep.lines.items()}
    keys = {id(line): key for key, line in placed.items()}
    rows = []
    for line in lines_in_order(list(placed.values())):
        key = keys[id(line)]
        having = [number for number, sweep in enumerate(sweeps) if key in sweep.lines]
        for number in having:
            rows.append(_row(sweeps[number], sweeps[number].lines[key], headings, ratios[number][key]))
        first = having[0]
        for number in having[1:]:
            if (row := _difference(sweeps[first], sweeps[number], key, headings)) is not None:
                rows.append(row)
    return Beside(headings, rows, [*_notes(sweeps, headings, shared)])


def _has(sweep: Swept, title: str) -> bool:
    return any(line.cells[title].measured for line in sweep.lines.values())


def _asked(sweep: Swept, title: str) -> set[tuple[int, str]]:
    """Number and fingerprint of the questions of a column."""
    cells = [line.cells[title] for line in sweep.lines.values()]
    return {(record["questions"], record["data"]) for cell in cells for record in cell.measured}


def _asked_alike(sweeps: Sequence[Swept], title: str) -> bool:
    return len(set.union(*(_asked(sweep, title) for sweep in sweeps))) == 1 and all(_has(s, title) for s in sweeps)


def _row(sweep: Swept, line: Line, headings: Sequence[str], ratio: Ratio | None) -> dict[str, str]:
    tokens = budget_text(line.tokens) if line.tokens != float("inf") else "–"
    between = "{:.1f}–{:.1f}".format(*ratio.interval) if ratio and ratio.interval else "–"
    return {
        "Method": line.place.title,
        "Avg. tokens": tokens,
        "Sweep": sweep.name,
        **{title: _score(line.cells[title], title) for title in headings},
        "Acc. ratio (%)": "–" if ratio is None else f"{ratio.value:.1f}",
        "95 % interval": "" if line.method == "vanilla" else between,
    }


def _score(cell: Cell, title: str) -> str:
    if cell.score is None:
        return cell.status
    return f"{cell.score:.{digits(title)}f}" + "*" * cell.limited


def _difference(first: Swept, other: Swept, key: Key, headings: Sequence[str]) -> dict[str, str] | None:
    """How much more the line has in `other`; None where no column of it was asked alike."""
    one, two = first.lines[key], other.lines[key]
    if _meaning(one) != _meaning(two):
        return None
    found: dict[str, str] = {}
    for title in headings:
        cells = [one.cells[title], two.cells[title]]
        if cells[0].comparable(cells[1]):
            found[title] = _change([_units(first, cells[0]), _units(other, cells[1])], title)
    if not found:
        return None
    texts = {title: found.get(title, "–") for title in headings}
    head = {"Method": "difference", "Avg. tokens": "", "Sweep": f"{other.name} - {first.name}"}
    return {**head, **texts, "Acc. ratio (%)": "", "95 % interval": ""}


def _units(sweep: Swept, cell: Cell) -> Units:
    return mean_units([sweep.units[record["id"]] for record in cell.measured])


def _meaning(line: Line) -> set[tuple[object, ...]]:
    """What the line's budget counts."""
    measured = [record for cell in line.cells.values() for record in cell.measured]
    return {tuple(record[key] for key in MEANING) for record in measured}


def _change(scored: Sequence[Units], title: str) -> str:
    change = scored[1].score() - scored[0].score()
    text = f"{round(change, digits(title)) + 0.0:+.{digits(title)}f}"
    if scored[0].combine == "whole":
        return text
    drawn = resampled_scores(scored, title)
    return text + "!" * differ(drawn[:, 0], drawn[:, 1])


def _notes(sweeps: Sequence[Swept], headings: Sequence[str], shared: Sequence[str]) -> Iterator[str]:
    yield (
        "difference: of the later sweep to the earlier, where the same questions were asked; !: its 95 % interval over "
        "questions (paired bootstrap) leaves out 0. Nothing is averaged over sweeps."
    )
    if any(cell.limited for sweep in sweeps for line in sweep.lines.values() for cell in line.cells.values()):
        yield "* not the whole task, only its first questions."
    over = f"over {', '.join(shared)}, which all sweeps asked alike" if shared else "no column was asked alike by all"
    yield f"Acc. ratio: of each sweep to its own vanilla, {over}."
    said = {f"Not asked alike: {title}": [_questions(sweep, title) for sweep in sweeps] for title in headings}
    said |= {f"Different {key}": [_value(sweep, key) for sweep in sweeps] for key in COMPARED}
    said["Budgets count differently, so that lines are not compared"] = [_counting(sweep) for sweep in sweeps]
    for what, values in said.items():
        if len(set(values)) > 1:
            yield f"{what}: " + "; ".join(f"{s.name} {value}" for s, value in zip(sweeps, values, strict=True)) + "."
    for sweep in sweeps:
        others = [other for other in sweeps if other is not sweep]
        alone = [line.place for key, line in sweep.lines.items() if all(key not in other.lines for other in others)]
        named = [place.title + (f" at {budget_text(place.budget)}" if place.budget else "") for place in alone]
        if named:
            yield f"Only in {sweep.name}: {', '.join(named)}."


def _counting(sweep: Swept) -> str:
    budgeted = [line for line in sweep.lines.values() if line.place.budget]
    return " or ".join(sorted({", per ".join(map(str, meaning)) for line in budgeted for meaning in _meaning(line)}))


def _questions(sweep: Swept, title: str) -> str:
    asked = sorted(_asked(sweep, title))
    return ", ".join(f"{count} questions (data {data[:8]})" for count, data in asked) or "none"


def _value(sweep: Swept, key: str) -> str:
    values = {str(record.get(key))[:60] for record in sweep.records}
    return ", ".join(sorted(values))
