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
    `variant` "plus": and tokens at even distances. Without a budget about three times as many as stand out, as the
    authors' own runs have them; with one, as many as by attention, as in their training: 65, 129 or 145 of 576 tokens,
    since not every number of places is even. Those that were kept already are there twice then, as in their code, which
    leaves as many of the first dropped tokens out.

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

    def check(self, image_tokens: int, budget: int) -> None:
        number = budget // 2
        if self.variant == "plus" and not (budget % 2 and number and len(_spaced(number, image_tokens)) == number):
            can = [2 * n + 1 for n in range(1, image_tokens // 2) if len(_spaced(n, image_tokens)) == n]
            near = sorted(sorted(can, key=lambda other: abs(other - budget))[:3])
            raise ValueError(
                f"budget={budget}: PruMerge+ has no even distances for it in an image of {image_tokens} tokens: "
                f"{' and '.join(map(str, near))} are near, or budget=None"
            )

    def look(self, read: int, depth: int) -> Look:
        return Look(keys=[depth - 1], queries=[depth - 1])

    def select(self, images: Images, count: int) -> Selection:
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
        elif self.variant == "plain":
            kept = highest(attention, count - 1)
        else:
            spaced = torch.tensor(_spaced(count // 2, tokens), device=attention.device)
            kept = torch.cat([highest(attention, count // 2), spaced.expand(len(attention), -1)], 1)

        # As many as there are tokens: those kept, first, and behind them those dropped.
        left = torch.ones_like(attention).scatter_(1, kept, 0).argsort(dim=1, stable=True)[:, kept.shape[1] :]
        every, number = torch.cat([kept, left], 1), kept.shape[1]
        keys, hidden = gather_tokens(keys[:, -tokens:], every), gather_tokens(hidden, every)
        similarity = cosines(keys[:, :number], keys)
        similarity.diagonal(dim1=1, dim2=2).fill_(-inf)  # no token is its own neighbour
        nearest = similarity.argsort(dim=2, descending=True, stable=True)[..., : min(_NEIGHBOURS, tokens - 1)]
        dropped = (torch.arange(tokens, device=every.device) >= number).expand_as(every).float()
        added = torch.cat([torch.zeros_like(similarity).scatter_(2, nearest, 1), dropped[:, None]], 1)
        rows = added @ (attention.gather(1, every)[..., None] * hidden)
        rows[:, :-1] += hidden[:, :number]
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


def _spaced(number: int, tokens: int) -> range:
    """Places at even distances, `number` of them where that comes out even."""
    step = tokens // number
    return range(step // 2, tokens - 1, step)
