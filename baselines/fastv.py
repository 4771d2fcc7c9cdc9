"""FastV: after K layers, keep the vision tokens that the prompt's last token attends to most.

Chen et al., "An Image is Worth 1/2 Tokens After Layer 2: Plug-and-Play Inference Acceleration for Large
Vision-Language Models", ECCV 2024, arXiv 2403.06764. As in the authors' version with a key-value cache: one pruning,
in prefill; kept tokens keep their positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.budget import OnDemand
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Schedule, Stage

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention


@dataclass(frozen=True, kw_only=True)
class FastV(LayerMethod):
    """FastV (arXiv 2403.06764): one stage after layer K - 1, ranked by the last token's attention there.

    `k`: number of layers that compute all vision tokens.
    """

    source: ClassVar = "ECCV 2024, arXiv 2403.06764"
    licence: ClassVar = "none"

    k: int = 2

    official: ClassVar = {}  # the authors give K and a ratio, no schedules for a mean budget
    positions: ClassVar = "keep"
    queries: ClassVar = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"k={self.k}: FastV ranks by the attention of layer K - 1, so K is at least 1")
        if self.layers is not None:
            raise ValueError("FastV prunes once, after layer K - 1: give k= instead of layers=")

    def candidates(self, num_layers: int, vision_tokens: int) -> Sequence[Schedule]:
        return OnDemand(vision_tokens + 1, lambda keep: Schedule([Stage(self.k - 1, keep)]))

    def starting_after(self, layer: int, num_layers: int) -> FastV:
        return replace(self, k=layer + 1)

    def score(self, attention: Attention) -> Tensor:
        """Mean over heads of the last token's attention."""
        return attention.to_vision[:, :, -1].mean(1)
