"""Attention masks for one layer, built by transformers for its attention implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers.masking_utils import LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING

from adaptinfer_eval.backbones.anatomy import Anatomy
from adaptinfer_eval.pruning.releases import CACHE
from adaptinfer_eval.pruning.sequence import Segment


def pattern_of(config: Any, layer: int) -> str:
    """What a layer attends to, in transformers' words: full_attention, sliding_attention."""
    patterns: Sequence[str] | None = getattr(config, "layer_types", None)
    if patterns:
        return patterns[layer]
    return "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"


def causal_mask(config: Any, layer: int, hidden: Tensor, valid: Tensor | None, cache: Any = None) -> Tensor | None:
    """The mask of `layer` for `hidden` (B, n, D) behind what `cache` holds; None where the kernel needs none.

    `valid` (B, cached + n) is False on padding; None where there is none.
    """
    if pattern_of(config, layer) == "linear_attention":  # as transformers has it, which looks whether there is padding
        return None if valid is None or hidden.shape[1] == 1 else valid.to(hidden.device).long()
    build: Any = LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING[pattern_of(config, layer)]
    mask: Tensor | None = build(
        config=config,
        inputs_embeds=hidden,
        attention_mask=None if valid is None else valid.to(hidden.device),
        layer_idx=layer,
        allow_is_causal_skip=valid is None,
        **{CACHE: cache},
    )
    return mask


class Masks:
    """Masks of shortened prompts, for the decoder of a model."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.anatomy, self.config = anatomy, anatomy.text.config  # type: ignore[union-attr]

    def of_prompt(self, layer: int, hidden: Tensor, left: Segment, follow: Mapping[str, Tensor]) -> Tensor | None:
        """The mask of `layer` for `hidden` (B, n, D), what is `left` of a prompt.

        `follow`: of the whole prompt, what the model's own masks are made from (B, L). It makes these, too: from what
        of it belongs to the tokens that are left.
        """
        if not follow:
            return causal_mask(self.config, layer, hidden, left.valid)
        masks = self.of_all_layers(hidden, left, follow)
        mask: Tensor | None = masks[pattern_of(self.config, layer)] if isinstance(masks, Mapping) else masks
        return mask

    def of_all_layers(self, hidden: Tensor, left: Segment, follow: Mapping[str, Tensor]) -> Any:
        """The same as the decoder is given it: one mask, or one for each type of layer."""
        assert self.anatomy.masks is not None
        return self.anatomy.masks(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=left.valid,
            position_ids=None,
            **{CACHE: None},
            **{name: value.to(hidden.device).gather(1, left.ids) for name, value in follow.items()},
        )
