"""Solving a schedule for a budget. Plain numbers, no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from adaptinfer_eval.methods.schedule import Schedule, Stage, mean_count

if TYPE_CHECKING:
    from adaptinfer_eval.methods.layer import LayerMethod


@lru_cache(maxsize=256)
def solve(method: LayerMethod, num_layers: int, vision_tokens: int) -> Schedule:
    """The candidate of `method` whose mean count is within half a token of its budget.

    ValueError when none is, naming a schedule of the same method that is.
    """
    best, distance, low, high = _nearest(method, num_layers, vision_tokens)
    if distance <= 0.5:
        return best
    raise ValueError(
        f"{method.name} pruning after layers {[stage.layer for stage in best]} of {num_layers} reaches {low:.0f} to "
        f"{high:.0f} vision tokens {method.count} on average, not {method.budget:g}; "
        + _remedy(method, num_layers, vision_tokens)
    )


def _nearest(method: LayerMethod, num_layers: int, vision_tokens: int) -> tuple[Schedule, float, float, float]:
    """The candidate nearest to the budget, how far off it is, and the lowest and highest mean of all candidates."""
    assert method.budget is not None
    means = []
    for schedule in method.candidates(num_layers, vision_tokens):
        schedule.check(num_layers)
        entering = method.entering_under(schedule, num_layers, vision_tokens)
        means.append((mean_count(entering, method.count), schedule))
    mean, best = min(means, key=lambda candidate: abs(candidate[0] - (method.budget or 0)))
    return best, abs(mean - method.budget), min(means)[0], max(means)[0]


def _remedy(method: LayerMethod, num_layers: int, vision_tokens: int) -> str:
    """A schedule of the same method that reaches the budget, its first stage as late as it can be."""
    assert method.budget is not None
    if method.budget >= vision_tokens:
        return f"the image has only {vision_tokens} vision tokens: use vanilla"
    full_layers = int(method.budget * num_layers // vision_tokens)
    for first in range(full_layers - (method.count == "entering"), -1, -1):
        best, distance, *_ = _nearest(method.starting_after(first, num_layers), num_layers, vision_tokens)
        if distance <= 0.5:
            return f"schedule='{best}' can"
    return "no stage is early enough: use a method that prunes before the language model (tome, downsample)"


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
