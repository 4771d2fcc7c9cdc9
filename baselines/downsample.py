"""Control: a coarser picture. Vision tokens on a uniform grid go into the language model, the others do not."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from adaptinfer_eval.methods.image import ImageMethod
from adaptinfer_eval.methods.tower import Images, Selection


@dataclass(frozen=True, kw_only=True)
class Downsample(ImageMethod):
    """Uniform spatial down-sampling before the language model: `budget` tokens per image, for every layer.

    The image's grid is crossed by evenly spaced rows, about as far apart as its columns, each with its share of evenly
    spaced columns: 64 of 24 × 24 is every third token in both directions. Frames of a video are one below the other.
    """

    def select(self, images: Images, count: int) -> Selection:
        from adaptinfer_eval.methods.seen import per_sample

        if images.grid is None:
            raise ValueError(f"{images.tokens} tokens are no grid: down-sampling needs rows and columns of tokens")
        chosen = per_sample(uniform(prod(images.grid[:-1]), images.grid[-1], count), images.projected.device)
        return Selection(chosen.T.expand(len(images.projected), -1))


def uniform(height: int, width: int, count: int) -> list[int]:
    """`count` places of a grid, evenly spaced in both directions."""
    rows = min(max(round((count * height / width) ** 0.5), -(-count // width)), height)
    chosen: list[int] = []
    for row, line in enumerate(_spread(rows, height)):
        columns = (row + 1) * count // rows - row * count // rows
        chosen += [line * width + column for column in _spread(columns, width)]
    return chosen


def _spread(count: int, length: int) -> list[int]:
    """`count` of `length` places, evenly spaced and centred."""
    return [int((i + 0.5) * length / count) for i in range(count)]
