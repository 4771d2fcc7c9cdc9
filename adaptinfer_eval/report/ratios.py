"""Accuracy ratios of a table's lines, how sure they are, and which of them differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import inf
from statistics import fmean

from adaptinfer_eval.report.bootstrap import Floats, differ, interval, mean_units, resampled_ratios
from adaptinfer_eval.report.letters import compact_letters
from adaptinfer_eval.report.rows import Cell, Line, spread, vanilla_of
from adaptinfer_eval.sweep.units import Units


@dataclass(frozen=True)
class Ratio:
    """Percent of vanilla's accuracy."""

    value: float
    spread: float | None
    """Standard deviation over the line's members (seeds, say); None for a single one."""
    interval: tuple[float, float] | None
    """95 %, over the questions; None where vanilla has nothing right in a resample, and where a score is no mean."""
    group: str
    """Letters shared with the lines of the same budget that it does not differ from; empty where it is alone."""


def accuracy_ratio(scores: Sequence[float], vanilla: Sequence[float], lower: Sequence[bool] = ()) -> float:
    """Percent: mean over tasks of score / vanilla's score; the other way round where `lower` is better.

    Infinite where a lower score is better and it is 0.
    """
    shares = [score / full for score, full in zip(scores, vanilla, strict=True)]
    turned = lower or [False] * len(shares)
    return 100 * fmean(
        (1 / share if share else inf) if turn else share for share, turn in zip(shares, turned, strict=True)
    )


def ratios_of(lines: Sequence[Line], headings: Sequence[str], units: Mapping[str, Units]) -> list[Ratio | None]:
    """The ratio of every line, over the tasks in `headings`; `units`: scores by unit of every measured record's id.

    None where a line or vanilla lacks a score, they were asked other questions, or vanilla's score is 0.
    """
    vanilla = vanilla_of(lines)
    if vanilla is None or not all((vanilla.cells[title].score or 0) > 0 for title in headings):
        return [None for _ in lines]
    whole = [
        number
        for number, line in enumerate(lines)
        if all(line.cells[title].comparable(vanilla.cells[title]) for title in headings)
    ]
    resampled = resampled_ratios(
        [[_units(lines[number].cells[title], units) for title in headings] for number in whole],
        [_units(vanilla.cells[title], units) for title in headings],
        headings,
    )
    lower = [not _units(vanilla.cells[title], units).higher_is_better for title in headings]
    sure = all(_units(vanilla.cells[title], units).combine != "whole" for title in headings)
    drawn = {number: resampled[:, column] for column, number in enumerate(whole)}
    found = {
        number: _ratio(lines[number], vanilla, headings, drawn[number] if sure else None, lower) for number in whole
    }
    for budget in {lines[number].tokens for number in whole}:
        rivals = [n for n in whole if lines[n].tokens == budget and lines[n] is not vanilla and found[n].interval]
        for number, letters in _letters(rivals, found, drawn).items():
            found[number] = Ratio(found[number].value, found[number].spread, found[number].interval, letters)
    return [found.get(number) for number in range(len(lines))]


def _units(cell: Cell, units: Mapping[str, Units]) -> Units:
    return mean_units([units[record["id"]] for record in cell.measured])


def _ratio(
    line: Line, vanilla: Line, headings: Sequence[str], resampled: Floats | None, lower: Sequence[bool]
) -> Ratio:
    full = [fmean(vanilla.cells[title].scores.values()) for title in headings]
    members = [
        accuracy_ratio([line.cells[title].scores[member] for title in headings], full, lower)
        for member in sorted(line.members)
    ]
    return Ratio(fmean(members), spread(members), None if resampled is None else interval(resampled), "")


def _letters(rivals: Sequence[int], found: Mapping[int, Ratio], drawn: Mapping[int, Floats]) -> dict[int, str]:
    if len(rivals) < 2:
        return {}
    best = sorted(rivals, key=lambda number: -found[number].value)
    pairs = combinations(range(len(best)), 2)
    different = [(a, b) for a, b in pairs if differ(drawn[best[a]], drawn[best[b]])]
    return dict(zip(best, compact_letters(len(best), different), strict=True))
