"""The token sequence between two stages, and the step from one to the next. Pure tensor functions.

Samples of a batch may keep different numbers of tokens. From the first stage on each is right-aligned; the free slots
on the left are filled with dropped tokens that `valid` masks out, so that no slot ever holds garbage (a NaN would
survive the mask).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptinfer_eval.methods.seen import gather_tokens, highest, per_sample


@dataclass
class Segment:
    """The sequence that the layers between two stages compute.

    `real`, `vision`: tokens and vision tokens per sample, on the host. `ids` (B, n): index of each token in the
    original sequence (merged ones count on from its length). `is_vision` (B, n). `valid` (B, n) is False on padding,
    None where there is none. `vision_index` (B, V): where the vision tokens are, padded; `vision_mask` (B, V).
    """

    real: list[int]
    vision: list[int]
    ids: Tensor
    is_vision: Tensor
    valid: Tensor | None
    vision_index: Tensor
    vision_mask: Tensor

    @property
    def length(self) -> int:
        return self.ids.shape[1]

    def to(self, device: torch.device) -> Segment:
        """The same on another device: with a device map, that of the next layer."""
        if self.ids.device == device:
            return self
        return Segment(
            real=self.real,
            vision=self.vision,
            ids=self.ids.to(device),
            is_vision=self.is_vision.to(device),
            valid=None if self.valid is None else self.valid.to(device),
            vision_index=self.vision_index.to(device),
            vision_mask=self.vision_mask.to(device),
        )

    def of_rows(self, rows: Tensor) -> Segment:
        """The same of the samples `rows` (R,) alone, padding and all."""
        numbers: list[int] = rows.tolist()
        return Segment(
            real=[self.real[row] for row in numbers],
            vision=[self.vision[row] for row in numbers],
            ids=self.ids[rows],
            is_vision=self.is_vision[rows],
            valid=None if self.valid is None else self.valid[rows],
            vision_index=self.vision_index[rows],
            vision_mask=self.vision_mask[rows],
        )

    def positions(self, step: int | None, start: int = 0) -> Tensor:
        """Positions counted from `start` over the real tokens, (1 or B, n); or of decode step `step`, (1 or B, 1)."""
        if self.valid is None:
            first, last = (0, self.length) if step is None else (self.length + step, self.length + step + 1)
            return torch.arange(start + first, start + last, device=self.ids.device)[None]
        if step is None:
            return (self.valid.cumsum(1) + (start - 1)).clamp(min=start)
        return self.valid.sum(1, keepdim=True) + (start + step)

    def mask(self, step: int | None) -> Tensor | None:
        """False on padding, (B, n), in decode step `step` (B, n + step + 1); None where there is no padding."""
        if self.valid is None or step is None:
            return self.valid
        return torch.cat([self.valid, self.valid.new_ones(len(self.valid), step + 1)], 1)

    def kept(self, columns: Tensor | None = None) -> Tensor:
        """Original indices of the vision tokens, (B, V), in sequence order, -1 on padding.

        `columns` (B, n): where the original sequence is itself what is left of another, indices in that.
        """
        ids = self.ids.gather(1, self.vision_index)
        ids = ids if columns is None else columns.to(ids.device).gather(1, ids)
        return ids.masked_fill(~self.vision_mask, -1)


def first_segment(is_vision: Tensor, valid: Tensor | None, real: Sequence[int], vision: Sequence[int]) -> Segment:
    """The whole prompt; `is_vision` and `valid` (B, L), token counts per sample on the host."""
    ids = torch.arange(is_vision.shape[1], device=is_vision.device).expand(is_vision.shape)
    return _segment(ids, is_vision, valid, real, vision)


def _segment(
    ids: Tensor, is_vision: Tensor, valid: Tensor | None, real: Sequence[int], vision: Sequence[int]
) -> Segment:
    vision_index = is_vision.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, : max(vision)]
    slots = torch.arange(max(vision), device=ids.device)
    return Segment(
        real=list(real),
        vision=list(vision),
        ids=ids,
        is_vision=is_vision,
        valid=valid,
        vision_index=vision_index,
        vision_mask=slots < per_sample(vision, ids.device),
    )


def choose(score: Tensor, segment: Segment, keep: Sequence[int]) -> Tensor:
    """Mark the `keep[b]` highest scores of each sample, the first of equal ones: (B, V) bool."""
    best = highest(score.masked_fill(~segment.vision_mask, -torch.inf), max(keep))
    ranks = torch.arange(max(keep), device=score.device) < per_sample(keep, score.device)
    return torch.zeros_like(segment.vision_mask).scatter(1, best, ranks)


def without(segment: Segment, chosen: Tensor, keep: Sequence[int]) -> tuple[Segment, Tensor]:
    """Drop the vision tokens that are not `chosen` (B, V), as many of each sample; the rest and padding stay in order.

    Returns the new segment, and the index (B, n') of its tokens in the old one.
    """
    stays = (~segment.is_vision).scatter(1, segment.vision_index, chosen)
    left = segment.length - segment.vision[0] + keep[0]
    order = stays.logical_not().to(torch.uint8).argsort(dim=1, stable=True)[:, :left]
    valid = None if segment.valid is None else segment.valid.gather(1, order)
    real = [n - old + new for n, old, new in zip(segment.real, segment.vision, keep, strict=True)]
    return _segment(segment.ids.gather(1, order), segment.is_vision.gather(1, order), valid, real, keep), order


def regroup(groups: Tensor | None, numbers: Tensor, fate: Tensor, tokens: int, made: int) -> Tensor:
    """For each of a prompt's `tokens` vision tokens the merged token that it is part of after a stage: (B, tokens).

    -1 where it is part of none, which goes on as it is or is gone. `groups`: the same before the stage, None where
    nothing was merged yet. `numbers` (B, V): which tokens the stage saw, merged ones counted on from `tokens`, -1 on
    padding; `fate` (B, V): the merged token that each is, or became part of, -1 for none. `made`: merged tokens of a
    sample before the stage, at most.
    """
    by_number = fate.new_full((len(fate), 1 + tokens + made), -1).scatter(1, numbers + 1, fate)  # the first: padding
    own = torch.arange(tokens, device=fate.device).expand(len(fate), -1)
    place = own if groups is None else torch.where(groups < 0, own, tokens + groups)
    return by_number.gather(1, place + 1)


def shorten(
    segment: Segment,
    hidden: Tensor,
    chosen: Tensor,
    keep: Sequence[int],
    text_after: Sequence[int],
    merged: Tensor | None = None,
    merged_counts: Sequence[int] = (),
    first_merged_id: Sequence[int] = (),
) -> tuple[Segment, Tensor, Tensor]:
    """Drop the vision tokens that are not `chosen` (B, V); insert merged ones before the text after the image.

    `hidden` (B, n, D); `merged` (B, C, D), of which `merged_counts[b]` are real, numbered from `first_merged_id[b]`.
    Returns the new segment, its hidden states, and the index (B, n') of its tokens in the old sequence (where merged
    tokens count on from n).
    """
    device, length = hidden.device, segment.length
    keeps = ~segment.is_vision if segment.valid is None else ~segment.is_vision & segment.valid
    # Padding in vision_index points at text: leave what stands there.
    there = torch.where(segment.vision_mask, chosen, keeps.gather(1, segment.vision_index))
    keeps = keeps.scatter(1, segment.vision_index, there)

    slots = 0 if merged is None else merged.shape[1]
    ids, is_vision = segment.ids, segment.is_vision
    place = torch.arange(length, device=device) * (slots + 1)
    place = torch.where(keeps, place, -1)  # dropped tokens go to the far left
    vision = list(keep)
    if merged is not None:
        new = torch.arange(slots, device=device)
        after = (length - 1 - per_sample(text_after, device)) * (slots + 1) + 1
        real_slot = new < per_sample(merged_counts, device)
        place = torch.cat([place, torch.where(real_slot, after + new, -1)], 1)
        hidden = torch.cat([hidden, merged.to(hidden.dtype)], 1)
        ids = torch.cat([ids, per_sample(first_merged_id, device) + new], 1)
        is_vision = torch.cat([is_vision, torch.ones_like(real_slot)], 1)
        vision = [k + c for k, c in zip(keep, merged_counts, strict=True)]

    real = [n - old + new for n, old, new in zip(segment.real, segment.vision, vision, strict=True)]
    order = place.argsort(dim=1, stable=True)[:, -max(real) :]
    valid = None
    if min(real) < max(real):
        valid = torch.arange(max(real), device=device) >= max(real) - per_sample(real, device)
    is_vision = is_vision.gather(1, order)
    if valid is not None:
        is_vision = is_vision & valid
    return _segment(ids.gather(1, order), is_vision, valid, real, vision), gather_tokens(hidden, order), order
