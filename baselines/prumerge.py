"""PruMerge: the tokens that the class token attends to most, with those like them and what is dropped merged in.

Shang et al., "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models", ICCV 2025,
arXiv 2403.15388.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, ClassVar, Literal

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.method import CostUnknown, Method
from adaptinfer_eval.methods.tower import Look, Selection

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.tower import Images

VARIANTS = ("plain", "plus")
_NEIGHBOURS = 32


@dataclass(frozen=True, kw_only=True)
class PruMerge(ImageMethod):
    """PruMerge (arXiv 2403.15388): tokens in descending attention, and one for all that are dropped.

    `budget`: so many rows, the last of them the one for the dropped; None: as the paper, as many tokens as stand out in
    an image (attention above the third quartile by 1.5 interquartile ranges) and the row for the dropped.
    `variant` "plus" (budget None): between those that stand out, tokens at even distances, about three times as many,
    as the authors' own runs have them. Their number is not to be chosen, so it takes no budget.

    Attention is that of the class token in the tower's last layer, all heads as one; the features are those that are
    read, in LLaVA a layer before. To each token kept, its 32 nearest by the last layer's keys, kept or dropped, are
    added, each times its attention; the last row is such a sum of all that are dropped. No sum is divided by its
    weights: in the authors' code that line is commented out.
    """

    source: ClassVar = "ICCV 2025, arXiv 2403.15388"
    licence: ClassVar = "Apache-2.0"

    budget: float | None  # type: ignore[assignment]
    variant: Literal["plain", "plus"] = "plain"

    makes: ClassVar = True

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant={self.variant!r}: PruMerge has {' and '.join(VARIANTS)}")
        if self.budget is not None:
            if self.variant == "plus":
                raise ValueError(
                    f"budget={self.budget}: PruMerge+ keeps as many tokens as an image asks for: budget=None"
                )
            super().__post_init__()
        else:
            Method.__post_init__(self)
            if (self.count, self.per) != ("leaving", "image"):
                raise ValueError("budget=None leaves nothing to count or to share: leave count and per out")

    @property
    def counts_itself(self) -> bool:
        return self.budget is None

    def image_budget(self, image_tokens: int) -> int:
        return image_tokens if self.budget is None else super().image_budget(image_tokens)  # as many, or fewer

    def entering(self, num_layers: int, vision_tokens: int, images: int = 1) -> list[int]:
        if self.budget is None:
            raise CostUnknown("how many tokens PruMerge keeps without a budget depends on the image: it is measured")
        return super().entering(num_layers, vision_tokens, images)

    def describe(self, num_layers: int, vision_tokens: int, images: int = 1) -> str:
        return "before:adaptive" if self.budget is None else super().describe(num_layers, vision_tokens, images)

    def look(self, read: int, depth: int) -> Look:
        return Look(keys=[depth - 1], queries=[depth - 1])

    def select(self, images: Images, count: int | None) -> Selection:
        import torch
        from torch.nn.functional import pad

        from adaptinfer_eval.methods.seen import cosines, gather_tokens, highest

        tokens, hidden = images.tokens, images.hidden
        (queries,), (keys,) = images.queries.values(), images.keys.values()
        keys = keys.flatten(2)
        match = (keys * queries.flatten(1)[:, None]).sum(2)  # a product of matrices rounds otherwise in a batch
        attention = (match * keys.shape[2] ** -0.5).softmax(1)[:, -tokens:]
        if self.budget is None:
            kept = self._outstanding(attention)
        else:
            assert count is not None
            kept = highest(attention, count - 1)

        keys = keys[:, -tokens:]
        similarity = cosines(gather_tokens(keys, kept), keys)
        similarity.scatter_(2, kept[..., None], -inf)  # no token is its own neighbour
        nearest = similarity.argsort(dim=2, descending=True, stable=True)[..., : min(_NEIGHBOURS, tokens - 1)]
        dropped = torch.ones_like(attention).scatter_(1, kept, 0)
        added = torch.cat([torch.zeros_like(similarity).scatter_(2, nearest, 1), dropped[:, None]], 1)
        rows = added @ (attention[..., None] * hidden)
        rows[:, :-1] += gather_tokens(hidden, kept)
        return Selection(pad(kept, (0, 1), value=tokens), rows=images.project(rows))

    def _outstanding(self, attention: Tensor) -> Tensor:
        """Tokens of one image, (1, n), that stand out by their attention (1, N), and with "plus" those between them."""
        import torch

        from adaptinfer_eval.methods.seen import highest

        tokens = attention.shape[1]
        first, third = attention.quantile(0.25), attention.quantile(0.75)
        count = int((attention > third + 1.5 * (third - first)).sum())
        kept = highest(attention, count)
        if self.variant == "plain":
            return kept
        if not count:
            raise ValueError("no token of the image stands out, and PruMerge+ has nothing to go by: use variant=plain")
        spaced = torch.arange(0, tokens - 1, int(1 / (count / tokens)) // 3, device=kept.device)
        return torch.cat([kept, spaced[~torch.isin(spaced, kept)][None]], 1)
