"""FitPrune: after nearly every layer, vision tokens go that neither text nor vision tokens look at.

Ye et al., "Fit and Prune: Fast and Training-free Visual Token Pruning for Multi-modal Large Language Models",
AAAI 2025, arXiv 2409.10197.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.budget import OnDemand, given_layers
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention

DEPTH, TOKENS = 32, 576
_DELETED = {
    60: (14, 33, 89, 36, 36, 20, 55, 21, 18, 4, 7, 5, 2, 5, 7, 4, 26, 5, 11, 24, 4, 18, 2, 1, 0, 0, 1, 0, 1),
    70: (48, 79, 118, 41, 33, 17, 36, 9, 9, 2, 3, 2, 1, 3, 4, 8, 18, 7, 8, 20, 4, 13, 2, 1, 0, 0, 1, 0, 1),
    80: (128, 127, 118, 35, 26, 8, 13, 3, 2, 1, 0, 0, 0, 2, 1, 8, 7, 8, 5, 11, 2, 6, 1, 1, 0, 0, 0, 1, 0),
    90: (262, 153, 80, 19, 13, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 1, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0),
}
"""The authors' tables for LLaVA-1.5-7B: by the percentage of FLOPs saved, tokens deleted in each layer."""
_LEFT = {reduction: [TOKENS - gone for gone in accumulate(table)] for reduction, table in _DELETED.items()}
_CURVES = [[0] * len(_LEFT[90]), *(_LEFT[reduction] for reduction in (90, 80, 70, 60)), [TOKENS] * len(_LEFT[60])]
"""Tokens left after each layer, from none to all."""


@dataclass(frozen=True, kw_only=True)
class FitPrune(LayerMethod):
    """FitPrune (arXiv 2409.10197): drops the tokens with the smallest product of attention from text and from vision.

    A token's two sums are over the rows of the text after the image and over those of the vision tokens, of the largest
    head in each row and column. Kept tokens keep their positions. The authors' code (Apache-2.0) deletes behind a
    layer's attention, in front of its MLP; the same tokens go here behind the MLP, with the same result.

    `reduction=60|70|80|90`: the authors' tables, made for 576 tokens and 32 layers; entering 245.0, 187.9, 130.6, 72.8
    and leaving 230.9, 172.6, 114.5, 56.0 on average. They are shares of a prompt's tokens here. A budget takes what
    lies between two tables, or beyond them, in proportion, stretched over other depths; that is ours.
    `adaptinfer-eval calibrate fitprune` makes such a schedule for a model of one's own. There the paper and the code
    delete the tokens that both sums can spare; in use the code takes the product, and so do we.
    """

    source: ClassVar = "AAAI 2025, arXiv 2409.10197"
    licence: ClassVar = "Apache-2.0"

    reduction: int | None = None

    official: ClassVar = {}  # tables for shares of FLOPs are published, not for mean budgets
    named_schedules: ClassVar = {
        str(reduction): str(Schedule(Stage(*s) for s in enumerate(left) if _DELETED[reduction][s[0]]).in_shares(TOKENS))
        for reduction, left in _LEFT.items()
    }
    instead_of_budget: ClassVar = ("schedule", "reduction")
    positions: ClassVar = "keep"
    queries: ClassVar = "all"

    def __post_init__(self) -> None:
        if self.reduction is not None:
            if self.reduction not in _DELETED:
                raise ValueError(
                    f"reduction={self.reduction!r}: FitPrune has tables for {', '.join(map(str, _DELETED))}"
                )
            table = self.named_schedules[str(int(self.reduction))]
            if self.budget is not None or self.schedule not in (None, table):
                raise ValueError("FitPrune needs one of budget=64, reduction=90 and schedule='0:314,…', not two")
            object.__setattr__(self, "schedule", table)
        super().__post_init__()

    def plan(self, num_layers: int, vision_tokens: int, images: int = 1) -> Schedule:
        if self.reduction is not None and num_layers != DEPTH:
            raise ValueError(
                f"reduction={self.reduction}: FitPrune's tables are for {DEPTH} layers, and the model has {num_layers}"
                ": give a budget, or make a schedule with adaptinfer-eval calibrate fitprune"
            )
        return super().plan(num_layers, vision_tokens, images)

    def candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        layers, steps = self.stage_layers(num_layers), max(vision_tokens, 1)

        def between(number: int) -> Schedule:
            lower, part = divmod(number, steps)
            curves = _CURVES[lower], _CURVES[min(lower + 1, len(_CURVES) - 1)]

            def keep(layer: int) -> int:
                few, more = (_after(curve, (layer + 1) * DEPTH / num_layers - 1) for curve in curves)
                return int(vision_tokens * (few + (more - few) * part / steps) / TOKENS + 0.5)

            return Schedule(Stage(layer, keep(layer)) for layer in layers)

        return OnDemand((len(_CURVES) - 1) * steps + 1, between)

    def stage_layers(self, num_layers: int) -> list[int]:
        if self.layers is not None:
            return given_layers(self.layers)
        deleting = {layer for table in _DELETED.values() for layer, count in enumerate(table) if count}
        scaled = {ceil((layer + 1) * num_layers / DEPTH) - 1 for layer in deleting}
        return sorted(layer for layer in scaled if layer <= num_layers - 2)

    def score(self, attention: Attention) -> Tensor:
        """Attention from the text times attention from the vision tokens."""
        from_text, from_vision = self.sums(attention)
        return from_text * from_vision

    def sums(self, attention: Attention) -> tuple[Tensor, Tensor]:
        """What each vision token gets from the text and from the vision tokens, of the largest head, both (B, V)."""
        import torch

        parts = [rows.amax(1).sum(1) for rows in attention.among_vision()]
        return attention.to_vision.amax(1).sum(1), torch.stack(parts).sum(0)


def _after(curve: Sequence[int], layer: float) -> float:
    """Tokens left after `layer` (-1: before the first), between two layers in proportion."""
    left = [TOKENS, *curve]
    place = min(layer + 1, len(left) - 1)
    low = min(int(place), len(left) - 2)
    return left[low] + (left[low + 1] - left[low]) * (place - low)
