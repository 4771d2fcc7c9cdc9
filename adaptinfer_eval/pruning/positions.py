"""Positions of the tokens that are left of a prompt: those they had, or numbered anew. Pure tensor functions.

Most models count tokens along one axis. Multimodal rotary positions (M-RoPE, Qwen-VL) have three, time, height and
width: an image's tokens share values, and text goes on behind the largest. Numbering tokens 0, 1, 2 … would tear an
image apart there; anew means that values which no token has on any axis any more are closed up. On one axis that is the
same.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adaptinfer_eval.pruning.sequence import Segment


def original(whole: Tensor, segment: Segment) -> Tensor:
    """What the model gave them: (B, n), or (axes, B, n).

    `whole` (1 or B, L) or (axes, 1 or B, L): of the prompts' tokens. Merged tokens had none.
    """
    ids = segment.ids
    if whole.ndim == 2:
        return whole.to(ids.device).expand(len(ids), -1).gather(1, ids)
    return whole.to(ids.device).expand(-1, len(ids), -1).gather(2, ids.expand(len(whole), -1, -1))


def renumbered(whole: Tensor, segment: Segment) -> Tensor:
    """Numbered anew: (1 or B, n), or (axes, B, n)."""
    if whole.ndim == 2:
        return segment.positions(None)
    old = original(whole, segment)
    flat = _real(old, segment).transpose(0, 1).flatten(1)  # (B, axes × n)
    values, order = flat.sort(1)
    rank = torch.zeros_like(values)
    rank[:, 1:] = (values[:, 1:] != values[:, :-1]).cumsum(1)
    return torch.empty_like(rank).scatter(1, order, rank).view(len(flat), len(old), -1).transpose(0, 1)


def closed_up(whole: Tensor, segment: Segment) -> Tensor:
    """How far text behind the prompt moves down when `whole`, with several axes, is numbered anew: (B, 1)."""
    old, new = original(whole, segment), renumbered(whole, segment)
    return (_real(old, segment) - _real(new, segment)).amax((0, 2))[:, None]


def _real(positions: Tensor, segment: Segment) -> Tensor:
    """Positions with padding at the smallest value of the sample, where it changes nothing."""
    if segment.valid is None:
        return positions
    largest = torch.iinfo(positions.dtype).max
    lowest = positions.masked_fill(~segment.valid, largest).amin((0, 2))[:, None]
    return torch.where(segment.valid, positions, lowest)
