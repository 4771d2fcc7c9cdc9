"""Images and videos of a batch: which prompt shows which, and what the vision tower made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from adaptinfer_eval.backbones.family import Family
from adaptinfer_eval.pruning.shown import Shown

if TYPE_CHECKING:
    from adaptinfer_eval.models.batch import Prompt

Counts = Mapping[str, Sequence[int]]
"""Of each prompt of a batch, by the words of `Family.image_inputs`."""


def counts(prompts: Sequence[Prompt], vision: Sequence[int], of_videos: Sequence[int]) -> Counts:
    """See `Family.image_inputs`; each prompt has so many `vision` tokens, of which so many are `of_videos`."""
    return {
        "prompts": [1] * len(prompts),
        "prompts with images": [int(bool(prompt.images)) for prompt in prompts],
        "images": [len(prompt.images) for prompt in prompts],
        "videos": [len(prompt.videos) for prompt in prompts],
        "image tokens": [tokens - video for tokens, video in zip(vision, of_videos, strict=True)],
        "video tokens": list(of_videos),
    }


def of_prompts(family: Family, inputs: Mapping[str, Tensor], counts: Counts) -> list[dict[str, Tensor]]:
    """What each prompt shows, of a processor's `inputs`: those of their rows that are of its images and videos."""
    parts: list[dict[str, Tensor]] = [{} for _ in counts["prompts"]]
    for name, unit in family.image_inputs.items():
        if name in inputs and (total := sum(counts[unit])):
            rows = len(inputs[name])
            if any(count * rows % total for count in counts[unit]):
                raise ValueError(f"prompts have {list(counts[unit])} {unit}, and {rows} rows of {name} to share")
            own = torch.split(inputs[name], [count * rows // total for count in counts[unit]])
            for part, of_prompt in zip(parts, own, strict=True):
                part[name] = of_prompt
    shows = [images + videos for images, videos in zip(counts["images"], counts["videos"], strict=True)]
    return [
        {name: rows for name, rows in part.items() if len(rows)} if any_ else {}
        for part, any_ in zip(parts, shows, strict=True)
    ]


def joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What some prompts show, as one batch of inputs."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.cat([part[name] for part in parts if name in part]) for name in names}


@dataclass(frozen=True)
class Features:
    """What a model made of the images, or videos, of some prompts.

    `pooled`: of each prompt, (tokens, D). `deep`: the same for each layer that gets features of its own (DeepStack).
    `kind`: the class of the model's own output, which is made anew of them, and `shape` that of an image's features
    there; None where it has a list of them. `shown`: what the vision tower showed of each prompt's images, empty where
    nobody looked.
    """

    pooled: Sequence[Tensor]
    deep: Sequence[Sequence[Tensor]] | None
    kind: type[Any]
    shape: tuple[int, ...] | None
    shown: Sequence[Sequence[Shown]] = ()

    @classmethod
    def read(cls, output: Any, tokens: Sequence[int], shown: Sequence[Sequence[Shown]] = ()) -> Features:
        """Those of a model's `output` for prompts of so many `tokens`."""
        deep = getattr(output, "deepstack_features", None)
        levels = None if deep is None else [_split(level, tokens) for level in deep]
        pooled = output.pooler_output
        shape = tuple(pooled.shape[1:]) if isinstance(pooled, Tensor) else None
        return cls(_split(pooled, tokens), levels, type(output), shape, shown)

    def picked(self, prompts: Sequence[int]) -> Features:
        """Those of some of the prompts, each as often as it is named."""
        deep = None if self.deep is None else [[level[prompt] for prompt in prompts] for level in self.deep]
        shown = [self.shown[prompt] for prompt in prompts] if self.shown else ()
        return replace(self, pooled=[self.pooled[prompt] for prompt in prompts], deep=deep, shown=shown)

    def output(self) -> Any:
        """As the model would give them; anew for each `generate`, which takes it apart."""
        shown = [prompt for prompt, own in enumerate(self.pooled) if len(own)]
        pooled: Any = [self.pooled[prompt] for prompt in shown]
        if self.shape is not None:
            pooled = torch.cat(pooled).view(-1, *self.shape)
        if self.deep is None:
            return self.kind(pooler_output=pooled)
        deep = [[level[prompt] for prompt in shown] for level in self.deep]
        return self.kind(pooler_output=pooled, deepstack_features=deep)


def _split(features: Any, tokens: Sequence[int]) -> list[Tensor]:
    if not isinstance(features, Tensor):  # one of each image
        features = torch.cat(list(features))
    return list(torch.split(features.flatten(0, -2), list(tokens)))
