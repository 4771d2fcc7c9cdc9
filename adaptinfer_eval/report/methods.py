"""What the methods of a sweep were measured with in one task, and how right an answer is. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from adaptinfer_eval.report.page.tables import budget_of
from adaptinfer_eval.report.rows import Line


class MethodCell(NamedTuple):
    """A method's measurement in one task, of its first seed; `budget` is empty for vanilla."""

    title: str
    budget: str
    record: Mapping[str, Any]


def cells_of(lines: Sequence[Line], heading: str) -> list[MethodCell]:
    """Of every line that was measured in the task under `heading`."""
    found = []
    for line in lines:
        records = line.cells[heading].records
        done = [member for member, record in records.items() if record["status"] == "done"]
        if done:
            found.append(MethodCell(line.place.title, budget_of(line), records[min(done)]))
    return found


def verdict_of(right: float | None) -> str:
    """right, wrong or partly right; empty where it is not known."""
    return "" if right is None else {0.0: "wrong", 1.0: "right"}.get(right, "partly right")
