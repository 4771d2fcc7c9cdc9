"""Attention rows of one layer, computed from that layer's own queries and keys.

Only the rows that a method asks for are computed, beside the model's own attention, whatever kernel that uses.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attention_rows(
    query: Tensor, key: Tensor, scaling: float, rows: int, valid: Tensor | None, window: int | None = None
) -> Tensor:
    """Causal attention of the last `rows` tokens over the whole sequence, (B, H, rows, n) float32.

    `query` (B, H, rows or more, head size) and `key` (B, H_kv, n, head size) are rotated; `valid` (B, n) is False on
    padding. `window`: how many tokens back a sliding-window layer sees. In float32 from the product on: in float16 it
    can pass 65504 where the scaled logits do not.
    """
    batch, heads, queries, size = query.shape
    groups, length = key.shape[1:3]
    # Grouped-query attention: the query heads that share a key head become rows of one product.
    grouped = query[:, :, queries - rows :].reshape(batch, groups, heads // groups * rows, size).float()
    logits = (grouped @ key.transpose(2, 3).float()).view(batch, heads, rows, length) * scaling
    columns = torch.arange(length, device=key.device)
    distance = columns[length - rows :, None] - columns
    allowed = distance >= 0
    if window is not None:
        allowed = allowed & (distance < window)
    if valid is not None:
        allowed = allowed & valid[:, None, None, :]
    # Not -inf: a row of padding alone would become NaN, and NaN survives multiplication by 0.
    return logits.masked_fill_(~allowed, torch.finfo(torch.float32).min).softmax(-1)
