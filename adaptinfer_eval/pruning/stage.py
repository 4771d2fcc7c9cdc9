"""What a stage shows its method of the layer before it: what the method asks for, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.seen import Attention, Rotary, Tokens, gather_tokens, per_sample
from adaptinfer_eval.pruning.attention import attention_rows
from adaptinfer_eval.pruning.rotation import Rotation
from adaptinfer_eval.pruning.run import Attended, Run
from adaptinfer_eval.pruning.sequence import Segment

SOME = 64
"""Of the vision tokens' own rows, so many at a time: memory for all would grow with the square of their number."""


def attended(
    method: LayerMethod, run: Run, query: Tensor, key: Tensor, mask: Tensor | None, given: dict[str, Any]
) -> Attended:
    """Of a layer whose attention function is given `query`, `key` (see `attention_rows`), `mask` and `given`."""
    segment, text = run.segments[-1].to(query.device), max(run.prompt.text_after)
    uneven = len(set(segment.vision)) > 1 or len(set(run.prompt.text_after)) > 1
    text_mask, vision_mask = run.prompt.text_mask.to(query.device), segment.vision_mask

    def weights(rows: int | Tensor) -> Tensor:
        return attention_rows(query, key, rows, segment.valid, mask, given)

    def vision_columns(weights: Tensor) -> Tensor:
        return weights.gather(3, segment.vision_index[:, None, None, :].expand(*weights.shape[:3], -1))

    def among_vision() -> Iterator[Tensor]:
        for start in range(0, max(segment.vision), SOME):
            some = slice(start, start + SOME)
            rows = vision_columns(weights(segment.vision_index[:, some]))
            yield rows * (vision_mask[:, None, some, None] & vision_mask[:, None, None, :]) if uneven else rows

    keys = key if "keys" in method.looks_at else None
    if method.queries == "none":
        return Attended(*_no_rows(run, query), keys)
    rows = weights(last_rows(method, run))
    to_vision, to_text = vision_columns(rows), rows[..., segment.length - text :]
    if uneven:  # zero what is no text, or no vision token, of the sample
        row_mask = text_mask.new_ones(len(text_mask), 1) if method.queries == "last" else text_mask
        to_vision = to_vision * (row_mask[:, None, :, None] & vision_mask[:, None, None, :])
        to_text = to_text * (row_mask[:, None, :, None] & text_mask[:, None, None, :])
    return Attended(to_vision, to_text, keys, among_vision if method.queries == "all" else None)


def last_rows(method: LayerMethod, run: Run) -> int:
    """Query rows at the end of the prompts that the method looks at."""
    return {"none": 0, "last": 1}.get(method.queries, max(run.prompt.text_after))


def shown(method: LayerMethod, run: Run, layer: int, leaving: Tensor, rotation: Rotation) -> Attention:
    """What the method sees at the stage after `layer`, which hands on `leaving` (B, n, D)."""
    seen = run.attended or Attended(*_no_rows(run, leaving))
    device, rows = seen.to_vision.device, last_rows(method, run)
    segment, first = run.segments[-1].to(device), run.segments[0].to(device)
    text_mask = run.prompt.text_mask.to(device)
    text = slice(segment.length - text_mask.shape[1], None)

    def tokens(name: str, states: Tensor | None) -> Tokens | None:
        if name not in method.looks_at or states is None:
            return None
        return Tokens(states.to(device), segment.vision_index, segment.vision_mask, text_mask)

    def rotary() -> tuple[Rotary, Rotary]:
        assert run.places is not None
        kind = rotation.kind(layer + 1 if method.looks_ahead else layer)
        # In float32, whatever the model computes in: where decay is nearly 0, rounding would make it 0.
        positions = run.places.of(segment)
        shape = (*positions.shape[:-2], len(segment.ids), segment.length)
        cos, sin = rotation(leaving.new_empty(0, dtype=torch.float32, device=device), positions.expand(shape), kind)
        last = slice(segment.length - rows, None)
        index = segment.vision_index
        return (cos[:, last], sin[:, last]), (gather_tokens(cos, index), gather_tokens(sin, index))

    def places() -> tuple[Tensor, Tensor]:
        own = first.ids if first.valid is None else (first.valid.cumsum(1) - 1).clamp(min=0)
        place = own.gather(1, segment.ids.clamp(max=first.length - 1))
        return place.gather(1, segment.vision_index), place[:, text]

    def norm(hidden: Tensor) -> Tensor:
        normed: Tensor = rotation.text.norm(hidden)
        return normed.to(hidden.device)

    keys = None if seen.keys is None else seen.keys.transpose(1, 2).flatten(2)
    return Attention(
        to_vision=seen.to_vision,
        to_text=seen.to_text,
        vision_mask=segment.vision_mask,
        prepared=None if run.prepared is None else run.prepared.to(device),
        keep=per_sample(run.steps[layer].keep, device),
        keys=tokens("keys", keys),
        entering=tokens("entering", run.entering),
        leaving=tokens("leaving", leaving),
        _rotary=rotary,
        _numbers=lambda: numbers(run, segment),
        _places=places,
        _among=seen.among_vision,
        _norm=norm,
    )


def numbers(run: Run, segment: Segment) -> Tensor:
    """See `Attention.numbers`."""
    first, ids = run.segments[0].to(segment.ids.device), segment.ids.gather(1, segment.vision_index)
    number = (first.is_vision.cumsum(1) - 1).gather(1, ids.clamp(max=first.length - 1))
    return torch.where(ids < first.length, number, ids - first.length + max(first.vision)).clamp(min=0)


def _no_rows(run: Run, like: Tensor) -> tuple[Tensor, Tensor]:
    """Rows onto vision tokens and text, where a method looks at none."""
    samples = len(run.prompt.real)
    vision, text = max(run.segments[-1].vision), max(run.prompt.text_after)
    return like.new_zeros(samples, 0, 0, vision), like.new_zeros(samples, 0, 0, text)
