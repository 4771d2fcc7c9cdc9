"""Control: a coarser picture. Vision tokens on a uniform grid go into the language model, the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adaptinfer_eval.methods.image import ImageMethod


@dataclass(frozen=True, kw_only=True)
class Downsample(ImageMethod):
    """Uniform spatial down-sampling before the language model: `budget` tokens per image, for every layer.

    The image's square grid is crossed by about √budget evenly spaced rows, each with its share of evenly spaced
    columns: 64 of 24 × 24 is every third token in both directions.
    """

    def select(self, image_tokens: int) -> Sequence[int]:
        side = round(image_tokens**0.5)
        if side * side != image_tokens:
            raise ValueError(f"{image_tokens} tokens are no square grid: down-sampling needs a square image")
        budget = self.image_budget(image_tokens)
        rows = min(round(budget**0.5), side)
        chosen: list[int] = []
        for row, line in enumerate(_spread(rows, side)):
            columns = (row + 1) * budget // rows - row * budget // rows
            chosen += [line * side + column for column in _spread(columns, side)]
        return chosen


def _spread(count: int, length: int) -> list[int]:
    """`count` of `length` places, evenly spaced and centred."""
    return [int((i + 0.5) * length / count) for i in range(count)]
