"""Dropping vision tokens before the language model, and the bookkeeping that generation needs for it.

`generate` goes on counting the whole prompt; the decoder is given the shorter one, in prefill and in every decode step.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.seen import from_host, gather_tokens
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.sequence import Segment, first_segment, shorten
from adaptinfer_eval.pruning.trace import Trace

Kwargs = dict[str, Any]


class ImagePruner:
    """Applies one `ImageMethod` to the input of a decoder, for images of `image_tokens` tokens.

    `drops_fillers`: the vision tower gave fewer tokens, and what is dropped are the zeros that fill their places.
    """

    def __init__(self, method: ImageMethod, image_tokens: int, trace: Trace, drops_fillers: bool) -> None:
        self.method, self.image_tokens, self.trace, self.drops_fillers = method, image_tokens, trace, drops_fillers
        self._selected = functools.cache(self._select)

    def prefill(self, prompt: Prompt, kwargs: Kwargs) -> tuple[Kwargs, Segment | None]:
        """The decoder's arguments with only the selected vision tokens, and what they are."""
        if not any(prompt.vision):
            return kwargs, None
        if any(v != n * self.image_tokens for v, n in zip(prompt.vision, prompt.images, strict=True)):
            raise ValueError(
                f"prompts have {sorted(set(prompt.vision))} vision tokens, not multiples of the {self.image_tokens} of "
                "an image: methods that prune before the language model need whole images"
            )
        before = first_segment(prompt.is_vision, prompt.valid, prompt.real, prompt.vision)
        budgets = [self.method.image_budgets([self.image_tokens] * images) for images in prompt.images]
        keep = [sum(row) for row in budgets]
        most = max(prompt.images)
        rows = [torch.cat([self._selected(budget) for budget in row + [0] * (most - len(row))]) for row in budgets]
        chosen = from_host(torch.stack(rows), before.ids.device)
        if self.drops_fillers and self._holds_features(kwargs["inputs_embeds"], before, chosen):
            raise ValueError(
                "the images were not encoded inside the block, but the method shortens them in the vision tower: "
                "pass pixel_values, not features computed before"
            )
        if kwargs.get("inputs_embeds") is not None:
            after, embeds, _ = shorten(before, kwargs["inputs_embeds"], chosen, keep, prompt.text_after)
            kwargs = {**kwargs, "inputs_embeds": embeds}
        else:
            after, ids, _ = shorten(before, kwargs["input_ids"][..., None], chosen, keep, prompt.text_after)
            kwargs = {**kwargs, "input_ids": ids[..., 0]}
        self.trace.kept[-1] = after.kept()
        self.trace.entering[:] = torch.tensor(keep)[:, None]
        self.trace.schedules = [f"before:{count}" if count else "no image" for count in keep]
        return {**kwargs, **_mask_and_positions(after, step=None)}, after

    def _select(self, budget: int) -> Tensor:
        """Which tokens of an image go on, (image_tokens,) bool, where it keeps so many."""
        chosen = list(self.method.for_image(budget).select(self.image_tokens)) if budget else []
        if len(set(chosen)) != budget:
            raise ValueError(f"{self.method.name}.select chooses {len(set(chosen))} tokens, not {budget}")
        selected = torch.zeros(self.image_tokens, dtype=torch.bool)
        selected[chosen] = True
        return selected

    @staticmethod
    def _holds_features(embeds: Tensor, segment: Segment, chosen: Tensor) -> bool:
        holds = (gather_tokens(embeds, segment.vision_index) != 0).any(-1)
        return bool((holds & segment.vision_mask & ~chosen).any())

    def decode(self, segment: Segment | None, cached: int, kwargs: Kwargs) -> Kwargs:
        """The decoder's arguments of a decode step after `cached` tokens."""
        if segment is None:
            return kwargs
        return {**kwargs, **_mask_and_positions(segment, step=cached - segment.length)}


def _mask_and_positions(segment: Segment, step: int | None) -> Kwargs:
    """Attention mask and position ids of a shortened prompt, or of the decode step `step` after it."""
    mask = segment.mask(step)
    return {"attention_mask": None if mask is None else mask.long(), "position_ids": segment.positions(step)}
