"""What happened to the vision tokens in the last prefill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass
class Trace:
    """Filled anew by every prefill inside a `pruned` block.

    `kept[layer]` (B, k), for every layer that a stage follows: indices in the original sequence (columns of the
    input, padding counted) of the vision tokens that go on after `layer`, in sequence order; merged tokens are
    numbered L, L+1, … as they are made; -1 pads unequal rows. What is left of tokens that a method drops before the
    language model: `kept[-1]`.
    `groups[layer]` (B, V), from a method's first merge on: for each of the prompt's vision tokens, in order, the merged
    token that it is part of (0: the one numbered L, 1: L+1, …); -1 where it is part of none, and on padding.
    `entering` (B, layers), on the CPU: vision tokens that enter each layer.
    `images`, `schedules`: of each prompt, its images, and the schedule that was in force for it: `1:133,10:27,20:3`,
    `before:64`, "none" where nothing is pruned, or "no image".
    `assign` (images, 1 + tokens): the row of the vision tower's output that each of its tokens was merged into
    (row 0 = CLS); None where the tower is left alone.
    """

    kept: dict[int, Tensor] = field(default_factory=dict)
    groups: dict[int, Tensor] = field(default_factory=dict)
    entering: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    images: list[int] = field(default_factory=list)
    schedules: list[str] = field(default_factory=list)
    assign: Tensor | None = None


def moved(trace: Trace, real: Tensor) -> Trace:
    """The trace of a prompt by itself in the columns of its batch; `real` (L,): where its tokens are in there."""
    columns = torch.cat([real.nonzero()[:, 0], len(real) + torch.arange(len(real))])  # of tokens, of merged tokens

    def place(kept: Tensor) -> Tensor:
        return torch.where(kept < 0, kept, columns.to(kept.device)[kept.clamp(min=0)])

    return replace(trace, kept={layer: place(kept) for layer, kept in trace.kept.items()})


def together(traces: Sequence[Trace]) -> Trace:
    """The traces of single rows as that of their batch."""
    assign = [trace.assign for trace in traces if trace.assign is not None]
    return Trace(
        kept=_stacked([trace.kept for trace in traces]),
        groups=_stacked([trace.groups for trace in traces]),
        entering=torch.cat([trace.entering for trace in traces]),
        images=[images for trace in traces for images in trace.images],
        schedules=[schedule for trace in traces for schedule in trace.schedules],
        assign=torch.cat(assign) if assign else None,
    )


def _stacked(single: Sequence[dict[int, Tensor]]) -> dict[int, Tensor]:
    """By layer, the first rows of all, padded with -1; those without the layer are padding alone."""
    stacked, none = {}, torch.zeros(0, dtype=torch.long)
    for layer in sorted(set[int]().union(*single)):
        rows = [of_one[layer][0].cpu() if layer in of_one else none for of_one in single]
        stacked[layer] = pad_sequence(rows, batch_first=True, padding_value=-1)
    return stacked
