"""Attention for training: block rows in bf16 with kept probabilities, on a CPU about twice as fast as SDPA.

The result is ordinary attention; only the mask is known in a compact form: a causal prefix (system prompt and image)
followed by packed questions, each of which sees the prefix and itself.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from transformers import AttentionInterface

NAME = "packed"  # what set_attn_implementation takes
ROWS = 193  # rows per block: small enough for the cache, large enough for the matrix units


def _blocks(prefix: int, total: int, causal: bool) -> list[tuple[int, int, int]]:
    """(first row, end row, end key): causal rows see keys up to their block's end."""
    blocks = []
    for first, last in ((0, prefix), (prefix, total)):
        for start in range(first, last, ROWS):
            end = min(last, start + ROWS)
            blocks.append((start, end, end if causal else total))
    return blocks


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        batch, _, total, _ = query.shape
        query, key, value = (query * scale).contiguous(), key.contiguous(), value.contiguous()
        prefix = total if mask is None else total - mask.shape[2]
        blocks = _blocks(prefix, total, causal=mask is not None)
        future = torch.full((ROWS, ROWS), float("-inf"), dtype=query.dtype, device=query.device).triu(1)
        output, kept = torch.empty_like(query), []
        for b in range(batch):
            for start, end, keys in blocks:
                scores = torch.bmm(query[b, :, start:end], key[b, :, :keys].transpose(1, 2))
                if mask is not None and end <= prefix:
                    scores[:, :, start:end] += future[: end - start, : end - start]
                elif mask is not None:
                    scores += mask[b, :, start - prefix : end - prefix, :keys]
                kept.append(torch.softmax(scores, -1).to(query.dtype))  # autocast on a GPU makes it float32
                output[b, :, start:end] = torch.bmm(kept[-1], value[b, :, :keys])
        ctx.save_for_backward(query, key, value)
        ctx.kept, ctx.blocks, ctx.scale = kept, blocks, scale  # type: ignore[attr-defined]
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value = ctx.saved_tensors
        gradient = gradient.contiguous()
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        kept = iter(ctx.kept)
        for b in range(query.shape[0]):
            for start, end, keys in ctx.blocks:
                weights, rows = next(kept), gradient[b, :, start:end]
                d_value[b, :, :keys] += torch.bmm(weights.transpose(1, 2), rows)
                d_weights = torch.bmm(rows, value[b, :, :keys].transpose(1, 2))
                d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
                d_query[b, :, start:end] = torch.bmm(d_scores, key[b, :, :keys])
                d_key[b, :, :keys] += torch.bmm(d_scores.transpose(1, 2), query[b, :, start:end])
        ctx.kept = None
        return d_query * ctx.scale, d_key, d_value, None, None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Hugging Face attention function. `attention_mask`: None for full attention (vision tower), else additive
    (B, 1, T, N) for the last T of N rows (packed questions); the N - T rows before them are causal.
    query, key, value: (B, heads, N, dim); returns (B, N, heads, dim) and no weights."""
    low = torch.bfloat16
    output: Tensor = _BlockedAttention.apply(query.to(low), key.to(low), value.to(low), attention_mask, scaling)
    return output.transpose(1, 2).contiguous().to(value.dtype), None


AttentionInterface.register(NAME, packed_attention)
