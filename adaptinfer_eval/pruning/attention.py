"""Attention rows of one layer, computed from that layer's own queries and keys.

Only the rows that a method asks for are computed, beside the model's own attention, whatever kernel that uses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def attention_rows(
    query: Tensor, key: Tensor, rows: int | Tensor, valid: Tensor | None, mask: Tensor | None, given: Mapping[str, Any]
) -> Tensor:
    """Attention of some rows over the whole sequence, (B, H, R, n) float32: the last `rows`, or those at (B, R).

    `query` (B, H, rows or more, head size) and `key` (B, H_kv, n, head size) are rotated. `mask`, `given`: what the
    layer's attention function gets. A mask of four dimensions says who sees whom: decoders may show an image's tokens
    to each other. Without one attention is causal, as far back as `given` has a window, and not to padding, where
    `valid` (B, n) is False. In float32 from the product on: in float16 it can pass 65504 where the scaled logits do
    not.
    """
    batch, heads, queries, size = query.shape
    groups, length = key.shape[1:3]
    if isinstance(rows, int):
        query = query[:, :, queries - rows :]
    else:
        query = query.gather(2, rows[:, None, :, None].expand(-1, heads, -1, size))
    # Grouped-query attention: the query heads that share a key head become rows of one product.
    grouped = query.reshape(batch, groups, heads // groups * query.shape[2], size).float()
    logits: Tensor = (grouped @ key.transpose(2, 3).float()).view(batch, heads, -1, length) * given["scaling"]
    if softcap := given.get("softcap"):
        logits = (logits / softcap).tanh() * softcap
    allowed = _allowed(rows, key, valid, mask, given.get("sliding_window"))
    # Not -inf: a row of padding alone would become NaN, and NaN survives multiplication by 0.
    return logits.masked_fill_(~allowed, torch.finfo(torch.float32).min).softmax(-1)


def _allowed(rows: int | Tensor, key: Tensor, valid: Tensor | None, mask: Tensor | None, window: int | None) -> Tensor:
    """Which columns the `rows` see, bool, (1 or B, 1, R, n) or (R, n)."""
    length = key.shape[2]
    if isinstance(mask, Tensor) and mask.ndim == 4:
        seen = mask[..., :length]
        if isinstance(rows, int):
            seen = seen[..., -rows:, :]
        else:
            seen = seen.expand(len(rows), -1, -1, -1).gather(2, rows[:, None, :, None].expand(-1, 1, -1, length))
        return seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2
    columns = torch.arange(length, device=key.device)
    at = columns[length - rows :] if isinstance(rows, int) else rows[:, None]
    distance = at[..., None] - columns
    allowed = distance >= 0
    if window is not None:
        allowed = allowed & (distance < window)
    if valid is not None:
        allowed = allowed & valid[:, None, None, :]
    return allowed
