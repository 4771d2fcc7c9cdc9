"""Control: foreground chosen by lot. A method that does not beat it has found things, but not those that matter."""

from __future__ import annotations

from dataclasses import dataclass
from math import nan
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.adaptinfer import AdaptInfer
from adaptinfer_eval.methods.layer import LayerMethod

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention, Embeddings


@dataclass(frozen=True, kw_only=True)
class Foreground(LayerMethod):
    """Random tokens of the foreground, then of the rest, at AdaptInfer's places and counts; the question is not read.

    Foreground is what looks unlike most of the image: tokens whose embedding, cut to the mean length if it is longer,
    is far from the image's typical one (the median in each dimension), where two means part near from far. `seed`
    draws one order of the vision tokens; all samples and stages go by it, so answers do not depend on the batch.
    """

    seed: int = 0

    official: ClassVar = AdaptInfer.official
    queries: ClassVar = "none"

    def prepare(self, embeddings: Embeddings) -> Tensor:
        """The order in which tokens are kept, (B, V): the lot of each, below 0 outside the foreground."""
        from adaptinfer_eval.methods.seen import draw_lots

        mask = embeddings.vision_mask
        lots = draw_lots(self.seed, mask.shape[1], mask.device)
        return lots - (~foreground(embeddings.vision, mask)).float()

    def score(self, attention: Attention) -> Tensor:
        assert attention.prepared is not None
        return attention.prepared.gather(1, attention.numbers())


def foreground(vision: Tensor, mask: Tensor) -> Tensor:
    """Which tokens of `vision` (B, V, D) are unlike the rest, (B, V) bool; `mask` (B, V) is False on padding."""
    from torch.linalg import vector_norm

    tokens = vision.float().masked_fill(~mask[..., None], nan)
    length = vector_norm(tokens, dim=2, keepdim=True)
    # Projectors make some tokens many times longer than others; length alone is no difference in what is seen.
    tokens = tokens * (length.nanmean(1, keepdim=True) / length).clamp(max=1)
    distance: Tensor = vector_norm(tokens - tokens.nanmedian(1, keepdim=True).values, dim=2)
    return distance > _middle(distance)  # never on padding: its distance is NaN


def _middle(distance: Tensor) -> Tensor:
    """Where near ends and far begins, (B, 1): two means, found from the mean of all (Ridler and Calvard, 1978)."""
    middle = distance.nanmean(1, keepdim=True)
    for _ in range(10):
        near, far = (distance.where(side, nan) for side in (distance <= middle, distance > middle))
        middle = (near.nanmean(1, keepdim=True) + far.nanmean(1, keepdim=True)) / 2
    return middle
