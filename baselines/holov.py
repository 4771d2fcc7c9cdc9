"""HoloV: every part of the image gets a share of the budget, and spends it on what the class token attends to.

Zou et al., "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic Context Retention",
NeurIPS 2025, arXiv 2510.02912.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images


@dataclass(frozen=True, kw_only=True)
class HoloV(ImageMethod):
    """HoloV (arXiv 2510.02912): shares of `crops` runs of tokens, by their mean score; in each, the highest attention.

    `crops`: 16, as in the authors' code for LLaVA; None: as in theirs for Qwen, 1024 / 576 tokens per token kept, which
    is 16, 8 and 5 crops for 64, 128 and 192 of 576 tokens. An image of fewer tokens has that many crops.

    A token's score is its attention from the class token (mean over heads, layer that is read) plus 0.09 times the
    variance of its cosines with the crop's other tokens, brought to the same mean as the attention. So similarity has
    no say, as the formula stands: the mean score of a crop is 1.09 times its mean attention, whatever the features are.
    A crop is no window of the image but a run of tokens in raster order, 36 of 576. Tokens go in crop by crop, each in
    descending attention. A share larger than its crop is not passed on: rows of zeros stand for it, after all tokens.
    """

    source: ClassVar = "NeurIPS 2025, arXiv 2510.02912"
    licence: ClassVar = "Apache-2.0"

    crops: int | None = 16

    makes: ClassVar = True  # rows of zeros, where a crop is too short for its share

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crops is not None and self.crops < 1:
            raise ValueError(f"crops={self.crops}: an image has at least one crop")

    def look(self, read: int, depth: int) -> Look:
        return Look(hidden=False, attention=[read])

    def select(self, images: Images, count: int) -> Selection:
        import torch

        tokens, device = images.tokens, images.projected.device
        crops = min(self.crops or max(int(1024 / 576 * tokens / count), 1), tokens)
        size, longer = divmod(tokens, crops)  # so many crops are longer by one
        crop = torch.arange(crops, device=device)
        sizes, starts = size + (crop < longer).long(), crop * size + crop.clamp(max=longer)
        place = torch.arange(size + (longer > 0), device=device)
        inside = place < sizes[:, None]  # (crops, places): the others are padding
        token = (starts[:, None] + place).clamp(max=tokens - 1)

        (attention,) = images.attention.values()
        attention = attention.mean(1)[:, token].masked_fill(~inside, 0)  # (I, crops, places)
        share = _scores(attention, images.projected[:, token], inside)
        share = share / (share.sum(1, keepdim=True) + 1e-6)
        quota = (share * count).long()
        quota += _ranks(share) < count - quota.sum(1, keepdim=True)

        rank = _ranks(attention.masked_fill(~inside, -inf))
        rank = torch.where((quota < sizes)[..., None], rank, place)  # a whole crop stays in raster order
        taken = quota.minimum(sizes)
        slot = (taken.cumsum(1) - taken)[..., None] + rank
        slot = torch.where(rank < taken[..., None], slot, count)
        index = tokens + torch.arange(count + 1, device=device) - taken.sum(1, keepdim=True)  # zeros where no token is
        index = index.scatter(1, slot.flatten(1), token.expand_as(slot).flatten(1))[:, :count]
        return Selection(index, images.projected.new_zeros(()).expand(len(index), count, images.projected.shape[2]))


def _scores(attention: Tensor, features: Tensor, inside: Tensor) -> Tensor:
    """Mean score of the tokens of each crop, (I, crops); `attention` (I, crops, places), `features` (…, places, D)."""
    import torch

    from adaptinfer_eval.methods.seen import cosines

    sizes, others = inside.sum(1), (inside.sum(1, keepdim=True) - 1).clamp(min=1)
    both = inside[:, None] & inside[..., None]
    cosine = cosines(features).masked_fill(~both, 0)
    cosine.diagonal(dim1=2, dim2=3).zero_()
    mean = cosine.sum(3, keepdim=True) / others[..., None]
    variance = (cosine - mean).square().masked_fill(~both, 0).sum(3) / others

    scaled = 1000 * attention
    scale = (scaled.sum(2) / sizes) / (variance.sum(2) / sizes + 1e-6)
    score = (scaled + 0.09 * scale[..., None] * variance).sum(2) / sizes
    return torch.where(sizes > 1, score, attention.sum(2))  # a token alone has no variance, and is not scaled


def _ranks(scores: Tensor) -> Tensor:
    """The place of each score among the last dimension's, the highest first; of equal ones, in their order."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(-1)
