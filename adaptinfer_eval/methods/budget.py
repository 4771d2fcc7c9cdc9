"""Which of a method's schedules meets a budget. Plain numbers, no torch: it knows shapes and counts, and no method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from adaptinfer_eval.methods.schedule import Count, Schedule, Stage, mean_count

Candidate = tuple[Schedule, Sequence[int]]
"""A schedule, and the vision tokens that enter each layer under it."""


def solve(
    name: str,
    budget: float,
    count: Count,
    candidates: Iterable[Candidate],
    starting_after: Callable[[int], Iterable[Candidate]],
) -> Schedule:
    """The candidate whose mean count is within half a token of the budget.

    ValueError when none is, naming a schedule of the same method that is. `name`: the method's, for that error;
    `starting_after`: what the candidates would be with the first stage after that layer.
    """
    nearest = _nearest(budget, count, candidates)
    if nearest.meets_it:
        return nearest.schedule
    layers, num_layers = [stage.layer for stage in nearest.schedule], len(nearest.entering)
    raise ValueError(
        f"{name} pruning after layers {layers} of {num_layers} reaches {nearest.lowest:.0f} to {nearest.highest:.0f} "
        f"vision tokens {count} on average, not {budget:g}; "
        + _remedy(budget, count, num_layers, nearest.entering[0], starting_after)
    )


def _remedy(
    budget: float,
    count: Count,
    num_layers: int,
    vision_tokens: int,
    starting_after: Callable[[int], Iterable[Candidate]],
) -> str:
    """A schedule of the same method that reaches the budget, its first stage as late as it can be."""
    if budget >= vision_tokens:
        return f"the image has only {vision_tokens} vision tokens: use vanilla"
    full_layers = int(budget * num_layers // vision_tokens)
    for first in range(full_layers - (count == "entering"), -1, -1):
        nearest = _nearest(budget, count, starting_after(first))
        if nearest.meets_it:
            return f"schedule='{nearest.schedule}' can"
    return "no stage is early enough: use a method that prunes before the language model (tome, downsample)"


class _Nearest(NamedTuple):
    """The candidate nearest to a budget, and how far all of them reach."""

    schedule: Schedule
    entering: Sequence[int]
    meets_it: bool
    lowest: float
    highest: float


def _nearest(budget: float, count: Count, candidates: Iterable[Candidate]) -> _Nearest:
    means = [(mean_count(entering, count), schedule, entering) for schedule, entering in candidates]
    mean, schedule, entering = min(means, key=lambda candidate: abs(candidate[0] - budget))
    reached = [candidate[0] for candidate in means]
    return _Nearest(schedule, entering, abs(mean - budget) <= 0.5, min(reached), max(reached))


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


def scaled_shapes(shape: Schedule, vision_tokens: int) -> Iterable[Schedule]:
    """`shape` with all keeps scaled alike, one schedule for each possible keep of the first stage."""
    for first in range(vision_tokens + 1):
        scale = first / shape[0].keep
        yield Schedule(Stage(layer, min(int(keep * scale + 0.5), vision_tokens)) for layer, keep in shape)
