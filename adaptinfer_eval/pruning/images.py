"""Dropping vision tokens before the language model, and the bookkeeping that generation needs for it.

`generate` goes on counting the whole prompt; the decoder is given the shorter one, in prefill and in every decode step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.image_method import ImageMethod
from adaptinfer_eval.pruning.attention import gather_tokens
from adaptinfer_eval.pruning.prompt import Prompt
from adaptinfer_eval.pruning.sequence import Segment, first_segment, shorten
from adaptinfer_eval.pruning.trace import Trace

Kwargs = dict[str, Any]


class ImagePruner:
    """Applies one `ImageMethod` to the input of a decoder, for images of `image_tokens` tokens.

    `drops_fillers`: the vision tower gave fewer tokens, and what is dropped are the zeros that fill their places.
    """

    def __init__(self, method: ImageMethod, image_tokens: int, trace: Trace, drops_fillers: bool) -> None:
        self.selected = torch.zeros(image_tokens, dtype=torch.bool)
        self.selected[list(method.select(image_tokens))] = True
        self.count = int(self.selected.sum())
        self.image_tokens, self.trace, self.drops_fillers = image_tokens, trace, drops_fillers

    def prefill(self, prompt: Prompt, kwargs: Kwargs) -> tuple[Kwargs, Segment | None]:
        """The decoder's arguments with only the selected vision tokens, and what they are."""
        if not any(prompt.vision):
            return kwargs, None
        if any(count % self.image_tokens for count in prompt.vision):
            raise ValueError(
                f"prompts have {sorted(set(prompt.vision))} vision tokens, not multiples of the {self.image_tokens} of "
                "an image: methods that prune before the language model need whole images"
            )
        before = first_segment(prompt.is_vision, prompt.valid, prompt.real, prompt.vision)
        slots = torch.arange(before.vision_mask.shape[1], device=before.ids.device) % self.image_tokens
        self.selected = self.selected.to(slots.device)  # copied once
        chosen = self.selected[slots] & before.vision_mask
        keep = [count // self.image_tokens * self.count for count in prompt.vision]
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
        return {**kwargs, **_mask_and_positions(after, step=None)}, after

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
