"""What is left of the patches of a picture, drawn over it for the page. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from adaptinfer_eval.analysis.kept.outlines import area, borders
from adaptinfer_eval.analysis.kept.stages import Stage, counts, side_of
from adaptinfer_eval.report.page import view

FIRST, LAST = 0.9, 0.6
"""Opacity over the patches that went at the first and at the last stage."""


def overlay(stages: Sequence[Stage], vision_tokens: int, image: str, title: str) -> view.Picture | None:
    """`image` under what was dropped; None where the vision tokens are not the patches of one square picture."""
    side = side_of(vision_tokens)
    if side is None:
        return None
    description = f"The picture as {title} has it: {counts(stages) or 'all'} of {vision_tokens} patches"
    left = np.ones(vision_tokens, bool)
    veils = []
    for opacity, stage in zip(np.linspace(FIRST, LAST, len(stages)), stages, strict=True):
        dropped = left & ~stage.left
        if dropped.any():
            veils.append(view.Veil(area(dropped.reshape(side, side)), round(float(opacity), 2)))
        left &= stage.left
    last = stages[-1] if stages else None
    return view.Picture(
        image,
        side,
        description,
        veils,
        kept=borders(last.kept.reshape(side, side)) if last else "",
        merged=borders(last.group.reshape(side, side)) if last else "",
    )
