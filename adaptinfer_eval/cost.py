"""What a method costs on paper: tokens and prefill FLOPs, from shapes alone. Plain numbers, no torch.

AdaptInfer (arXiv 2508.06084) Eq. 5: one decoder layer over n tokens, hidden size d, intermediate size m, takes
4nd² + 2n²d + 3ndm multiply-adds. The papers print these as "FLOPs"; a FLOP counter finds twice as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adaptinfer_eval.schedule import mean_count

if TYPE_CHECKING:
    from adaptinfer_eval.method import Method


@dataclass(frozen=True)
class Audit:
    """The cost of one prefill.

    `entering`, `leaving`: vision tokens per layer, mean over layers. `macs`: multiply-adds of all decoder layers by
    Eq. 5, what the papers call FLOPs. `flops` = 2 × macs. `schedule`: what the method does, `1:133,10:27,20:3`.
    """

    schedule: str
    entering: float
    leaving: float
    macs: float

    @property
    def flops(self) -> float:
        return 2 * self.macs


def prefill_macs(tokens_per_layer: Sequence[float], hidden_size: int, intermediate_size: int) -> float:
    """Multiply-adds of the decoder layers when `tokens_per_layer[i]` tokens (vision and text) enter layer i, Eq. 5.

    Attention is counted as the paper does, without the saving of causality; neither lm_head nor vision tower is in it.
    """
    d, m = hidden_size, intermediate_size
    return sum(4 * n * d * d + 2 * n * n * d + 3 * n * d * m for n in tokens_per_layer)


def audit(
    method: Method,
    *,
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    vision_tokens: int,
    text_tokens: int,
) -> Audit:
    """What `method` costs on a prompt of `vision_tokens` + `text_tokens` (all text, before and after the image).

    Raises ValueError where the method's budget or schedule does not fit the model.
    """
    entering = method.entering(num_layers, vision_tokens)
    return Audit(
        schedule=method.describe(num_layers, vision_tokens),
        entering=mean_count(entering, "entering"),
        leaving=mean_count(entering, "leaving"),
        macs=prefill_macs([n + text_tokens for n in entering], hidden_size, intermediate_size),
    )
