"""HiPrune: few tokens of objects with their neighbours, from the middle of the tower, and the best of its end.

Liu et al., "HiPrune: Training-Free Visual Token Pruning via Hierarchical Attention in Vision-Language Models", AAAI
2026, arXiv 2508.00553.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from adaptinfer_eval.methods.tower import Images

_OBJECT_LAYERS = {24: 8, 32: 15}
"""The authors': depth of the tower (CLIP's, Qwen2.5-VL's) → layer, numbered from 0 (they count from 1)."""


@dataclass(frozen=True, kw_only=True)
class HiPrune(ImageMethod):
    """HiPrune (arXiv 2508.00553): a token's rank is the mean attention that it gets of all rows, in two layers.

    A fiftieth of the budget are the best of the tower's object layer; the tokens beside, above and below them go on,
    too; the rest of the budget are the best of the layer that the model reads. `object_layer`: numbered from 0; by
    default the authors' for the tower's depth (8 of 24, 15 of 32), in towers of another depth the same share of it.

    As in the authors' code, tokens are neighbours in raster order: beyond the edge of a line is the end of the next.
    """

    source: ClassVar = "AAAI 2026, arXiv 2508.00553"
    licence: ClassVar = "MIT"

    object_layer: int | None = None

    def look(self, read: int, depth: int) -> Look:
        known = min(_OBJECT_LAYERS, key=lambda other: abs(other - depth))
        layer = round(_OBJECT_LAYERS[known] * depth / known) if self.object_layer is None else self.object_layer
        return Look(hidden=False, received=(layer, read))

    def select(self, images: Images, count: int) -> Selection:
        import torch

        from adaptinfer_eval.methods.seen import highest

        if images.grid is None:
            raise ValueError(f"{self.name} keeps neighbours, and the tokens of this model's images are no grid")
        asked = list(images.received.values())  # two, or one where the model reads the object layer
        middle, deep = asked[0].mean(1), asked[-1].mean(1)
        anchors = highest(middle, round(count * 0.1 / 5))
        columns = images.grid[-1]
        steps = (0, -1, 1, -columns, columns)
        objects = torch.cat([anchors + step for step in steps], 1).clamp(0, images.tokens - 1)
        ranks = deep.scatter(1, objects, inf)
        return Selection(highest(ranks, count).sort(dim=1).values)
