"""Attention masks for one layer, built by transformers for its attention implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers.masking_utils import LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING

from adaptinfer_eval.pruning.releases import CACHE


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
