"""What a vision tower shows of an image, while the model encodes it: only what methods ask to see.

Rows of attention are computed from the tower's own queries and keys, beside its own attention, whatever kernel that is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.backbones.towers import Grid
from adaptinfer_eval.methods.tower import Look

_LOGITS = 2**25
"""Logits of attention that are made at a time."""


@dataclass(frozen=True)
class Shown:
    """Of one image, with N tokens: see `Images`, whose rows these are, in the tower's own type.

    `hidden` (N, C), `cls` (C,), `attention` and `received` (heads, N), `keys` (N or 1 + N, heads, head size), `queries`
    (heads, head size); those of layers by their number.
    """

    grid: Grid
    hidden: Tensor | None = None
    cls: Tensor | None = None
    attention: Mapping[int, Tensor] = field(default_factory=dict)
    received: Mapping[int, Tensor] = field(default_factory=dict)
    keys: Mapping[int, Tensor] = field(default_factory=dict)
    queries: Mapping[int, Tensor] = field(default_factory=dict)

    def holds(self, look: Look) -> bool:
        """Whether it is all that is asked for."""
        layers = ("attention", "received", "keys", "queries")
        asked = all(set(getattr(look, name)) <= set(getattr(self, name)) for name in layers)
        return asked and not (look.hidden and self.hidden is None)


def all_of(looks: Iterable[Look]) -> Look:
    """What several methods ask to see, together."""
    looks = list(looks)

    def layers(name: str) -> tuple[int, ...]:
        return tuple(sorted({layer for look in looks for layer in getattr(look, name)}))

    return Look(
        hidden=any(look.hidden for look in looks),
        attention=layers("attention"),
        received=layers("received"),
        keys=layers("keys"),
        queries=layers("queries"),
        text=any(look.text for look in looks),
        question=any(look.question for look in looks),
    )


def first_row(query: Tensor, key: Tensor, given: Mapping[str, Any]) -> Tensor:
    """What the first row's attention is to all, (B, H, n) float32; `query`, `key` (B, H, n, head size)."""
    return _softmaxed(query[:, :, :1], key, None, given)[:, :, 0]


def column_sums(query: Tensor, key: Tensor, mask: Tensor | None, given: Mapping[str, Any]) -> Tensor:
    """What each row receives of all rows' attention together, (B, H, n) float32.

    `mask` (B or 1, 1, n, n): who sees whom. Some rows at a time: of a large image all are more than memory holds.
    """
    batch, heads, length, _ = query.shape
    total = query.new_zeros((batch, heads, length), dtype=torch.float32)
    rows = max(1, _LOGITS // (batch * heads * length))
    for first in range(0, length, rows):
        some = slice(first, first + rows)
        total += _softmaxed(query[:, :, some], key, None if mask is None else mask[..., some, :], given).sum(2)
    return total


def _softmaxed(query: Tensor, key: Tensor, mask: Tensor | None, given: Mapping[str, Any]) -> Tensor:
    logits: Tensor = query.float() @ key.float().transpose(2, 3) * given["scaling"]
    if mask is not None:
        allowed = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        logits = logits.masked_fill(~allowed, torch.finfo(torch.float32).min)
    return logits.softmax(-1)


def chunks(query: Tensor, key: Tensor, given: Mapping[str, Any]) -> Sequence[tuple[Tensor, Tensor]]:
    """Queries and keys, (1, H, n, head size), of each part that a flash kernel is given one behind the other."""
    ends = given.get("cu_seq_lens_q")
    if ends is None:
        return [(query, key)]
    lengths = ends.diff().tolist()
    return list(zip(torch.split(query, lengths, 2), torch.split(key, lengths, 2), strict=True))
