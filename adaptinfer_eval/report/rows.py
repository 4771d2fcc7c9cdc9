"""From records to a table's lines. A line's cell may stand for several records: seeds, repeats, pruning locations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import NamedTuple

from adaptinfer_eval.report.headings import Record, heading_of, headings_of
from adaptinfer_eval.report.layouts import Layout, Place


class Member(NamedTuple):
    """One of the measurements that a line is the mean of."""

    variant: str
    seed: int
    repeat: int


@dataclass(frozen=True)
class Cell:
    """What a line has in one task; `wanted` are the members that it needs for a mean."""

    records: dict[Member, Record]
    wanted: frozenset[Member]

    @property
    def status(self) -> str:
        """`done` only where all members are; else what is wrong with the first that is not."""
        if not self.wanted:
            return "not measured"
        states = [self.records[member]["status"] if member in self.records else "missing" for member in self.wanted]
        wrong = sorted(state for state in states if state != "done")
        if not wrong:
            return "done"
        return f"{wrong[0]} ({len(wrong)} of {len(states)})" if len(states) > 1 else wrong[0]

    @property
    def scores(self) -> dict[Member, float]:
        """Of the members that were measured, on the papers' scale."""
        return {m: record["score"] for m, record in sorted(self.records.items()) if record["status"] == "done"}

    @property
    def score(self) -> float | None:
        """Mean over the members; None unless all were measured."""
        return fmean(self.scores.values()) if self.status == "done" else None

    @property
    def limited(self) -> bool:
        return any(record["questions"] < record["questions_available"] for record in self.measured)

    @property
    def measured(self) -> list[Record]:
        return [record for record in self.records.values() if record["status"] == "done"]

    def comparable(self, other: Cell) -> bool:
        """Both measured, on the same questions."""
        asked = {(record["questions"], record["data"]) for record in self.measured + other.measured}
        return self.status == other.status == "done" and len(asked) == 1


@dataclass(frozen=True)
class Line:
    """A line of a table; `cells` has an entry for every column."""

    place: Place
    method: str
    cells: dict[str, Cell]

    @cached_property
    def tokens(self) -> float:
        """The budget; without one, the tokens that left each layer, rounded; infinite where nothing was measured."""
        if self.place.budget is not None:
            return self.place.budget
        leaving = self.audits("leaving")
        return round(fmean(leaving)) if leaving else float("inf")

    def audits(self, key: str) -> list[float]:
        """One value per task with a measurement, the mean over its members: tasks count alike."""
        means = [[record["audit"][key] for record in cell.measured] for cell in self.cells.values()]
        return [fmean(values) for values in means if values]

    def shares(self, key: str) -> list[float]:
        """`audits` of "entering" or "leaving" over the vision tokens of the prompts; of records that say those."""
        audits = [[record["audit"] for record in cell.measured] for cell in self.cells.values()]
        known = [[audit for audit in of_task if audit.get("vision_tokens")] for of_task in audits]
        return [fmean(audit[key] / audit["vision_tokens"] for audit in of_task) for of_task in known if of_task]

    @property
    def members(self) -> frozenset[Member]:
        return next(iter(self.cells.values())).wanted


def lines_of(records: Sequence[Record], layout: Layout) -> list[Line]:
    """The table's lines: many vision tokens first, among equals in the papers' order.

    SweepError where two tasks of the sweep have the same heading.
    """
    headings_of([record["task"] for record in records])
    found: dict[Place, dict[str, dict[Member, Record]]] = {}
    for record in records:
        member = Member(layout.variant(record), record["seed"], record["repeat"])
        found.setdefault(layout.place(record), {}).setdefault(heading_of(record), {})[member] = record
    return in_order([_line(place, cells, layout) for place, cells in found.items()])


def _line(place: Place, cells: dict[str, dict[Member, Record]], layout: Layout) -> Line:
    members = {member for of_task in cells.values() for member in of_task}
    lacking = set(layout.variants(place.name)) - {member.variant for member in members}
    wanted = frozenset(members | {Member(variant, 0, 0) for variant in lacking})
    method = next(record["method"] for of_task in cells.values() for record in of_task.values())
    return Line(place, method, {title: Cell(cells.get(title, {}), wanted) for title in layout.headings})


def unmeasured(place: Place, layout: Layout) -> Line:
    """A line of which nothing was measured."""
    return Line(place, place.name, dict.fromkeys(layout.headings, Cell({}, frozenset())))


def in_order(lines: Sequence[Line]) -> list[Line]:
    """Many vision tokens first, among equals in the papers' order."""
    return sorted(lines, key=lambda line: (-line.tokens, line.place.rank, line.place.title, line.place.name))


def vanilla_of(lines: Sequence[Line]) -> Line | None:
    return next((line for line in lines if line.method == "vanilla"), None)


def spread(values: Sequence[float]) -> float | None:
    """Sample standard deviation; None of a single value."""
    return stdev(values) if len(values) > 1 else None
