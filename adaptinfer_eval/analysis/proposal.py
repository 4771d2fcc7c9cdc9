"""From the distribution of attention shifts to the layers to prune after. Plain numbers, no torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

EARLY_SHARE = 8
"""The early region has at most one in so many layers."""
LATE_LAYERS = 3
"""The late region has at least so many layers."""
SPARSE = 0.25
"""Counts up to this share of the dense regions' are near zero."""
LEAST_MASS = 0.01
"""A region has at least this share of all shifts."""


def propose_layers(histogram: ArrayLike) -> list[int]:
    """Layers to prune after, for a distribution of attention shifts that is dense in an early and in a late region.

    `histogram`: (L,) how many shifts there are at each layer (0-based), or shares. Three layers, as the paper reads
    Figures 3 and A.6 (1, 10, 20 of 32 and 1, 11, 22 of 40): the largest of the early region, the first and the last of
    the late one. Empty where the distribution has no such shape. ValueError where it holds no counts.

    The rule: the regions are the two runs of layers that, with all other layers beside them, are nearest to three
    levels: with the least squared error, as in Eq. 10, on square roots, whose noise is alike at small and large counts.
    Before that, counts are cut to the largest that cannot be of the early region, whose peak may be of any height, and
    a single layer lower than both neighbours is raised to the lower of them. The early region lies in the first half
    and has an eighth of the layers at most; the late one is wider, has three layers at least and ends where a stage is
    of use, at layer L - 2 or before. It is the paper's shape if, between the regions and behind them, the median count
    is at most a quarter of the early region's largest and of the late one's median, and each region has at least a
    hundredth of all shifts.
    """
    counts = np.asarray(histogram, dtype=float)
    if counts.ndim != 1 or not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("histogram: one number per layer is wanted, none of them negative, infinite or not a number")
    if not counts.any():
        return []
    shares = counts / counts.max()  # first, so that no sum is too large
    shares /= shares.sum()
    regions = _two_regions(np.sqrt(_level(shares)))
    if regions is None:
        return []
    early, late = regions
    dense = min(shares[early].max(), float(np.median(shares[late])))
    sparse = max(_median(shares[early.stop : late.start]), _median(shares[late.stop :]))
    if dense == 0 or sparse > SPARSE * dense or min(shares[early].sum(), shares[late].sum()) < LEAST_MASS:
        return []
    return [early.start + int(shares[early].argmax()), late.start, late.stop - 1]


def _level(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares without the early region's height and without holes of a single layer."""
    beyond_early = min(_early_layers(len(shares)), len(shares) - 1)
    cut: NDArray[np.float64] = np.minimum(shares, np.sort(shares)[::-1][beyond_early])
    level = cut.copy()
    level[1:-1] = np.maximum(cut[1:-1], np.minimum(cut[:-2], cut[2:]))
    return level


def _early_layers(num_layers: int) -> int:
    return max(1, num_layers // EARLY_SHARE)


def _two_regions(heights: NDArray[np.float64]) -> tuple[slice, slice] | None:
    """The early and the late run of layers with the least squared error; None where there are too few layers."""
    num_layers = len(heights)
    first, last = np.triu_indices(num_layers)
    width = last - first + 1
    sums = np.concatenate([[0.0], heights.cumsum()])
    inside = sums[last + 1] - sums[first]
    early = np.flatnonzero((width <= _early_layers(num_layers)) & (last < num_layers // 2))[:, None]
    late = np.flatnonzero((width >= LATE_LAYERS) & (last <= num_layers - 2))
    allowed = (first[late] > last[early] + 1) & (width[late] > width[early])
    if not allowed.any():
        return None
    # The squared error is least where the squared sum of each level, over its width, is greatest.
    others = np.maximum(num_layers - width[early] - width[late], 1)
    explained = inside[early] ** 2 / width[early] + inside[late] ** 2 / width[late]
    explained += (sums[-1] - inside[early] - inside[late]) ** 2 / others
    row, column = np.unravel_index(np.where(allowed, explained, -1.0).argmax(), explained.shape)
    chosen = early[row, 0], late[column]
    return slice(int(first[chosen[0]]), int(last[chosen[0]]) + 1), slice(
        int(first[chosen[1]]), int(last[chosen[1]]) + 1
    )


def _median(shares: NDArray[np.float64]) -> float:
    return float(np.median(shares)) if shares.size else 0.0
