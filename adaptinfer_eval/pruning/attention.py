"""What a method gets to see: attention rows of one layer, computed from that layer's own queries and keys.

Only the rows that a method asks for are computed, beside the model's own attention, whatever kernel that uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""cos and sin, each (B or 1, tokens, head size)."""


@dataclass(frozen=True)
class Embeddings:
    """Input embeddings before layer 0. `vision` (B, V, D), `text` (B, T, D): the text after the image.

    `vision_mask` (B, V) and `text_mask` (B, T) are False on padding.
    """

    _hidden: Tensor
    _vision_index: Tensor
    vision_mask: Tensor
    text_mask: Tensor

    @property
    def vision(self) -> Tensor:
        return gather_tokens(self._hidden, self._vision_index)

    @property
    def text(self) -> Tensor:
        return self._hidden[:, self._hidden.shape[1] - self.text_mask.shape[1] :]


@dataclass(frozen=True)
class Attention:
    """Softmaxed attention of one layer over the whole sequence, float32, 0 on padding.

    `to_vision` (B, H, R, V): query rows onto vision tokens; `to_text` (B, H, R, T): onto the text after the image.
    The R rows are that text (R = T), or the prompt's last token (R = 1), as the method's `queries` says.
    `vision_mask` (B, V) is False on padding. `prepared`: what the method's `prepare` returned.
    """

    to_vision: Tensor
    to_text: Tensor
    vision_mask: Tensor
    prepared: Tensor | None
    _rotary: Callable[[], tuple[Rotary, Rotary]]
    _numbers: Callable[[], Tensor]

    def numbers(self) -> Tensor:
        """Which of the prompt's vision tokens these are, (B, V) int64: their places in `Embeddings.vision`.

        Merged tokens are numbered on from the tokens there; on padding it is any token's number.
        """
        return self._numbers()

    def rotary(self) -> tuple[Rotary, Rotary]:
        """(cos, sin) of the query rows, (B, R, head size), and of the vision tokens, (B, V, head size), float32."""
        return self._rotary()


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


def gather_tokens(tokens: Tensor, index: Tensor) -> Tensor:
    """`tokens` (B or 1, n, D) at `index` (B, m) → (B, m, D)."""
    return tokens.expand(len(index), -1, -1).gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))


def per_sample(counts: Sequence[float], device: torch.device) -> Tensor:
    """Numbers, one per sample, as (B, 1), without waiting for the device."""
    if len(set(counts)) == 1:
        return torch.full((len(counts), 1), counts[0], device=device)
    return from_host(torch.tensor(counts), device)[:, None]


def from_host(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor that was made on the CPU, on `device`, without waiting for it."""
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def draw_lots(seed: int, tokens: int, device: torch.device) -> Tensor:
    """A lot in 0 … 1 for each of `tokens` vision tokens, (1, tokens): the same for all samples, whatever the device."""
    lots = torch.rand(tokens, generator=torch.Generator().manual_seed(seed))
    return per_sample(lots.tolist(), device).T
