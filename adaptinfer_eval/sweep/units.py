"""Scores by unit: what a cell's score is made of, and what a bootstrap resamples.

A unit is what a benchmark counts as one: MME's two questions about an image, MMBench's circular copies of a question,
elsewhere a question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Combine = Literal["mean", "sum of category means", "mean of category ratios", "whole"]
Floats = NDArray[np.float64]
WEIGHED: Combine = "mean of category ratios"


@dataclass(frozen=True, eq=False)
class Units:
    """A task's units with their values. The score is `scale` times

    - `mean`: the mean of `values`
    - `sum of category means`: the sum over the categories of their means
    - `mean of category ratios`: the mean over the categories of the sum of `values` over the sum of `weights` (F1)
    - `whole`: the only value, of a metric that is no mean over questions. Nothing is known of how sure it is.
    """

    combine: Combine
    scale: float
    ids: tuple[str, ...]
    categories: tuple[str, ...]
    values: Floats
    weights: Floats | None = None
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if self.combine not in get_args(Combine):
            raise ValueError(f"combine={self.combine!r}: {' or '.join(get_args(Combine))}")
        if not 0 < len(self.ids) == len(self.categories) == len(self.values) == len(set(self.ids)):
            raise ValueError("units need at least one id, no id twice, and a category and a value each")
        if (self.weights is not None) != (self.combine == WEIGHED):
            raise ValueError(f"units of a ratio ({WEIGHED}) have a weight each, and no others")

    def strata(self) -> list[NDArray[np.intp]]:
        """Indices of the units whose mean is one term of the score: all of them, or those of each category."""
        if self.combine in ("mean", "whole"):
            return [np.arange(len(self.values))]
        categories = np.array(self.categories)
        return [np.flatnonzero(categories == name) for name in dict.fromkeys(self.categories)]

    @property
    def factor(self) -> float:
        """What the sum of the strata's terms is multiplied by."""
        return self.scale / len(self.strata()) if self.combine == WEIGHED else self.scale

    def term(self, chosen: NDArray[np.intp]) -> float:
        """The mean of some units, or the ratio of their sums; of a ratio over nothing 0."""
        if self.weights is None:
            return float(self.values[chosen].mean())
        total = self.weights[chosen].sum()
        return float(self.values[chosen].sum() / total) if total else 0.0

    def score(self) -> float:
        """On the papers' scale: MME in points, what is between 0 and 1 in percent."""
        return self.factor * sum(map(self.term, self.strata()))

    def part(self, chosen: NDArray[np.intp]) -> Units:
        """Some of the units, at least one."""
        return Units(
            self.combine,
            self.scale,
            tuple(self.ids[place] for place in chosen),
            tuple(self.categories[place] for place in chosen),
            self.values[chosen],
            None if self.weights is None else self.weights[chosen],
            self.higher_is_better,
        )

    def to_json(self) -> dict[str, Any]:
        columns: list[Sequence[Any]] = [self.ids, self.categories, self.values.tolist()]
        if self.weights is not None:
            columns.append(self.weights.tolist())
        found = {
            "combine": self.combine,
            "scale": self.scale,
            "units": [list(unit) for unit in zip(*columns, strict=True)],
        }
        return found if self.higher_is_better else {**found, "higher_is_better": False}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Units:
        return make_units(found["combine"], found["scale"], found["units"], found.get("higher_is_better", True))


def make_units(combine: Combine, scale: float, units: Sequence[Sequence[Any]], higher_is_better: bool = True) -> Units:
    """`units`: id, category, value and, of a ratio, weight of each."""
    ids, categories, values, *weights = zip(*units, strict=True)
    below = np.array(weights[0], dtype=np.float64) if weights else None
    return Units(combine, float(scale), ids, categories, np.array(values, np.float64), below, higher_is_better)
