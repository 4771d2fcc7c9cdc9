"""The averages that papers print: what a lineage's last column is made of. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

RATIO = "ratio"
"""The column that is a mean relative to vanilla, in percent."""


@dataclass(frozen=True)
class Average:
    """`column` is the mean of the columns `of`; some are divided first, as MME by 20. Of `ratio`: each by vanilla's."""

    column: str
    of: tuple[str, ...]
    divide: Mapping[str, float]

    def value(self, scores: Mapping[str, float], vanilla: Mapping[str, float]) -> float | None:
        """None where a score is missing: an average over fewer columns would be another."""
        by = self._divisors(vanilla)
        if not scores.keys() >= set(self.of) or by is None:
            return None
        return fmean(scores[title] / by[title] for title in self.of)

    def rounding(self, vanilla: Mapping[str, float], digits: Mapping[str, int]) -> float:
        """How far a printed average may be from that of the printed scores, which are rounded to so many `digits`."""
        by = self._divisors(vanilla) or {}
        inputs = [0.5 * 10.0 ** -digits[title] / by[title] for title in self.of if title in by]
        return 0.5 * 10.0 ** -digits[self.column] + sqrt(sum(half**2 for half in inputs)) / max(1, len(self.of))

    def _divisors(self, vanilla: Mapping[str, float]) -> dict[str, float] | None:
        if self.column != RATIO:
            return {title: self.divide.get(title, 1.0) for title in self.of}
        if not all(vanilla.get(title) for title in self.of):
            return None
        return {title: vanilla[title] / 100 for title in self.of}


def decimals(columns: Sequence[str], rows: Sequence[Sequence[float | None]]) -> dict[str, int]:
    """Column → how many decimals are printed in it, the most that any row shows."""
    return {
        title: max((len(f"{row[place]:g}".partition(".")[2]) for row in rows if row[place] is not None), default=0)
        for place, title in enumerate(columns)
    }
