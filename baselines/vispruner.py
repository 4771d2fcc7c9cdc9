"""VisPruner: half of the tokens by the class token's attention, the other half by dropping what looks alike.

Zhang et al., "Beyond Text-Visual Attention: Exploiting Visual Cues for Effective Token Pruning in VLMs", ICCV 2025,
arXiv 2412.01818.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images

_PER_ROUND = 8


@dataclass(frozen=True, kw_only=True)
class VisPruner(ImageMethod):
    """VisPruner (arXiv 2412.01818): important tokens, and diverse ones among the others; all in raster order.

    `important_ratio`: share of the budget that goes to the tokens with the largest attention from the class token
    (mean over heads, layer that is read); 0.5, and 0.75 in the authors' command for 64 tokens; 1 is FasterVLM. The
    others stand in a list, the highest attention first. In each round, every second token of it, the first included,
    is held to those between; the 8 that are most similar to one of them are dropped; what is left of the former goes
    on in descending similarity, then the latter. So the choice hangs on the order of all attentions and similarities,
    and rounding in the tower changes some of it.

    A list of odd length, where the authors' code ends with an error, is split with one more in the first part.
    """

    source: ClassVar = "ICCV 2025, arXiv 2412.01818"
    licence: ClassVar = "Apache-2.0"

    important_ratio: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.important_ratio <= 1:
            raise ValueError(f"important_ratio={self.important_ratio}: a share of the budget is between 0 and 1")

    def look(self, read: int, depth: int) -> Look:
        return Look(attention=[read])

    def select(self, images: Images, count: int) -> Selection:
        import torch

        from adaptinfer_eval.methods.seen import cosines, highest

        (attention,) = images.attention.values()
        number = int(count * self.important_ratio)
        important, others = highest(attention.mean(1), images.tokens).tensor_split([number], 1)
        diverse = _unlike(cosines(images.hidden), others, count - number)
        return Selection(torch.cat([important, diverse], 1).sort(1).values)


def _unlike(similarity: Tensor, tokens: Tensor, count: int) -> Tensor:
    """`count` of `tokens` (I, n) that are little alike, by the `similarity` (I, N, N) of all."""
    import torch

    if not count:
        return tokens[:, :0]
    image = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    while (excess := tokens.shape[1] - count) > 0:
        first, second = tokens[:, ::2], tokens[:, 1::2]
        nearest = similarity[image, first[:, :, None], second[:, None]].amax(2)
        order = nearest.argsort(dim=1, descending=True, stable=True)
        tokens = torch.cat([first.gather(1, order[:, min(_PER_ROUND, excess) :]), second], 1)
    return tokens
