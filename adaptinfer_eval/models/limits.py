"""How much of a prompt a decoder takes, and how far back it looks, by its configuration."""

from __future__ import annotations

from typing import Any


def most_tokens(text: Any, tokenizer: Any) -> float:
    """Tokens that a prompt may have: the decoder's positions, stretched or not, and the tokenizer's limit."""
    known = getattr(text, "max_position_embeddings", None) or float("inf")
    rope = getattr(text, "rope_parameters", None) or {}
    stretched = (rope.get("original_max_position_embeddings") or known) * (rope.get("factor") or 1)
    return float(min(max(known, stretched), tokenizer.model_max_length))


def slides(text: Any) -> bool:
    """Whether layers see only so many columns back, padding among them."""
    return getattr(text, "sliding_window", None) is not None
