"""DivPrune: the tokens that differ most from each other.

Alvar et al., "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models", CVPR 2025, arXiv 2503.02175.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Images, Selection

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class DivPrune(ImageMethod):
    """Keeps tokens, as the projector makes them, whose smallest distance to each other is large (max-min diversity).

    Distance is 1 - cosine. The first is the token that is farthest from its nearest neighbour, then always the one
    that is farthest from those chosen. `sort`: they go in as they stand in the image, as in the authors' code; else in
    the order in which they were chosen. The authors' code takes cosines in the model's type, this in float32.
    """

    source: ClassVar = "CVPR 2025, arXiv 2503.02175"
    licence: ClassVar = "CC-BY-NC-4.0"

    sort: bool = True

    def select(self, images: Images, count: int) -> Selection:
        chosen = most_diverse(images.projected, count)
        return Selection(chosen.sort(1).values if self.sort else chosen)


def most_diverse(tokens: Tensor, count: int) -> Tensor:
    """Greedy max-min choice of `count` of `tokens` (I, N, D), in the order of choice: (I, count)."""
    import torch

    from adaptinfer_eval.methods.seen import cosines

    distance = 1 - cosines(tokens)
    images, length = distance.shape[:2]
    if length == 1:
        return tokens.new_zeros(images, 1, dtype=torch.long)
    # Of each column the smallest but one: the smallest is the token itself.
    best = distance.topk(2, dim=1, largest=False).values[:, 1].argmax(1, keepdim=True)
    chosen = [best]
    nearest = tokens.new_full((images, length), torch.inf)
    for _ in range(count - 1):
        nearest = nearest.minimum(distance.gather(1, best[..., None].expand(-1, 1, length))[:, 0])
        nearest = nearest.scatter(1, best, -torch.inf)
        best = nearest.argmax(1, keepdim=True)
        chosen.append(best)
    return torch.cat(chosen, 1)
