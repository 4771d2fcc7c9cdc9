"""VisionZip: the tokens that the class token attends to most, and the others merged into a few contextual ones.

Yang et al., "VisionZip: Longer is Better but Not Necessary in Vision Language Models", CVPR 2025, arXiv 2412.04467.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images


@dataclass(frozen=True, kw_only=True)
class VisionZip(ImageMethod):
    """VisionZip (arXiv 2412.04467): of a budget N, 10 N / 64 tokens are contextual and the others dominant.

    192 is 162 dominant and 30 contextual tokens, 128 is 108 + 20, 64 is 54 + 10, as published; 32 is 27 + 5.
    Dominant are the class token, which goes in first, and the tokens with the largest attention from it in the layer
    that is read, in raster order. Of the n tokens left over, every (n / contextual)-th is a target; each of the rest
    joins the target with the most similar key (mean over heads). A contextual token is its target plus the mean of
    those that joined it: a sum of two, about twice as long as a token.

    Where a tower has no class token to give, all dominant tokens are the image's, rated by the mean attention on them.
    """

    source: ClassVar = "CVPR 2025, arXiv 2412.04467"
    licence: ClassVar = "Apache-2.0"

    makes: ClassVar = True

    def look(self, read: int, depth: int) -> Look:
        return Look(attention=[read], keys=[read])

    def select(self, images: Images, count: int) -> Selection:
        import torch

        from adaptinfer_eval.methods.seen import gather_tokens, highest

        tokens, hidden = images.tokens, images.hidden
        contextual = round(count * 10 / 64)
        dominant = count - contextual - (images.cls is not None)
        (attention,), (keys,) = images.attention.values(), images.keys.values()
        is_dominant = torch.zeros(hidden.shape[:2], dtype=torch.uint8, device=hidden.device)
        is_dominant.scatter_(1, highest(attention.sum(1), dominant), 1)
        in_order = is_dominant.argsort(dim=1, stable=True)  # the others, then the dominant, each in raster order
        others, chosen = in_order.tensor_split([tokens - dominant], 1)

        own_keys = keys[:, -tokens:].mean(2)
        made = _merge(gather_tokens(hidden, others), gather_tokens(own_keys, others), contextual)
        if images.cls is not None:
            made = torch.cat([images.cls[:, None], made], 1)
        numbers = torch.arange(tokens, tokens + made.shape[1], device=hidden.device).expand(len(hidden), -1)
        cls, merged = numbers.tensor_split([made.shape[1] - contextual], 1)
        return Selection(torch.cat([cls, chosen, merged], 1), images.project(made))


def _merge(hidden: Tensor, keys: Tensor, count: int) -> Tensor:
    """The contextual tokens, (I, count, C), of tokens `hidden` (I, n, C) with `keys` (I, n, head size)."""
    import torch

    from adaptinfer_eval.methods.seen import cosines

    if not count:
        return hidden[:, :0]
    step = max(hidden.shape[1] // count, 1)
    targets = slice(0, step * count, step)
    similarity = cosines(keys, keys[:, targets])
    joins = torch.zeros_like(similarity).scatter_(2, similarity.argmax(2, keepdim=True), 1)
    joins[:, targets] = 0
    joined = joins.sum(1)[..., None].clamp(min=1)
    return hidden[:, targets] + joins.transpose(1, 2) @ hidden / joined
