"""Columns that are a part of another one's score: MME's perception, of a sweep that asked all of MME."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from adaptinfer_eval.report.headings import Record, heading, headings
from adaptinfer_eval.sweep.units import Units


def with_parts(
    records: Sequence[Record], units: Mapping[str, Units], columns: Sequence[str]
) -> tuple[list[Record], dict[str, Units]]:
    """The records, and one more for every part in `columns` of what was measured; likewise their units."""
    made, scored = list(records), dict(units)
    for title in columns:
        known = headings().get(title)
        if known is None or not known.part_of:
            continue
        for record in records:
            if heading(record["task"]) != known.part_of:
                continue
            part = {**record, "id": f"{record['id']}#{title}", "heading": title}
            if record["status"] == "done":
                if (of_part := _part(units[record["id"]], known.categories)) is None:
                    continue
                scored[part["id"]] = of_part
                part["score"] = of_part.score()
            made.append(part)
    return made, scored


def _part(units: Units, categories: Sequence[str]) -> Units | None:
    """The units of some categories, whose means add up to the part; None where there is none."""
    chosen = np.flatnonzero(np.isin(units.categories, categories))
    return units.part(chosen) if len(chosen) else None
