"""SCOPE: tokens that together cover the image best, what the class token attends to before the rest.

Deng et al., "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodal LLMs", NeurIPS 2025,
arXiv 2510.24214.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from adaptinfer_eval.methods.tower import Images


@dataclass(frozen=True, kw_only=True)
class Scope(ImageMethod):
    """SCOPE: facility location on the features that are read, weighted by attention; tokens go in in raster order.

    A token is covered as well as its cosine with the most similar of those chosen (at least 0). Each step chooses the
    token that adds most to the coverage of all, times its attention from the class token (sum over heads, layer that
    is read): the authors' COMBINED=multi with ALPHA=1, their defaults. Their code shares the budget among the images of
    a batch; here every image has its own.
    """

    source: ClassVar = "NeurIPS 2025, arXiv 2510.24214"
    licence: ClassVar = "none"

    def look(self, read: int, depth: int) -> Look:
        return Look(attention=[read])

    def select(self, images: Images, count: int) -> Selection:
        from adaptinfer_eval.methods.cover import cover
        from adaptinfer_eval.methods.seen import cosines

        (attention,) = images.attention.values()
        chosen = cover(cosines(images.hidden), count, attention.sum(1))
        return Selection(chosen.sort(1).values)
