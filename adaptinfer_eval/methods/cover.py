"""Choosing tokens that cover others: greedy facility location, all images at once."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cover(matches: Tensor, count: int, weights: Tensor | None = None) -> Tensor:
    """The `count` tokens that best cover what is to be covered, (I, count), in the order in which they are chosen.

    `matches` (I, N, R): how well each of N tokens covers each of R things. A thing is covered as well as by the best of
    the chosen tokens, and by 0 at first. Each step takes the token that adds most to the sum over all things, times its
    weight (`weights` (I, N)); of equal ones the first. Sums are in float64, so that things that nothing covers, such as
    padding, change none.
    """
    import torch

    covered = matches.new_zeros(len(matches), 1, matches.shape[2])
    taken = torch.zeros(matches.shape[:2], dtype=torch.bool, device=matches.device)
    order = []
    for _ in range(count):
        gains = (matches - covered).clamp_(min=0).sum(2, dtype=torch.float64)
        if weights is not None:
            gains *= weights
        best = gains.masked_fill_(taken, -inf).argmax(1, keepdim=True)
        taken.scatter_(1, best, True)
        covered = covered.maximum(matches.take_along_dim(best[..., None], 1))
        order.append(best)
    return torch.cat(order, 1)
