"""What every stage will do to a prompt batch, and the lengths that follow: plain numbers, before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from adaptinfer_eval.layer_method import LayerMethod
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.proof import Lengths
from adaptinfer_eval.schedule import Schedule


@dataclass(frozen=True)
class Step:
    """One stage. Per sample: vision tokens that it keeps of those there, and new ones that it makes of the rest."""

    keep: list[int]
    made: list[int]

    @property
    def vision(self) -> list[int]:
        """Vision tokens that go on."""
        return [kept + new for kept, new in zip(self.keep, self.made, strict=True)]


def steps_of(
    method: LayerMethod, plan: Callable[[int], Schedule], layers: Iterable[int], prompt: Prompt
) -> dict[int, Step]:
    """The step after each of `layers`; `plan` gives the schedule for a prompt with that many vision tokens."""
    schedules = [{stage.layer: stage.keep for stage in plan(count)} if count else {} for count in prompt.vision]
    now, steps = prompt.vision, {}
    for layer in sorted(layers):
        keep = [
            method.keep_count(keeps[layer], total, current) if total else 0
            for keeps, total, current in zip(schedules, prompt.vision, now, strict=True)
        ]
        made = [method.merged_count(current - kept) for current, kept in zip(now, keep, strict=True)]
        steps[layer] = Step(keep, made)
        now = steps[layer].vision
    return steps


def lengths_of(whole: int, prompt: Prompt, steps: Mapping[int, Step], num_layers: int, prefix: int) -> Lengths:
    """Tokens that each layer computes, and caches, in the prefill of `prompt`, which enters layer 0 as `whole` tokens.

    `prefix`: how many of them the layers up to the first step have cached already.
    """
    computed, cached = [whole - prefix] * num_layers, [whole] * num_layers
    text = [real - vision for real, vision in zip(prompt.real, prompt.vision, strict=True)]
    for layer, step in steps.items():
        longest = max(t + v for t, v in zip(text, step.vision, strict=True))
        computed[layer + 1 :] = cached[layer + 1 :] = [longest] * (num_layers - layer - 1)
    return Lengths(computed, cached)
