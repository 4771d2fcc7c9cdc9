"""Paired bootstrap over a benchmark's units: how sure a score is, given that these questions were drawn by chance.

A resample draws as many units as there are, with replacement, and all methods are scored on the same draw: what
makes a question hard is hard for all of them, so that differences are known better than scores. Tasks are drawn
independently; a task that sums the means of its categories (MME) is drawn within each category. Percentile intervals
(Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from adaptinfer_eval.sweep.config import SweepError
from adaptinfer_eval.sweep.units import Units

Floats = NDArray[np.float64]
RESAMPLES = 2000
CHUNK = 1 << 20
"""Draws that are held in memory at a time."""


def mean_units(several: Sequence[Units]) -> Units:
    """The same units with their mean values, of several seeds say. SweepError where they are not the same units."""
    first = several[0]
    if len(several) == 1:
        return first
    check_paired(several)
    weights = [units.weights for units in several if units.weights is not None]
    values = np.mean([units.values for units in several], axis=0)
    return replace(first, values=values, weights=np.mean(weights, axis=0) if weights else None)


def check_paired(several: Sequence[Units]) -> None:
    for units in several[1:]:
        if (units.ids, units.combine, units.scale) != (several[0].ids, several[0].combine, several[0].scale):
            raise SweepError("two cells of a task were scored on other questions: measure them in one sweep")


def resampled_scores(several: Sequence[Units], task: str, resamples: int = RESAMPLES) -> Floats:
    """Scores of each of `several` on the same resamples: (resamples, len(several)).

    The draw depends on `task` and the number of units alone: the same in every table and process.
    """
    return _resampled(tuple(several), task, resamples)


@lru_cache(maxsize=64)  # a page's table and plots ask for the same
def _resampled(several: tuple[Units, ...], task: str, resamples: int) -> Floats:
    check_paired(several)
    rng = np.random.default_rng(list(task.encode()))
    values = np.stack([units.values for units in several], axis=1)
    weights = [units.weights for units in several if units.weights is not None]
    weighed = np.stack(weights, axis=1) if weights else None
    scores = np.zeros((resamples, len(several)))
    for stratum in several[0].strata():
        size = len(stratum)
        rows = max(1, CHUNK // size)
        for start in range(0, resamples, rows):
            count = min(rows, resamples - start)
            drawn = rng.integers(size, size=(count, size)) + size * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
            below = size if weighed is None else np.maximum(times @ weighed[stratum], 1e-12)  # nothing: 0 of 0 is 0
            scores[start : start + count] += times @ values[stratum] / below
    scores *= several[0].factor
    scores.flags.writeable = False
    return scores


def resampled_ratios(cells: Sequence[Sequence[Units]], vanilla: Sequence[Units], tasks: Sequence[str]) -> Floats:
    """Accuracy ratios in percent: (resamples, lines); `cells`: for each line its units by task, in order of `tasks`.

    Not finite where vanilla has nothing right in a resample.
    """
    ratios = []
    for number, task in enumerate(tasks):
        scores = resampled_scores([*(line[number] for line in cells), vanilla[number]], task)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = scores[:, :-1] / scores[:, -1:]
            ratios.append(100 * (share if vanilla[number].higher_is_better else 1 / share))
    mean: Floats = np.mean(ratios, axis=0)
    return mean


def interval(values: Floats) -> tuple[float, float] | None:
    """The middle 95 % of (resamples,) values; None where one of them is not finite."""
    if not np.isfinite(values).all():
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def differ(one: Floats, other: Floats) -> bool:
    """Whether the 95 % interval of their difference leaves out 0; a rounding error is no difference."""
    low, high = np.quantile(one - other, [0.025, 0.975])
    return bool(low > 1e-9 or high < -1e-9)
