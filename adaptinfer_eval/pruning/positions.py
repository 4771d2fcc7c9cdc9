"""Positions of the tokens that are left of a prompt: those they had, or numbered anew. Pure tensor functions.

Most models count tokens along one axis. Multimodal rotary positions (M-RoPE, Qwen-VL) have three, time, height and
width: an image's tokens share values, and text goes on behind the largest. Numbering tokens 0, 1, 2 … would tear an
image apart there; anew means that values which no token has on any axis any more are closed up. On one axis that is the
same. Values that no token had before, as between a video's frames, stay: with all tokens kept nothing changes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from adaptinfer_eval.pruning.sequence import Segment


def numbered(rule: Literal["keep", "renumber"], whole: Tensor, first: Segment, left: Segment, start: int = 0) -> Tensor:
    """Positions of the tokens that are `left` of the prompts `first`: (1 or B, n), or (axes, B, n).

    `whole` (1 or B, L), or (axes, 1 or B, L): what the model gave to `first`. Merged tokens have none to keep. `start`:
    where a model with one axis begins to count.
    """
    if rule == "keep":
        return _original(whole, left)
    if whole.ndim == 2:
        return left.positions(None, start)
    old = _original(whole, left)
    before = _below(_original(whole, first), first.valid)
    return old - (_original(before, left) - _below(old, left.valid))


def closed_up(whole: Tensor, first: Segment, left: Segment, step: Tensor) -> Tensor:
    """How far the answer moves down when `whole`, with several axes, is numbered anew: (B, 1).

    `step` (axes, B, 1): where the model puts the first token behind the prompt, which frames of a video may be beyond.
    """
    return _values_below(whole, first, step) - _values_below(whole, left, step)


def _values_below(whole: Tensor, segment: Segment, step: Tensor) -> Tensor:
    valid = None if segment.valid is None else F.pad(segment.valid, (0, 1), value=True)
    return _below(torch.cat([_original(whole, segment), step], 2), valid)[0, :, -1:]


def _original(whole: Tensor, segment: Segment) -> Tensor:
    """Of `whole`, in its last dimension, what belongs to the tokens of `segment`."""
    ids = segment.ids
    whole = whole.to(ids.device).expand(*whole.shape[:-2], len(ids), -1)
    return whole.gather(-1, ids.expand(*whole.shape[:-1], -1))


def _below(positions: Tensor, valid: Tensor | None) -> Tensor:
    """How many values below each of `positions` (axes, B, n) the tokens have on any axis; 0 on padding."""
    if valid is not None:  # at the smallest value, where it counts for nothing
        largest = torch.iinfo(positions.dtype).max
        smallest = positions.masked_fill(~valid, largest).amin((0, 2))[:, None]
        positions = torch.where(valid, positions, smallest)
    values, order = positions.transpose(0, 1).flatten(1).sort(1)  # (B, axes × n)
    below = torch.zeros_like(values)
    below[:, 1:] = (values[:, 1:] != values[:, :-1]).cumsum(1)
    ranks = torch.empty_like(below).scatter(1, order, below)
    return ranks.view(len(ranks), len(positions), -1).transpose(0, 1)
