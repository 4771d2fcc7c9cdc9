"""Control: vision tokens chosen by lot. A method that does not beat it has found nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.adaptinfer import AdaptInfer
from adaptinfer_eval.methods.layer import LayerMethod

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention


@dataclass(frozen=True, kw_only=True)
class Random(LayerMethod):
    """Random tokens at AdaptInfer's places and counts, so that only the choice differs.

    `seed` draws one order of the vision tokens; all samples and stages go by it, so answers do not depend on the batch.
    """

    seed: int = 0

    official: ClassVar = AdaptInfer.official
    queries: ClassVar = "none"

    def score(self, attention: Attention) -> Tensor:
        from adaptinfer_eval.methods.seen import draw_lots

        mask = attention.vision_mask
        return draw_lots(self.seed, mask.shape[1], mask.device).expand(mask.shape)
