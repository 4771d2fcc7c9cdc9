"""Answers that have ended leave their batch, which goes on until its longest is there.

`generate` stays in charge and sees every row: the decoder is handed those that still answer, with their part of the
cache, and what it makes of them is put back in its place. In the others' places are zeros; `generate` writes padding
there, whatever the logits say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SHARE = 1 / 4
"""Of the rows in a decoder, how many have to have ended: copying the others' cache then pays after two steps
(docs/cost.md)."""


def going_on(rows: Sequence[int], ended: Sequence[bool], cache: Any) -> list[int]:
    """Places in `rows`, those of a batch that `cache` holds, of the ones to go on with: all while leaving is no use."""
    left = [place for place, row in enumerate(rows) if not ended[row]]
    pays = len(rows) - len(left) >= SHARE * len(rows)
    return left if left and pays and _selects(cache) else list(range(len(rows)))


def _selects(cache: Any) -> bool:
    """Whether some rows can be had of all that it holds. Layers that carry a state, or are quantized, cannot do it."""
    plain = type(cache) is DynamicCache and not cache.offloading
    return plain and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def picked(kwargs: Mapping[str, Any], rows: Tensor, batch: int) -> dict[str, Any]:
    """A decoder's arguments for a decode step of `batch` rows: those for `rows` (R,) alone."""

    def pick(value: Any, axis: int) -> Any:
        if isinstance(value, Mapping):  # a mask for each type of layer
            return {name: pick(mask, axis) for name, mask in value.items()}
        if not isinstance(value, Tensor) or value.ndim < 2 or value.shape[axis] != batch:
            return value  # of all rows alike
        return value.index_select(axis, rows.to(value.device))

    # Positions (axes, B, 1) have their rows behind the axes.
    return {name: pick(value, -2 if name == "position_ids" else 0) for name, value in kwargs.items()}


def put_back(output: Any, rows: Tensor, batch: int) -> Any:
    """A decoder's output for `rows` (R,) with the hidden states of the whole batch, (batch, 1, D)."""
    hidden: Tensor = output.last_hidden_state
    whole = hidden.new_zeros(batch, *hidden.shape[1:])
    output.last_hidden_state = whole.index_copy(0, rows.to(hidden.device), hidden)
    return output
