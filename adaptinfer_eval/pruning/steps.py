"""What every stage will do to a prompt batch, and the lengths that follow: plain numbers, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from loguru import logger

from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.proof import Lengths


@lru_cache(maxsize=256)
def say_once(warning: str) -> None:
    """Not again for every batch."""
    logger.warning(warning)


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
    method: LayerMethod, schedules: Sequence[Schedule], layers: Iterable[int], prompt: Prompt
) -> dict[int, Step]:
    """The step after each of `layers`; `schedules`: of each prompt, in whole tokens, empty where it has no image."""
    keeps = [{stage.layer: int(stage.keep) for stage in schedule} for schedule in schedules]
    now, steps = prompt.vision, {}
    for layer in sorted(layers):
        keep = [of_prompt[layer] if of_prompt else 0 for of_prompt in keeps]
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
