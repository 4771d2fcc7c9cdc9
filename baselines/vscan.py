"""VScan: in the vision tower what is seen locally and globally, others merged into it; then what the question looks at.

Zhang et al., "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models", TMLR 2026,
arXiv 2505.22654.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import TYPE_CHECKING, ClassVar

from adaptinfer_eval.methods.budget import scale_layers
from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.layer import LayerMethod
from adaptinfer_eval.methods.schedule import Count, ShareOfCurrent, check_budget, check_counting, is_share
from adaptinfer_eval.methods.tower import Look, Selection
from adaptinfer_eval.methods.two_places import TwoPlaceMethod

if TYPE_CHECKING:
    from torch import Tensor

    from adaptinfer_eval.methods.seen import Attention
    from adaptinfer_eval.methods.tower import Images

_WINDOW = 6


@dataclass(frozen=True, kw_only=True)
class VScan(TwoPlaceMethod):
    """VScan (arXiv 2505.22654): 1.5 × `budget` tokens go into the decoder; after half of its layers, a third goes on.

    That is `budget` entering layers on average, which the paper counts and this method by default; `count="leaving"`
    lets as many more in as make it so. The stage sits after layer 15 of 32, elsewhere at the same relative depth.
    `schedule`: explicit instead, `before:96,15:32`; without `before`, all tokens go in.
    """

    source: ClassVar = "TMLR 2026, arXiv 2505.22654"
    licence: ClassVar = "MIT"

    schedule: str | None = None
    count: Count = "entering"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.budget is None) == (self.schedule is None):
            raise ValueError(f"{self.name} needs either budget=64 or schedule='before:96,15:32', not both")
        check_counting(self.count, self.per)
        if self.budget is not None:
            check_budget(self.budget, self.per)
            return
        for option in ("count", "per"):
            if getattr(self, option) != getattr(type(self), option):
                raise ValueError(f"{option}= goes with budget=; a schedule says itself how many tokens go on")
        before, inside = self.before(0), self.inside(0)
        stages = ([f"before:{before.budget:g}"] if before else []) + [str(inside.schedule)]
        object.__setattr__(self, "schedule", ",".join(stages))  # one spelling, so that equal methods are equal

    def before(self, num_layers: int) -> Encoding | None:
        if self.schedule is not None:
            number, _ = _split(self.schedule)
            return Encoding(budget=float(number), per="prompt") if number else None
        assert self.budget is not None
        layers = self._stage(num_layers) + (self.count == "entering")  # that count what went in
        going_in = 3 * self.budget * num_layers / (2 * layers + num_layers)
        if not is_share(self.budget):
            return Encoding(budget=int(going_in + 0.5), per=self.per)
        if not is_share(going_in):
            raise ValueError(
                f"budget={self.budget}: {self.name} lets {going_in:.3g} times as many tokens in as there are"
            )
        return Encoding(budget=going_in)

    def inside(self, num_layers: int) -> Decoding:
        if self.schedule is None:
            return Decoding(schedule=f"{self._stage(num_layers)}:{1 / 3}")
        return Decoding(schedule=_split(self.schedule)[1])

    @staticmethod
    def _stage(num_layers: int) -> int:
        return scale_layers((15,), 32, num_layers)[0]


def _split(schedule: str) -> tuple[str, str]:
    """`before:96,15:32` → 96 and 15:32; the first is empty where there is no `before`."""
    first, _, rest = schedule.partition(",")
    place, _, number = first.strip().partition(":")
    return (number, rest) if place == "before" else ("", schedule)


@dataclass(frozen=True, kw_only=True)
class Encoding(ImageMethod):
    """Before the decoder. Half of the tokens are the best of each window of 6 × 6, by layer 5 of 24; the rest are the
    best of the others, by the layer that the model reads: by the class token's attention, or all rows' mean.

    Every other token, as projected, is merged into the one most like it (cosine), which becomes their mean. Windows
    have as many tokens each, rounded down; what that leaves over is chosen with the rest (in the authors' code it is
    lost: their counts have none). At the edge of a grid that is no multiple of 6, windows are smaller.
    """

    @property
    def name(self) -> str:
        return VScan.__name__

    def look(self, read: int, depth: int) -> Look:
        return Look(hidden=False, attention=(min(scale_layers((5,), 24, depth)[0], read), read))

    def select(self, images: Images, count: int) -> Selection:
        import torch

        from adaptinfer_eval.methods.seen import cosines, gather_tokens, highest

        if images.grid is None:
            raise ValueError(
                f"{self.name} chooses in windows of an image, and its tokens are no grid of rows and columns"
            )
        shallow, deep = (images.attention[layer].mean(1) for layer in (min(images.attention), max(images.attention)))
        ranks = deep.masked_fill(_best_of_windows(shallow, images.grid, count // 2), inf)
        order = highest(ranks, images.tokens)
        kept, others = (part.sort(dim=1).values for part in (order[:, :count], order[:, count:]))
        tokens, gone = gather_tokens(images.projected, kept), gather_tokens(images.projected, others)
        into = cosines(gone, tokens).argmax(2)
        member = (into[:, None] == torch.arange(count, device=into.device)[:, None]).double()
        # In double precision: products of matrices round differently in a batch than alone.
        return Selection(kept, rows=((tokens + member @ gone.double()) / (1 + member.sum(2, keepdim=True))).float())


def _best_of_windows(scores: Tensor, grid: tuple[int, ...], count: int) -> Tensor:
    """The best of each window, as many of each and `count` at most in all: (I, N) → (I, N) bool."""
    from torch.nn import functional as F

    *_, rows, columns = grid  # each frame of a video has windows of its own
    down, across = ceil(rows / _WINDOW), ceil(columns / _WINDOW)
    padded = F.pad(
        scores.view(-1, rows, columns), (0, across * _WINDOW - columns, 0, down * _WINDOW - rows), value=-inf
    )
    windows = padded.view(-1, down, _WINDOW, across, _WINDOW).transpose(2, 3).flatten(3)
    rank = windows.argsort(dim=3, descending=True, stable=True).argsort(dim=3)
    best = rank < count // (down * across * (scores.shape[1] // (rows * columns)))
    whole = best.view(-1, down, across, _WINDOW, _WINDOW).transpose(2, 3).reshape(-1, down * _WINDOW, across * _WINDOW)
    return whole[:, :rows, :columns].reshape(scores.shape)


@dataclass(frozen=True, kw_only=True)
class Decoding(LayerMethod):
    """In the decoder, as PyramidDrop: by what the prompt's last token attends to in the layer that is about to run."""

    official: ClassVar = {}
    queries: ClassVar = "last"
    looks_ahead: ClassVar = True

    @property
    def name(self) -> str:
        return VScan.__name__

    def keep_count(self, keep: int | float, vision_tokens: int, current: int) -> int:
        """A third is rounded, for the budget's sake."""
        if isinstance(keep, float) and not isinstance(keep, ShareOfCurrent):
            return min(int(vision_tokens * keep + 0.5), current)
        return super().keep_count(keep, vision_tokens, current)

    def score(self, attention: Attention) -> Tensor:
        """Mean over heads of the last token's attention."""
        return attention.to_vision[:, :, -1].mean(1)
