"""FasterVLM: the vision tower's class token says which patches count.

Zhang et al., "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster", 2024,
arXiv 2412.01818v1 (its second version is VisPruner).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Images, Look, Selection


@dataclass(frozen=True, kw_only=True)
class FasterVLM(ImageMethod):
    """Keeps the tokens that receive most of the class token's attention, mean over heads, in their order.

    The attention is that of the layer whose output the projector reads. Towers without a class token: the mean over all
    rows, which the paper does not evaluate.
    """

    source: ClassVar = "arXiv 2412.01818v1"
    licence: ClassVar = "Apache-2.0"

    def look(self, read: int, depth: int) -> Look:
        return Look(hidden=False, attention=(read,))

    def select(self, images: Images, count: int) -> Selection:
        from adaptinfer_eval.methods.seen import highest

        (attention,) = images.attention.values()
        return Selection(highest(attention.mean(1), count).sort(1).values)
