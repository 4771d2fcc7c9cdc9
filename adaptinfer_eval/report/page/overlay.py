"""What a method did to the patches of a picture: in words, and drawn over it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adaptinfer_eval.report.page import view
from adaptinfer_eval.report.page.picture import area, borders, kept_patches, merged_into, side_of

FIRST, LAST = 0.9, 0.6
"""Opacity over the patches that went at the first and at the last stage."""


def stages_of(answer: Mapping[str, Any]) -> str:
    """`133 → 27 → 3`, the patches left after each stage, or `64 merged`; empty where nothing was dropped."""
    tokens = answer["vision_tokens"]
    if "assign" in answer:
        return f"{len(np.unique(merged_into(answer['assign'], tokens)))} merged"
    return " → ".join(str(int(stays.sum())) for stays in kept_patches(answer["kept"], tokens).values())


def overlay(answer: Mapping[str, Any], image: str, title: str) -> view.Picture | None:
    """`image` under what was dropped; None where the vision tokens are not the patches of one square picture."""
    tokens = answer["vision_tokens"]
    side = side_of(tokens)
    if side is None:
        return None
    description = f"The picture as {title} has it: {stages_of(answer) or 'all'} of {tokens} patches"
    if "assign" in answer:
        merged = merged_into(answer["assign"], tokens).reshape(side, side)
        return view.Picture(image, side, description, merged=borders(merged + 1))  # 0: outside
    left = np.ones((side, side), bool)
    veils = []
    kept = [stays.reshape(side, side) for stays in kept_patches(answer["kept"], tokens).values()]
    for opacity, stays in zip(np.linspace(FIRST, LAST, len(kept)), kept, strict=True):
        veils.append(view.Veil(area(left & ~stays), round(float(opacity), 2)))
        left &= stays
    return view.Picture(image, side, description, veils, kept=borders(left) if kept else "")
