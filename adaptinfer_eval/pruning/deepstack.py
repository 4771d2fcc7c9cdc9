"""Image features that a decoder adds to its tokens behind its first layers (DeepStack), as its tokens get fewer.

It adds them outside its layers, by a method of its own, and gives that the features of all vision tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from adaptinfer_eval.pruning.sequence import Segment

_ADDS = "_deepstack_process"


class Removable(Protocol):
    """A change that can be taken back."""

    def remove(self) -> None: ...


class _Added:
    def __init__(self, text: Any) -> None:
        self.text, self.before = text, vars(text).get(_ADDS)

    def remove(self) -> None:
        if self.before is None:
            delattr(self.text, _ADDS)
        else:
            setattr(self.text, _ADDS, self.before)


def added_deep(text: Any, segment: Callable[[], Segment | None]) -> list[Removable]:
    """Let the decoder `text` add features to what `segment` says is left of its prompts; nothing if it adds none."""
    if not hasattr(text, _ADDS):
        return []
    original = getattr(text, _ADDS)

    @functools.wraps(original)
    def adds(hidden: Tensor, is_vision: Tensor, features: Tensor) -> Tensor:
        left = segment()
        if left is None:
            whole: Tensor = original(hidden, is_vision, features)
            return whole
        left, is_vision = left.to(hidden.device), is_vision.to(hidden.device)
        row = (is_vision.flatten().cumsum(0) - 1).view_as(is_vision).clamp(min=0)
        own = features.to(hidden.device, hidden.dtype)[row.gather(1, left.ids)]
        return torch.where(left.is_vision[..., None], hidden + own, hidden)

    added = _Added(text)
    setattr(text, _ADDS, adds)
    return [added]
