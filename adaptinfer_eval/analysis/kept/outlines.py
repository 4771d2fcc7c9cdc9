"""Shapes on a grid of patches, in units of patches: the rectangles of a mask, the lines between groups.

Geometry for both renderers; as an SVG path in a view box `0 0 n n`, or as corners for any other. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Line = tuple[int, int, int, int]
"""From x, y to x, y."""


def area(mask: NDArray[np.bool_]) -> str:
    """The SVG path that covers the cells where `mask` (rows, columns) is true: a rectangle for each run in a row."""
    return "".join(f"M{x} {y}h{end - x}v1H{x}z" for y, row in enumerate(mask) for x, end in _runs(row))


def borders(labels: NDArray[np.generic]) -> str:
    """The SVG path of `lines`."""
    return "".join(f"M{x} {y}" + (f"H{to_x}" if y == to_y else f"V{to_y}") for x, y, to_x, to_y in lines(labels))


def lines(labels: NDArray[np.generic]) -> list[Line]:
    """The lines between neighbouring cells (rows, columns) of different labels, as long as they go.

    Beyond the picture's edge the label is 0 (False), so that a kept patch at the edge has a line there too.
    """
    ringed = np.pad(labels, 1)
    across = ringed[1:] != ringed[:-1]
    down = (ringed[:, 1:] != ringed[:, :-1]).T
    found = [(x - 1, y, end - 1, y) for y, row in enumerate(across) for x, end in _runs(row)]
    return found + [(x, y - 1, x, end - 1) for x, column in enumerate(down) for y, end in _runs(column)]


def _runs(row: NDArray[np.bool_]) -> Iterable[tuple[int, int]]:
    """First and last + 1 of every run of true cells."""
    steps = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(np.int8), [0]))))
    return zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True)
