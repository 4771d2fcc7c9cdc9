"""The layer at which the attention to a vision token shifts (AdaptInfer, arXiv 2508.06084, Appendix A)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHORTEST = 2
"""Layers on either side of a change, at least: the `min_size` that ruptures has by default."""
CHUNK = 4096
"""Curves computed at once: their temporary arrays stay in the processor's cache."""


def change_points(curves: ArrayLike) -> NDArray[np.int64]:
    """For each curve the first layer (0-based) behind the change of its cumulated attention (Eq. 8 to 10).

    `curves`: (n, L) numbers, the attention that a token receives at each of L layers. (n,) from 2 to L - 2.
    It is what `ruptures.Binseg(model="l2", jump=1).fit(cumulated).predict(n_bkps=1)[0]` gives, to the last bit: sums
    have its order and the precision of `curves`, and of equal gains (a curve of zeros) the last counts.
    ValueError where there are fewer than 4 layers, or numbers that are not finite or whose squares are not.
    """
    attention = np.ascontiguousarray(curves)
    if attention.ndim != 2 or attention.shape[1] < 2 * SHORTEST:
        raise ValueError(
            f"curves of shape {attention.shape}: (curves, layers) is wanted, with {2 * SHORTEST} layers or more, since "
            f"a change has {SHORTEST} on either side"
        )
    found = [_of_chunk(attention[start : start + CHUNK]) for start in range(0, len(attention), CHUNK)]
    return np.concatenate([np.empty(0, np.int64), *found])


def _of_chunk(attention: NDArray[np.generic]) -> NDArray[np.int64]:
    with np.errstate(over="ignore", invalid="ignore"):
        cumulated = np.cumsum(attention, axis=1)
        num_layers = cumulated.shape[1]
        whole = _cost(cumulated)
        if not np.isfinite(whole).all():
            raise ValueError(
                "curves have attention that is not a finite number, or too large for its squares to be one: leave such "
                "curves out, or scale them down"
            )
    places = range(SHORTEST, num_layers - SHORTEST + 1)
    gains = np.stack([whole - _cost(cumulated[:, :place]) - _cost(cumulated[:, place:]) for place in places], axis=1)
    last_greatest: NDArray[np.int64] = num_layers - SHORTEST - gains[:, ::-1].argmax(axis=1)
    return last_greatest


def _cost(segment: NDArray[np.generic]) -> NDArray[np.floating]:
    """Squared deviation from the segment's mean, summed over its layers, (n,)."""
    cost: NDArray[np.floating] = segment.var(axis=1) * segment.shape[1]
    return cost
