"""What happened to the vision tokens in the last prefill."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Trace:
    """Filled anew by every prefill inside a `pruned` block.

    `kept[layer]` (B, k), for every layer that a stage follows: indices in the original sequence (columns of the
    input, padding counted) of the vision tokens that go on after `layer`, in sequence order; merged tokens are
    numbered L, L+1, … as they are made; -1 pads unequal rows. What is left of tokens that a method drops before the
    language model: `kept[-1]`.
    `entering` (B, layers), on the CPU: vision tokens that enter each layer.
    `assign` (images, 1 + tokens): the row of the vision tower's output that each of its tokens was merged into
    (row 0 = CLS); None where the tower is left alone.
    """

    kept: dict[int, Tensor] = field(default_factory=dict)
    entering: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))
    assign: Tensor | None = None
