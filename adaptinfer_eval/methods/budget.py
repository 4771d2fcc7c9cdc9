"""Which of a method's schedules meets a budget. Plain numbers, no torch: it knows shapes and counts, and no method."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from adaptinfer_eval.methods.schedule import Count, Schedule, Stage, mean_count

T = TypeVar("T")
Candidate = tuple[Schedule, Sequence[int]]
"""A schedule, and the vision tokens that enter each layer under it."""
Rows = Iterable[Sequence[Candidate]]
"""Candidates whose mean counts rise, and again, in finer steps: the first row with one that meets a budget is taken."""


class OnDemand(Sequence[T]):
    """So many items, each made of its number when it is asked for: of thousands, a search looks at a few."""

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._numbers, self._make = range(length), make

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: Any) -> Any:
        return self._make(self._numbers[number])


def solve(name: str, budget: float, count: Count, candidates: Rows, starting_after: Callable[[int], Rows]) -> Schedule:
    """The candidate whose mean count is within half a token of the budget, in tokens.

    ValueError when none is, naming a schedule of the same method that is. `name`: the method's, for that error;
    `starting_after`: what the candidates would be with the first stage after that layer.
    """
    nearest = _nearest(budget, count, candidates)
    if nearest.meets_it:
        return nearest.schedule
    layers, num_layers = [stage.layer for stage in nearest.schedule], len(nearest.entering)
    reached = f"reaches {nearest.lowest:.0f} to {nearest.highest:.0f} vision tokens {count} on average, not {budget:g}"
    said = f"pruning after layers {layers} of {num_layers} {reached}"
    if nearest.surrounds(budget):
        said = f"has no schedule of {budget:g} vision tokens {count} on average"
    raise ValueError(f"{name} {said}; {_remedy(budget, count, nearest, starting_after)}")


def _remedy(budget: float, count: Count, nearest: _Nearest, starting_after: Callable[[int], Rows]) -> str:
    """A schedule of the same method that reaches the budget, its first stage as late as it can be; or the nearest."""
    num_layers, vision_tokens = len(nearest.entering), nearest.entering[0]
    if budget >= vision_tokens:
        return f"the image has only {vision_tokens} vision tokens: use vanilla"
    full_layers = int(budget * num_layers // vision_tokens)
    latest = min(full_layers - (count == "entering"), num_layers - 2)
    for first in range(latest, -1, -1):
        found = _nearest(budget, count, starting_after(first))
        if found.meets_it:
            return f"schedule='{found.schedule}' can"
    if nearest.surrounds(budget):
        return f"the nearest is schedule='{nearest.schedule}' with {mean_count(nearest.entering, count):g}"
    return "no stage is early enough: use a method that prunes before the language model (tome, downsample)"


class _Nearest(NamedTuple):
    """The candidate nearest to a budget, and how far all of them reach."""

    schedule: Schedule
    entering: Sequence[int]
    meets_it: bool
    lowest: float
    highest: float

    def surrounds(self, budget: float) -> bool:
        """Whether some have fewer tokens and some more, and the steps between them are too wide."""
        return self.lowest <= budget <= self.highest


def _nearest(budget: float, count: Count, rows: Rows) -> _Nearest:
    for row in filter(len, rows):
        nearest = _nearest_of(budget, count, row)
        if nearest.meets_it:
            break
    return nearest


def _nearest_of(budget: float, count: Count, row: Sequence[Candidate]) -> _Nearest:
    """Of equal ones the first."""

    def mean(candidate: Candidate) -> float:
        return mean_count(candidate[1], count)

    def off(candidate: Candidate) -> float:
        return abs(mean(candidate) - budget)

    above = min(bisect_left(row, budget, key=mean), len(row) - 1)
    below = bisect_left(row, mean(row[max(above - 1, 0)]), key=mean)
    best = min(row[below], row[above], key=off)
    return _Nearest(*best, off(best) <= 0.5, mean(row[0]), mean(row[-1]))


def given_layers(text: str) -> list[int]:
    """Read `1,10,20`; ValueError unless the layers increase."""
    return [stage.layer for stage in Schedule.parse(",".join(f"{layer}:0" for layer in text.split(",")))]


def scale_layers(layers: Iterable[int], from_layers: int, to_layers: int) -> list[int]:
    """The same relative depths in a model with another number of layers, kept strictly increasing."""
    scaled: list[int] = []
    for layer in layers:
        depth = int(layer * to_layers / from_layers + 0.5)
        scaled.append(max(depth, scaled[-1] + 1) if scaled else depth)
    return scaled


def scaled_shapes(shape: Schedule, vision_tokens: int) -> Sequence[Schedule]:
    """`shape` with all keeps scaled alike, one schedule for each possible keep of the first stage."""

    def scaled(first: int) -> Schedule:
        scale = first / shape[0].keep
        return Schedule(Stage(layer, min(int(keep * scale + 0.5), vision_tokens)) for layer, keep in shape)

    return OnDemand(vision_tokens + 1, scaled)
